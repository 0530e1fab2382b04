//! Who is calling, as the kernel tells it.
//!
//! ```text
//! peer address --netns--> namespaces that own it --sock_diag--> socket: cookie, cgroup --cgroup_tree--> pod UID, container id
//! ```
//!
//! Nothing here believes an address: it only says where to ask. The socket that the kernel finds in that namespace, with exactly
//! this connection's four-tuple, was created by a process of one cgroup, and the cgroup is the identity.

pub mod cgroup_path;
pub mod cgroup_tree;
pub mod netns;
pub mod resolver;
mod scanner;
pub mod self_test;
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
    /// What it connected to: a metadata address, port 80.
    pub server: SocketAddr,
}

/// A network namespace by its inode: never reused while we hold a socket in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId(pub u64);

/// The client's end of a connection, as `sock_diag` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientSocket {
    /// Where it was found.
    pub netns: NetnsId,
    /// Whether that is the node's own namespace.
    pub host: bool,
    /// The kernel's id of this very socket: a later one with the same four-tuple has another.
    pub cookie: u64,
    /// The cgroup of the process that created it; fixed from then on.
    pub cgroup: u64,
}

/// A client socket and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The socket.
    pub socket: ClientSocket,
    /// The pod and container of its cgroup.
    pub identity: KernelIdentity,
}

/// What the namespaces say about a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// The number of netns that own the peer's address.
    pub owners: usize,
    /// Established client sockets found in them. More than one: somebody claims an address that is not its own.
    pub found: Vec<ClientSocket>,
}

/// The kernel, as far as identity goes. The real one is [`netns::NodeKernel`].
pub trait Kernel: Send + Sync + 'static {
    /// Asks every namespace known to own the peer's address. Costs a few microseconds and never blocks.
    fn sockets(&self, connection: &Connection) -> io::Result<Sockets>;

    /// Asks one namespace again; `None` when the socket, or the namespace, is gone.
    fn socket_in(&self, netns: NetnsId, connection: &Connection) -> io::Result<Option<ClientSocket>>;

    /// Whose cgroup this is, if it is known to be a container's.
    fn identity(&self, cgroup: u64) -> Option<KernelIdentity>;

    /// Looks for namespaces and addresses that are not known yet. Rate-limited: returns when a scan that began after the call has
    /// ended.
    fn rescan_netns(&self) -> impl Future<Output = ()> + Send;

    /// Looks for cgroups that are not known yet; as above.
    fn rescan_cgroups(&self) -> impl Future<Output = ()> + Send;
}
