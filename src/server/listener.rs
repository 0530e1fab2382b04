//! The listening sockets, and how to tell that a connection was made to the metadata address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::caller::Connection;
use crate::types::{METADATA_PORT, is_metadata};

/// The length of the accept queue: enough for all pods of a node to connect at once.
const BACKLOG: i32 = 4096;

/// A bound socket that no runtime drives yet.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::TcpListener,
    arrival: Arrival,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    arrival: Arrival,
}

/// How connections reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// By the table's DNAT: conntrack knows which address the pod connected to.
    Redirected,
    /// By the routing guard: the pod connected to the socket's own address.
    Direct,
}

// === impl Bound ===

impl Bound {
    /// Listens on one of podrole's link-local addresses, where the table's DNAT sends connections.
    pub fn redirected(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: bind(address, false)?, arrival: Arrival::Redirected })
    }

    /// The metadata listener: listens on a metadata address itself, which no interface of the node has. The routing guard delivers
    /// packets to it.
    pub fn direct(metadata: IpAddr) -> io::Result<Self> {
        Ok(Self { socket: bind((metadata, METADATA_PORT).into(), true)?, arrival: Arrival::Direct })
    }

    /// Hands the socket to the current runtime.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener { socket: TcpListener::from_std(self.socket)?, arrival: self.arrival })
    }
}

// === impl Listener ===

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// Returns the connection as the pod sees it, or `None` if the connection was not made to port 80 of a metadata address.
    pub(super) fn connection(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Connection> {
        let server = match self.arrival {
            Arrival::Redirected => original_destination(stream, peer).ok()?,
            Arrival::Direct => stream.local_addr().ok()?,
        };
        let ours = is_metadata(server.ip()) && server.port() == METADATA_PORT && server.is_ipv4() == peer.is_ipv4();
        // Scope and flow label do not identify a caller, and sock_diag is asked without them.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        ours.then(|| Connection { peer: plain(peer), server: plain(server) })
    }
}

/// Makes the stream close with a TCP reset, so that the peer sees a closed port.
pub(super) fn reset(stream: &TcpStream) {
    // The caller drops the stream. With a linger time of zero, the drop sends a reset.
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

fn original_destination(stream: &TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if peer.is_ipv4() { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    address.as_socket().ok_or_else(|| io::Error::other("the original destination is not an IP address"))
}

fn bind(address: SocketAddr, foreign: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections that a previous instance closed linger in TIME_WAIT, and must not make the bind fail. Another listener on the
    // address still makes the bind fail.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // One family per socket: on a dual-stack socket the original destination of IPv4 peers cannot be read.
        socket.set_only_v6(true)?;
    }
    if foreign {
        // The node does not have this address. Without `freebind`, the bind fails; without `transparent`, answers have no route
        // back to the pod.
        if address.is_ipv4() {
            socket.set_freebind_v4(true)?;
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_freebind_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
