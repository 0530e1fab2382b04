//! The network namespaces (netns) of this node: which of them have an address, and which sockets are in them.
//!
//! One thread enters each netns once (`setns` moves a thread, not the process), opens two netlink sockets there and returns. From
//! then on, any thread can query the netns through these sockets. An open socket keeps its netns alive, so both are closed when the
//! name of the netns is removed.

mod addresses;
mod scan;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cgroup_tree::{CgroupScan, CgroupTree};
use super::dir_watch::DirWatch;
use super::scanner::Scanner;
use super::shortages::Shortages;
use super::sock_diag::{Found, Lookup, SockDiag};
use super::{ClientSocket, Connection, Coverage, Kernel, NetnsId, Sockets};
use crate::token_bucket::Rate;
use crate::types::KernelIdentity;

use scan::NetnsScan;

pub use scan::survey;

/// Failed lookups may cause a burst of five full scans of the netns, and five full scans a second in the long run.
const NETNS_RATE: Rate = Rate { burst: 5, every: Duration::from_millis(200) };
/// The rate for cgroups is half as high, because their scan takes longer. Notifications report pods and containers; only cgroups
/// that containers create for themselves need full scans.
const CGROUP_RATE: Rate = Rate { burst: 5, every: Duration::from_millis(400) };

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
    /// The indexes of the netns' interfaces, as of the last listing.
    interfaces: ArcSwap<Vec<u32>>,
}

// === impl NodeKernel ===

impl NodeKernel {
    /// Scans once, then starts to watch. The netns of the calling process counts as the node's own.
    pub fn start(settings: &Settings, shortages: Arc<Shortages>) -> io::Result<Self> {
        let table = Arc::new(ArcSwap::<Table>::default());
        let (netns_scanner, requests) = Scanner::new();
        let watch = DirWatch::new(netns_scanner.clone());
        let mut scan = NetnsScan::new(settings.netns_dir.clone(), table.clone(), watch, shortages.clone())?;
        requests.run("podrole-netns", NETNS_RATE, move |kind| scan.run(kind))?;

        let cgroups = Arc::new(CgroupTree::default());
        let (cgroup_scanner, requests) = Scanner::new();
        let watch = DirWatch::new(cgroup_scanner.clone());
        let mut scan = CgroupScan::new(settings.cgroup_root.clone(), cgroups.clone(), watch, shortages);
        requests.run("podrole-cgroup", CGROUP_RATE, move |kind| scan.run(kind))?;
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

    async fn rescan_netns(&self) -> Coverage {
        self.netns_scanner.rescan().await
    }

    async fn rescan_cgroups(&self) -> Coverage {
        self.cgroup_scanner.rescan().await
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
