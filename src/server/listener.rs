//! The sockets pods reach us by, and how to tell that a connection really was for the metadata address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::caller::Connection;
use crate::types::{METADATA_PORT, is_metadata};

/// Enough for a burst of a node's pods that all start together.
const BACKLOG: i32 = 4096;

/// A bound socket that has not been given to a runtime yet.
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

/// How connections come to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// By the table's DNAT: conntrack knows what the pod connected to.
    Redirected,
    /// By the second lock: the socket's own address is what the pod connected to.
    Direct,
}

// === impl Bound ===

impl Bound {
    /// Listens on one of our own addresses, where the table's DNAT leads.
    pub fn redirected(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: bind(address, false)?, arrival: Arrival::Redirected })
    }

    /// Listens on a metadata address itself, which is nobody's on this node: the second lock delivers here.
    pub fn direct(metadata: IpAddr) -> io::Result<Self> {
        Ok(Self { socket: bind((metadata, METADATA_PORT).into(), true)?, arrival: Arrival::Direct })
    }

    /// Hands the socket to the calling thread's runtime.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener { socket: TcpListener::from_std(self.socket)?, arrival: self.arrival })
    }
}

// === impl Listener ===

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// The connection as the pod sees it; `None` if it was not for a metadata address, port 80.
    pub(super) fn connection(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Connection> {
        let server = match self.arrival {
            Arrival::Redirected => original_destination(stream, peer).ok()?,
            Arrival::Direct => stream.local_addr().ok()?,
        };
        let ours = is_metadata(server.ip()) && server.port() == METADATA_PORT && server.is_ipv4() == peer.is_ipv4();
        // A scope or flow label is no part of who somebody is, and sock_diag is asked without.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        ours.then(|| Connection { peer: plain(peer), server: plain(server) })
    }
}

/// Closes at once, with a reset: to whoever is there, nobody is.
pub(super) fn reset(stream: &TcpStream) {
    // The drop that follows closes; without linger it would do so politely.
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

fn original_destination(stream: &TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if peer.is_ipv4() { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    address.as_socket().ok_or_else(|| io::Error::other("an original destination that is no address"))
}

fn bind(address: SocketAddr, foreign: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections that a previous instance closed linger in TIME_WAIT; another listener on the address still refuses the bind.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // One family a socket: on a dual-stack one the original destination of IPv4 peers cannot be read.
        socket.set_only_v6(true)?;
    }
    if foreign {
        // Not an address of this node: without the first the bind fails, without the second answers have no route back.
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
