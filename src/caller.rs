//! Identifies callers by what the kernel reports about their sockets.
//!
//! ```text
//! peer address --netns--> network namespaces that hold it --sock_diag--> socket: cookie, cgroup --cgroup_tree--> pod UID, container id
//! ```
//!
//! An address is never proof: it only determines which network namespaces podrole asks. In such a namespace, the kernel finds the
//! socket with exactly this four-tuple. The cgroup of the process that created the socket identifies the caller.

pub mod cgroup_path;
pub mod cgroup_tree;
mod dir_watch;
pub mod netns;
pub mod resolver;
mod scanner;
pub mod self_test;
pub mod shortages;
pub mod sock_diag;

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use crate::types::KernelIdentity;

/// A connection as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The pod's address and port.
    pub peer: SocketAddr,
    /// The address that the pod connected to: a metadata address, port 80.
    pub server: SocketAddr,
}

/// A network namespace, by its inode. The kernel does not reuse the number while podrole has a socket in that namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId(pub u64);

/// The client's end of a connection, as `sock_diag` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientSocket {
    /// The network namespace that holds the socket.
    pub netns: NetnsId,
    /// Whether that is the node's own network namespace.
    pub host: bool,
    /// The kernel's id of this socket. A later socket with the same four-tuple has a different id.
    pub cookie: u64,
    /// The cgroup of the process that created the socket. A socket's cgroup never changes.
    pub cgroup: u64,
}

/// A client socket and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The socket.
    pub socket: ClientSocket,
    /// The pod and container to which the socket's cgroup belongs.
    pub identity: KernelIdentity,
}

/// The client sockets of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// The number of network namespaces that hold the peer's address.
    pub owners: usize,
    /// The client sockets found in those namespaces. More than one means that some namespace holds an address that does not belong
    /// to its pod.
    pub found: Vec<ClientSocket>,
    /// Whether the kernel finds a socket of the connection in some network namespace but does not report the socket's owner.
    pub unowned: bool,
}

/// How much a scan has covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Only changes, or not all objects because some could not be read. An object that a lookup does not find may still exist.
    Partial,
    /// All objects. An object that a lookup does not find does not exist.
    Complete,
}

/// What identification needs from the kernel. [`netns::NodeKernel`] is the real implementation.
pub trait Kernel: Send + Sync + 'static {
    /// Asks every network namespace that is known to have the peer's address. Returns within a few microseconds and never blocks.
    fn sockets(&self, connection: &Connection) -> io::Result<Sockets>;

    /// Asks one network namespace again. Returns `None` if the socket or the netns is gone.
    fn socket_in(&self, netns: NetnsId, connection: &Connection) -> io::Result<Option<ClientSocket>>;

    /// The pod and container of a cgroup, if the cgroup is known to belong to a container.
    fn identity(&self, cgroup: u64) -> Option<KernelIdentity>;

    /// Scans for network namespaces and addresses that are not known yet. Rate-limited. Returns once a scan that started after this
    /// call is complete.
    fn rescan_netns(&self) -> impl Future<Output = Coverage> + Send;

    /// Scans for cgroups that are not known yet. Rate-limited. Returns once a scan that started after this call is complete.
    fn rescan_cgroups(&self) -> impl Future<Output = Coverage> + Send;
}
