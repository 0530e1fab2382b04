//! Keeps the table of network namespaces up to date. Runs on a thread of its own, because it moves into each netns.

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
use netlink_sys::Socket;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, warn};

use super::super::dir_watch::DirWatch;
use super::super::scanner::{Scan, Scanned};
use super::super::shortages::{Shortage, Shortages, is_shortage};
use super::super::sock_diag::SockDiag;
use super::super::{Coverage, NetnsId};
use super::{Netns, Table, addresses};

/// The name of a netns appears before the netns is mounted, and the netns is mounted before it gets its address. Pending names are
/// therefore scanned again, soon at first ([`PENDING_SOON`] scans), then less often (up to [`PENDING_MOST`] scans), and after that
/// only when a lookup fails: a name that never gets an address, such as that of another program's sandbox, must not keep podrole
/// busy.
const RETRY_SOON: Duration = Duration::from_millis(20);
const RETRY_LATER: Duration = Duration::from_millis(200);
const PENDING_SOON: u32 = 15;
const PENDING_MOST: u32 = 50;
/// The time between two scans while a netns or the directory of names cannot be read or watched.
const RETRY_SHORTAGE: Duration = Duration::from_millis(500);

/// The state of the scanning thread.
#[derive(Debug)]
pub(super) struct NetnsScan {
    directory: PathBuf,
    table: Arc<ArcSwap<Table>>,
    watch: DirWatch,
    shortages: Arc<Shortages>,
    /// The node's netns, to which the thread returns.
    home: File,
    /// The device number of the file system that contains the files of all netns.
    nsfs: u64,
    open: HashMap<NetnsId, Open>,
    /// The netns that was last found at each name.
    names: HashMap<PathBuf, NetnsId>,
    /// Names that are not mounted yet and netns without an address, each with the number of earlier scans that already found it
    /// pending.
    pending: HashMap<PathBuf, u32>,
}

#[derive(Debug)]
struct Open {
    netns: Arc<Netns>,
    /// `None` if the last listing was not read to its end, because the next request would receive the rest as its answer.
    route: Option<Socket>,
    /// The addresses that the last listing returned.
    addresses: Vec<IpAddr>,
}

/// The state of one scan while it runs.
struct Pass {
    scan: Scan,
    seen: HashMap<NetnsId, Open>,
    names: HashMap<PathBuf, NetnsId>,
    table: Table,
    /// Why some entry could not be read. Such an entry is kept as it was, so the table may lack an object that exists.
    unread: Option<io::Error>,
}

// === impl NetnsScan ===

impl NetnsScan {
    pub(super) fn new(
        directory: PathBuf,
        table: Arc<ArcSwap<Table>>,
        watch: DirWatch,
        shortages: Arc<Shortages>,
    ) -> io::Result<Self> {
        // The thread's netns, which differs from the process's after `setns`.
        let home = File::open("/proc/thread-self/ns/net")?;
        let nsfs = home.metadata()?.dev();
        Ok(Self {
            directory,
            table,
            watch,
            shortages,
            home,
            nsfs,
            open: HashMap::new(),
            names: HashMap::new(),
            pending: HashMap::new(),
        })
    }

    /// Runs one scan. Entries that cannot be read are kept as they were.
    pub(super) fn run(&mut self, scan: Scan) -> Scanned {
        self.watch.take();
        // `add` returns the existing watch if there is one.
        let unwatched = self.watch.add(&self.directory).err();
        self.shortages.report(Shortage::NetnsWatch, unwatched.as_ref());
        let unread = match self.names() {
            Ok(names) => self.visit_all(scan, names),
            Err(error) => Some(error),
        };
        self.shortages.report(Shortage::NetnsScan, unread.as_ref());
        let coverage = if unread.is_none() { Coverage::Complete } else { Coverage::Partial };
        let pending = self.pending.values().min().and_then(|newest| {
            if *newest < PENDING_SOON { Some(RETRY_SOON) } else { (*newest < PENDING_MOST).then_some(RETRY_LATER) }
        });
        let shortage = (unwatched.is_some() || unread.is_some()).then_some(RETRY_SHORTAGE);
        Scanned { coverage, again: pending.into_iter().chain(shortage).min() }
    }

    fn names(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.directory) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            // The directory is missing because no pod with its own network has been started since boot.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Visits the node's netns and those of `names`, then publishes the table. Returns the error if some entry could not be read.
    fn visit_all(&mut self, scan: Scan, names: Vec<PathBuf>) -> Option<io::Error> {
        let mut pass = Pass {
            scan,
            seen: HashMap::with_capacity(self.open.len()),
            names: HashMap::with_capacity(names.len()),
            table: Table::default(),
            unread: None,
        };
        self.visit_node(&mut pass);
        let mut pending = HashMap::new();
        for path in names {
            let settled = self.visit_name(&path, &mut pass);
            let scans = self.pending.get(&path).map_or(0, |scans| scans + 1);
            if !settled {
                pending.insert(path, scans);
            }
        }
        // This closes the sockets in netns that the scan did not see. Only these sockets kept those netns alive.
        self.open = pass.seen;
        self.names = pass.names;
        self.pending = pending;
        self.table.store(Arc::new(pass.table));
        pass.unread
    }

    fn visit_node(&mut self, pass: &mut Pass) {
        let id = self.home.metadata().map(|meta| NetnsId(meta.ino()));
        let visited = id.and_then(|id| self.visit(id, Path::new("(node)"), None, pass));
        if let Err(error) = visited {
            self.cannot_open(Path::new("(node)"), error, pass);
        }
    }

    /// Adds the netns of one name to the pass. Returns false while the netns cannot be opened or has no address.
    fn visit_name(&mut self, path: &Path, pass: &mut Pass) -> bool {
        let visited = match self.id_of(path) {
            Ok(Some(id)) => self.visit(id, path, Some(path), pass),
            Ok(None) => return false,
            Err(error) => Err(error),
        };
        visited.unwrap_or_else(|error| self.cannot_open(path, error, pass))
    }

    /// The netns that is mounted at `path`. `None` if the name is not mounted yet, is gone again, or is not a netns.
    fn id_of(&self, path: &Path) -> io::Result<Option<NetnsId>> {
        match fs::metadata(path) {
            Ok(meta) => Ok((meta.dev() == self.nsfs).then_some(NetnsId(meta.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Handles a netns that cannot be opened. If the failure may pass, keeps what is known about the netns.
    fn cannot_open(&mut self, path: &Path, error: io::Error, pass: &mut Pass) -> bool {
        if is_shortage(&error) {
            if let Some((id, open)) = self.names.get(path).and_then(|id| self.open.remove_entry(id)) {
                pass.names.insert(path.to_owned(), id);
                pass.add(id, open);
            }
            pass.unread = Some(error);
        } else if self.pending.contains_key(path) {
            // The first failure was logged as a warning; every scan tries again.
            debug!(netns = %path.display(), %error, "Still cannot open sockets in a network namespace; retrying at the next scan");
        } else {
            warn!(netns = %path.display(), %error, "Cannot open sockets in a network namespace; its pods are not served until a retry succeeds");
        }
        false
    }

    /// Adds one netns to the pass: the one that `file` leads to, or the node's own without a `file`. Returns whether the netns
    /// has an address.
    fn visit(&mut self, id: NetnsId, path: &Path, file: Option<&Path>, pass: &mut Pass) -> io::Result<bool> {
        pass.names.insert(path.to_owned(), id);
        if pass.seen.contains_key(&id) {
            return Ok(true);
        }
        let mut open = match self.open.remove(&id) {
            Some(open) => open,
            None => self.enter(id, file)?,
        };
        // An incremental scan misses an address that was added later. The first request from that address then finds nothing and
        // causes a full scan.
        if (pass.scan == Scan::Full || open.addresses.is_empty())
            && let Err(error) = self.list(id, &mut open, file)
        {
            debug!(netns = %path.display(), %error, "Cannot list the addresses of a network namespace; keeping the last known addresses and retrying");
            if is_shortage(&error) {
                pass.unread = Some(error);
            }
        }
        let settled = !open.addresses.is_empty();
        pass.add(id, open);
        Ok(settled)
    }

    /// Lists the addresses of a netns again.
    fn list(&self, id: NetnsId, open: &mut Open, file: Option<&Path>) -> io::Result<()> {
        let route = match open.route.take() {
            Some(route) => route,
            None => self.within(id, file, addresses::socket)?,
        };
        let listing = addresses::list(&route)?;
        open.addresses = listing.addresses;
        open.netns.interfaces.store(Arc::new(listing.interfaces));
        open.route = listing.complete.then_some(route);
        Ok(())
    }

    fn enter(&self, id: NetnsId, file: Option<&Path>) -> io::Result<Open> {
        let (diag, route) = self.within(id, file, || Ok((SockDiag::open()?, addresses::socket()?)))?;
        let netns = Netns { id, host: file.is_none(), diag, interfaces: ArcSwap::default() };
        Ok(Open { netns: Arc::new(netns), route: Some(route), addresses: Vec::new() })
    }

    /// Runs `work` in the netns `id`, to which `file` leads, or in the node's netns without a `file`.
    fn within<T>(&self, id: NetnsId, file: Option<&Path>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let into = |file: &File| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        let Some(path) = file else { return work() };
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.dev() != self.nsfs || NetnsId(meta.ino()) != id {
            return Err(io::Error::other("the name leads to another network namespace than a moment ago"));
        }
        into(&file)?;
        let result = work();
        // A thread that stayed in the pod's netns would open all later sockets there.
        into(&self.home).expect("a thread can return to the netns it came from");
        result
    }
}

// === impl Pass ===

impl Pass {
    fn add(&mut self, id: NetnsId, open: Open) {
        self.table.by_id.insert(id, open.netns.clone());
        for address in &open.addresses {
            self.table.by_address.entry(*address).or_default().push(open.netns.clone());
        }
        self.seen.insert(id, open);
    }
}

/// Counts the entries of `directory`: those that are netns, and the others.
pub fn survey(directory: &Path) -> io::Result<(usize, usize)> {
    let nsfs = fs::metadata("/proc/thread-self/ns/net")?.dev();
    let (mut found, mut others) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let is_netns = fs::metadata(entry?.path()).is_ok_and(|meta| meta.dev() == nsfs);
        if is_netns { found += 1 } else { others += 1 }
    }
    Ok((found, others))
}
