//! The network namespaces of this node: which owns an address, and what socket it holds.
//!
//! One thread enters each namespace once (`setns` moves a thread, not a process), opens two netlink sockets there and leaves; from
//! then on any thread asks through them. An open socket keeps its namespace alive, so both go when the namespace's name goes.

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
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use rustix::fs::inotify;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, warn};

use super::cgroup_tree::CgroupTree;
use super::scanner::{Look, Rate, Scanner};
use super::sock_diag::SockDiag;
use super::{ClientSocket, Connection, Kernel, NetnsId, Sockets};
use crate::types::KernelIdentity;

/// Misses may cause this many scans at once, and five a second in the long run.
const NAMESPACE_RATE: Rate = Rate { burst: 5, every: Duration::from_millis(200) };
/// A walk of the cgroup tree is cheaper, and every container's start needs one.
const CGROUP_RATE: Rate = Rate { burst: 20, every: Duration::from_millis(50) };
/// A pod has a handful of addresses. One that adds thousands must not make us hold them.
const MAX_ADDRESSES: usize = 64;
/// The notification of a namespace's name comes before it is mounted, and that before its address: look again soon, then less
/// often, then leave it to misses. A name that never gets an address (a sandbox of somebody else's) must not keep us busy.
const YOUNG_RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
const YOUNG_RETRIES: (u32, u32) = (15, 50);
/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: u64 = 0x6e73_6673;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of namespace names, `/run/netns`.
    pub netns_dir: PathBuf,
    /// The cgroup2 mount, `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
}

/// The namespaces and cgroups of this node, kept up to date.
#[derive(Debug)]
pub struct Namespaces {
    table: Arc<ArcSwap<Table>>,
    cgroups: Arc<CgroupTree>,
    namespace_scanner: Scanner,
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
}

// === impl Namespaces ===

impl Namespaces {
    /// Scans once, then watches. The calling process's own network namespace is the node's.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let table = Arc::new(ArcSwap::<Table>::default());
        let mut scan = Scan::new(settings.netns_dir.clone(), table.clone())?;
        let namespace_scanner = Scanner::spawn("podrole-netns", NAMESPACE_RATE, move |look| scan.run(look))?;
        notify(&settings.netns_dir, namespace_scanner.clone())?;
        let cgroups = Arc::new(CgroupTree::new(settings.cgroup_root.clone()));
        let tree = cgroups.clone();
        let cgroup_scanner = Scanner::spawn("podrole-cgroup", CGROUP_RATE, move |_| {
            tree.walk();
            None
        })?;
        Ok(Self { table, cgroups, namespace_scanner, cgroup_scanner })
    }

    /// How many namespaces are open, the node's own included.
    pub fn count(&self) -> usize {
        self.table.load().by_id.len()
    }
}

impl Kernel for Namespaces {
    fn sockets(&self, connection: &Connection) -> io::Result<Sockets> {
        let table = self.table.load();
        let Some(owners) = table.by_address.get(&connection.peer.ip()) else { return Ok(Sockets::default()) };
        let mut found = Vec::with_capacity(1);
        for netns in owners {
            found.extend(netns.client_socket(connection)?);
        }
        Ok(Sockets { namespaces: owners.len(), found })
    }

    fn socket_in(&self, netns: NetnsId, connection: &Connection) -> io::Result<Option<ClientSocket>> {
        match self.table.load().by_id.get(&netns) {
            None => Ok(None),
            Some(netns) => netns.client_socket(connection),
        }
    }

    fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.cgroups.identity(cgroup)
    }

    async fn rescan_namespaces(&self) {
        self.namespace_scanner.look().await;
    }

    async fn rescan_cgroups(&self) {
        self.cgroup_scanner.look().await;
    }
}

impl Netns {
    fn client_socket(&self, connection: &Connection) -> io::Result<Option<ClientSocket>> {
        let found = self.diag.established(connection)?;
        Ok(found.map(|found| ClientSocket {
            netns: self.id,
            host: self.host,
            cookie: found.cookie,
            cgroup: found.cgroup,
        }))
    }
}

/// The scanning thread's own state.
struct Scan {
    directory: PathBuf,
    table: Arc<ArcSwap<Table>>,
    home: File,
    open: HashMap<NetnsId, Open>,
    /// Names that are no namespace yet, and namespaces without an address yet: how often they were looked at.
    young: HashMap<PathBuf, u32>,
}

struct Open {
    netns: Arc<Netns>,
    route: Socket,
    /// As of the last time they were asked for.
    addresses: Vec<IpAddr>,
}

// === impl Scan ===

impl Scan {
    fn new(directory: PathBuf, table: Arc<ArcSwap<Table>>) -> io::Result<Self> {
        // The thread's, not the process's: they differ after a thread has moved.
        let home = File::open("/proc/thread-self/ns/net")?;
        Ok(Self { directory, table, home, open: HashMap::new(), young: HashMap::new() })
    }

    /// One pass. Returns when to look again on our own account.
    fn run(&mut self, look: Look) -> Option<Duration> {
        let mut table = Table::default();
        let mut seen = HashMap::new();
        let home = match self.home.try_clone() {
            Ok(home) => home,
            Err(error) => {
                warn!(%error, "Cannot scan network namespaces");
                return Some(YOUNG_RETRY.1);
            }
        };
        self.visit(Path::new("(node)"), &home, true, look, &mut seen, &mut table);
        let mut young = HashMap::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let settled =
                open_nsfs(&path).is_some_and(|file| self.visit(&path, &file, false, look, &mut seen, &mut table));
            let looks = self.young.get(&path).map_or(0, |looks| looks + 1);
            if !settled {
                young.insert(path, looks);
            }
        }
        // Whatever was not seen is closed here, and with it the last thing that kept a dead namespace alive.
        self.open = seen;
        self.young = young;
        self.table.store(Arc::new(table));
        let youngest = self.young.values().min()?;
        if *youngest < YOUNG_RETRIES.0 {
            Some(YOUNG_RETRY.0)
        } else {
            (*youngest < YOUNG_RETRIES.1).then_some(YOUNG_RETRY.1)
        }
    }

    /// Adds one namespace to what will be the new table. `false`: it has no address yet.
    fn visit(
        &mut self,
        path: &Path,
        file: &File,
        host: bool,
        look: Look,
        seen: &mut HashMap<NetnsId, Open>,
        table: &mut Table,
    ) -> bool {
        let Ok(id) = file.metadata().map(|meta| NetnsId(meta.ino())) else { return false };
        if seen.contains_key(&id) {
            return true;
        }
        let mut open = match self.open.remove(&id).map_or_else(|| self.enter(id, file, host), Ok) {
            Ok(open) => open,
            // Once: it is tried again at every scan.
            Err(error) if self.young.contains_key(path) => {
                debug!(netns = %path.display(), %error, "Still no sockets in a network namespace");
                return false;
            }
            Err(error) => {
                warn!(netns = %path.display(), %error, "Cannot open sockets in a network namespace; its pods are not served");
                return false;
            }
        };
        // Whoever asks from an address that a namespace got later is missed, and a miss is a look at everything.
        let mut complete = true;
        if look == Look::Everything || open.addresses.is_empty() {
            (open.addresses, complete) = addresses(&open.route).unwrap_or_else(|error| {
                debug!(netns = %path.display(), %error, "Cannot list a namespace's addresses");
                (Vec::new(), false)
            });
        }
        table.by_id.insert(id, open.netns.clone());
        for address in &open.addresses {
            table.by_address.entry(*address).or_default().push(open.netns.clone());
        }
        let settled = !open.addresses.is_empty();
        // What is left of a dump on a socket would answer the next question: that one is opened anew.
        if complete {
            seen.insert(id, open);
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
            // Staying in a pod's namespace would answer every later question from there.
            into(&self.home).expect("a thread can return to the namespace it came from");
        }
        let (diag, route) = opened?;
        Ok(Open { netns: Arc::new(Netns { id, host, diag }), route, addresses: Vec::new() })
    }
}

/// What stands in `directory`: how many network namespaces, and how many names that are none.
pub fn survey(directory: &Path) -> io::Result<(usize, usize)> {
    let (mut namespaces, mut others) = (0, 0);
    for entry in fs::read_dir(directory)? {
        if open_nsfs(&entry?.path()).is_some() { namespaces += 1 } else { others += 1 }
    }
    Ok((namespaces, others))
}

/// `None`: not mounted yet, gone again, or no namespace at all.
fn open_nsfs(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type;
    (u64::try_from(kind).ok()? == NSFS).then_some(file)
}

fn route_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// The namespace's addresses that a connection could come from, loopback and link-local ones left out, and whether these are all:
/// a pod that adds a hundred thousand costs no more than one that has [`MAX_ADDRESSES`].
///
/// Family by family: asked for both at once the kernel takes the lock of all network configuration, for which every namespace that
/// comes or goes on the node queues up (p99 5 ms a namespace under churn; without it 0.07 ms).
fn addresses(socket: &Socket) -> io::Result<(Vec<IpAddr>, bool)> {
    let mut found = Vec::new();
    let complete = list(socket, AddressFamily::Inet, &mut found)? && list(socket, AddressFamily::Inet6, &mut found)?;
    Ok((found, complete))
}

/// `false`: there are more, and what is left of the answer is still in the socket.
fn list(socket: &Socket, family: AddressFamily, found: &mut Vec<IpAddr>) -> io::Result<bool> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut ask = AddressMessage::default();
    ask.header.family = family;
    let ask = RouteNetlinkMessage::GetAddress(ask);
    let mut ask = NetlinkMessage::new(header, NetlinkPayload::from(ask));
    ask.finalize();
    let mut bytes = vec![0; ask.buffer_len()];
    ask.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
            if let NetlinkPayload::Done(_) = message.payload {
                return Ok(true);
            }
            if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            }
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) = &message.payload {
                found.extend(usable_address(address));
            }
            if found.len() >= MAX_ADDRESSES {
                return Ok(false);
            }
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
    }
}

fn usable_address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link IFA_ADDRESS is the other end's; IFA_LOCAL, where it is given, is ours.
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(local) = attribute {
            address = Some(*local);
        } else if let AddressAttribute::Address(other) = attribute {
            address = address.or(Some(*other));
        }
    }
    let address = address?;
    let usable = match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    usable.then_some(address)
}

/// A thread that turns the directory's changes into looks. It lives as long as the process.
fn notify(directory: &Path, scanner: Scanner) -> io::Result<()> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let watched = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
    if let Err(error) = inotify::add_watch(&inotify, directory, watched) {
        // Every miss still causes a scan; pods are found a little later.
        warn!(directory = %directory.display(), %error, "Cannot watch the directory of network namespaces");
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
