//! The network namespaces (netns) of this node: which of them own an address, and which sockets they hold.
//!
//! One thread enters each netns once (`setns` moves a thread, not the process), opens two netlink sockets there and returns. From
//! then on any thread can query the netns through these sockets. An open socket keeps its netns alive, so both are closed when the
//! name of the netns is removed.

mod addresses;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use rustix::fs::inotify;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, warn};

use super::cgroup_tree::CgroupTree;
use super::scanner::{Scan, Scanner};
use super::sock_diag::{Found, Lookup, SockDiag};
use super::{ClientSocket, Connection, Kernel, NetnsId, Sockets};
use crate::token_bucket::Rate;
use crate::types::KernelIdentity;

/// Failed lookups may cause five scans of the netns at once, and five a second in the long run.
const NETNS_RATE: Rate = Rate { burst: 5, every: Duration::from_millis(200) };
/// A walk of the cgroup tree is cheaper, and every container that starts needs one.
const CGROUP_RATE: Rate = Rate { burst: 20, every: Duration::from_millis(50) };
/// The name of a netns appears before the netns is mounted, and the netns before its address. Pending names are therefore scanned
/// again, soon at first ([`PENDING_SOON`] scans), then less often (up to [`PENDING_MOST`] scans), and after that only when a lookup
/// fails: a name that never gets an address, such as that of another program's sandbox, must not keep podrole busy.
const RETRY_SOON: Duration = Duration::from_millis(20);
const RETRY_LATER: Duration = Duration::from_millis(200);
const PENDING_SOON: u32 = 15;
const PENDING_MOST: u32 = 50;
/// `NSFS_MAGIC`, from `linux/magic.h`; no crate has it.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Where netns and cgroups are found.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of netns names, `/run/netns`.
    pub netns_dir: PathBuf,
    /// The cgroup2 mount, `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
}

/// The netns and cgroups of this node, kept up to date by two threads.
#[derive(Debug)]
pub struct NodeKernel {
    table: Arc<ArcSwap<Table>>,
    cgroups: Arc<CgroupTree>,
    netns_scanner: Scanner,
    cgroup_scanner: Scanner,
}

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<IpAddr, Vec<Arc<Netns>>>,
    by_id: HashMap<NetnsId, Arc<Netns>>,
}

#[derive(Debug)]
struct Netns {
    id: NetnsId,
    host: bool,
    diag: SockDiag,
    /// The indexes of its interfaces, as last listed.
    interfaces: ArcSwap<Vec<u32>>,
}

// === impl NodeKernel ===

impl NodeKernel {
    /// Scans once, then starts to watch. The netns of the calling process is taken as the node's.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let table = Arc::new(ArcSwap::<Table>::default());
        let mut state = ScanState::new(settings.netns_dir.clone(), table.clone())?;
        let netns_scanner = Scanner::spawn("podrole-netns", NETNS_RATE, move |scan| state.run(scan))?;
        watch_directory(&settings.netns_dir, netns_scanner.clone())?;
        let cgroups = Arc::new(CgroupTree::new(settings.cgroup_root.clone()));
        let tree = cgroups.clone();
        let cgroup_scanner = Scanner::spawn("podrole-cgroup", CGROUP_RATE, move |_| {
            tree.walk();
            None
        })?;
        Ok(Self { table, cgroups, netns_scanner, cgroup_scanner })
    }

    /// The number of open netns, the node's own included.
    pub fn netns_count(&self) -> usize {
        self.table.load().by_id.len()
    }
}

impl Kernel for NodeKernel {
    fn sockets(&self, connection: &Connection) -> io::Result<Sockets> {
        let table = self.table.load();
        let Some(owners) = table.by_address.get(&connection.peer.ip()) else { return Ok(Sockets::default()) };
        let mut sockets = Sockets { owners: owners.len(), found: Vec::with_capacity(1), unowned: false };
        for netns in owners {
            match netns.client_socket(connection)? {
                Lookup::Absent => {}
                Lookup::Unowned => sockets.unowned = true,
                Lookup::Found(found) => sockets.found.push(netns.socket(found)),
            }
        }
        Ok(sockets)
    }

    fn socket_in(&self, netns: NetnsId, connection: &Connection) -> io::Result<Option<ClientSocket>> {
        let table = self.table.load();
        let Some(netns) = table.by_id.get(&netns) else { return Ok(None) };
        match netns.client_socket(connection)? {
            Lookup::Absent | Lookup::Unowned => Ok(None),
            Lookup::Found(found) => Ok(Some(netns.socket(found))),
        }
    }

    fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.cgroups.identity(cgroup)
    }

    async fn rescan_netns(&self) {
        self.netns_scanner.rescan().await;
    }

    async fn rescan_cgroups(&self) {
        self.cgroup_scanner.rescan().await;
    }
}

impl Netns {
    /// Finds the client's end of `connection`. A socket that is bound to a device (`curl --interface if!eth0`) is found only with
    /// that device's index, so a lookup that finds nothing is repeated with the index of each interface.
    fn client_socket(&self, connection: &Connection) -> io::Result<Lookup> {
        let mut best = self.diag.client_end(connection, 0)?;
        if best != Lookup::Absent {
            return Ok(best);
        }
        for interface in self.interfaces.load().iter() {
            let lookup = self.diag.client_end(connection, *interface)?;
            best = match (best, lookup) {
                (Lookup::Absent, _) => lookup,
                (_, Lookup::Absent) => best,
                // Two sockets that are bound to different devices may have the same addresses and ports; only one of them is the
                // client's end.
                (Lookup::Found(_) | Lookup::Unowned, _) if lookup != best => Lookup::Unowned,
                (Lookup::Found(_) | Lookup::Unowned, _) => best,
            };
        }
        Ok(best)
    }

    fn socket(&self, found: Found) -> ClientSocket {
        ClientSocket { netns: self.id, host: self.host, cookie: found.cookie, cgroup: found.cgroup }
    }
}

/// The state of the scanning thread.
struct ScanState {
    directory: PathBuf,
    table: Arc<ArcSwap<Table>>,
    /// The node's netns, to which the thread returns.
    home: File,
    open: HashMap<NetnsId, Open>,
    /// Names that are not mounted yet and netns without an address, each with the number of scans that have found it so.
    pending: HashMap<PathBuf, u32>,
}

struct Open {
    netns: Arc<Netns>,
    route: Socket,
    /// As last listed.
    addresses: Vec<IpAddr>,
}

/// What one scan builds up.
struct Pass {
    scan: Scan,
    seen: HashMap<NetnsId, Open>,
    table: Table,
}

// === impl ScanState ===

impl ScanState {
    fn new(directory: PathBuf, table: Arc<ArcSwap<Table>>) -> io::Result<Self> {
        // The thread's netns, which differs from the process's after `setns`.
        let home = File::open("/proc/thread-self/ns/net")?;
        Ok(Self { directory, table, home, open: HashMap::new(), pending: HashMap::new() })
    }

    /// Runs one scan. Returns the delay until the next one if netns are pending.
    fn run(&mut self, scan: Scan) -> Option<Duration> {
        let home = match self.home.try_clone() {
            Ok(home) => home,
            Err(error) => {
                warn!(%error, "Cannot scan network namespaces; keeping the previous scan");
                return Some(RETRY_LATER);
            }
        };
        let mut pass = Pass { scan, seen: HashMap::new(), table: Table::default() };
        self.visit(Path::new("(node)"), &home, true, &mut pass);
        let mut pending = HashMap::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let settled = open_nsfs(&path).is_some_and(|file| self.visit(&path, &file, false, &mut pass));
            let scans = self.pending.get(&path).map_or(0, |scans| scans + 1);
            if !settled {
                pending.insert(path, scans);
            }
        }
        // This closes the sockets of netns that were not seen, which were all that kept these netns alive.
        self.open = pass.seen;
        self.pending = pending;
        self.table.store(Arc::new(pass.table));
        let newest = self.pending.values().min()?;
        if *newest < PENDING_SOON { Some(RETRY_SOON) } else { (*newest < PENDING_MOST).then_some(RETRY_LATER) }
    }

    /// Adds one netns to the pass. Returns false while the netns cannot be opened or has no address.
    fn visit(&mut self, path: &Path, file: &File, host: bool, pass: &mut Pass) -> bool {
        let Ok(id) = file.metadata().map(|meta| NetnsId(meta.ino())) else { return false };
        if pass.seen.contains_key(&id) {
            return true;
        }
        let mut open = match self.open.remove(&id).map_or_else(|| self.enter(id, file, host), Ok) {
            Ok(open) => open,
            // The first failure was logged as a warning; every scan tries again.
            Err(error) if self.pending.contains_key(path) => {
                debug!(netns = %path.display(), %error, "Still cannot open sockets in a network namespace; retrying at the next scan");
                return false;
            }
            Err(error) => {
                warn!(netns = %path.display(), %error, "Cannot open sockets in a network namespace; its pods are not served until a retry succeeds");
                return false;
            }
        };
        // An incremental scan misses an address that was added later. The first request from it then finds nothing, which causes a
        // full scan.
        let mut complete = true;
        if pass.scan == Scan::Full || open.addresses.is_empty() {
            let listing = addresses::list(&open.route).unwrap_or_else(|error| {
                debug!(netns = %path.display(), %error, "Cannot list the addresses of a network namespace; retrying at the next scan");
                addresses::Listing::default()
            });
            complete = listing.complete;
            open.addresses = listing.addresses;
            open.netns.interfaces.store(Arc::new(listing.interfaces));
        }
        pass.table.by_id.insert(id, open.netns.clone());
        for address in &open.addresses {
            pass.table.by_address.entry(*address).or_default().push(open.netns.clone());
        }
        let settled = !open.addresses.is_empty();
        // The rest of an incomplete answer would be read as the answer to the next request, so that socket is not kept.
        if complete {
            pass.seen.insert(id, open);
        }
        settled
    }

    fn enter(&self, id: NetnsId, file: &File, host: bool) -> io::Result<Open> {
        let into = |file: &File| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        if !host {
            into(file)?;
        }
        let opened = SockDiag::open().and_then(|diag| Ok((diag, route_socket()?)));
        if !host {
            // A thread that stayed in the pod's netns would open all later sockets there.
            into(&self.home).expect("a thread can return to the netns it came from");
        }
        let (diag, route) = opened?;
        Ok(Open {
            netns: Arc::new(Netns { id, host, diag, interfaces: ArcSwap::default() }),
            route,
            addresses: Vec::new(),
        })
    }
}

/// Counts the entries of `directory`: those that are netns, and the others.
pub fn survey(directory: &Path) -> io::Result<(usize, usize)> {
    let (mut netns, mut others) = (0, 0);
    for entry in fs::read_dir(directory)? {
        if open_nsfs(&entry?.path()).is_some() { netns += 1 } else { others += 1 }
    }
    Ok((netns, others))
}

/// `None` if the name is not mounted yet, is gone again, or is not an nsfs mount.
fn open_nsfs(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type;
    (u64::try_from(kind).ok()? == NSFS_MAGIC).then_some(file)
}

fn route_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Starts a thread that reports changes of the directory to the scanner. It runs as long as the process.
fn watch_directory(directory: &Path, scanner: Scanner) -> io::Result<()> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let watched = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
    if let Err(error) = inotify::add_watch(&inotify, directory, watched) {
        warn!(
            directory = %directory.display(), %error,
            "Cannot watch the directory of network namespaces; each new pod is found at its first request"
        );
        return Ok(());
    }
    let thread = std::thread::Builder::new().name("podrole-inotify".into());
    thread.spawn(move || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&inotify, &mut buffer);
        while events.next().is_ok() {
            scanner.changed();
        }
    })?;
    Ok(())
}
