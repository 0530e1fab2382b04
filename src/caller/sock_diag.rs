//! Exact `sock_diag` lookups over a socket that was opened once in one netns and stays open.
//!
//! The 72-byte request is built by hand: the kernel answers within the call, in about a microsecond, and a general netlink library
//! would cost more than the answer itself. The layouts are `struct inet_diag_req_v2` and `struct inet_diag_msg` of
//! `linux/inet_diag.h`.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{NLA_ALIGNTO, NLA_HEADER_SIZE, NLM_F_REQUEST, NLMSG_ERROR};
use netlink_packet_route::AddressFamily;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use rustix::io::Errno;
use rustix::net::{RecvFlags, ipproto};

use super::Connection;

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Size of a request: `nlmsghdr` and `inet_diag_req_v2`.
const REQUEST: usize = HEADER + 56;
/// Size of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// The message type of requests and answers, from `linux/sock_diag.h`; no crate has it.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Socket states, from `include/net/tcp_states.h`; no crate has them.
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_TIME_WAIT: u8 = 6;
/// The attribute `INET_DIAG_CGROUP_ID`, from `linux/inet_diag.h` (since Linux 5.7); no crate has it.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `IPPROTO_TCP` in the one byte that the request has for it.
const IPPROTO_TCP: u8 = ipproto::TCP.as_raw().get().to_le_bytes()[0];
/// `recv` never waits: the kernel queues the answer before `send` returns.
const DONTWAIT: i32 = RecvFlags::DONTWAIT.bits().cast_signed();

/// What the kernel reports about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// There is no such socket, or its owner can no longer read an answer from it.
    Absent,
    /// There is a socket, but the kernel does not say who owns it: its owner has closed it.
    Unowned,
    /// The client's end of the connection.
    Found(Found),
}

/// What the kernel reports about one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The kernel's unique id of the socket.
    pub cookie: u64,
    /// The id of the cgroup whose process created the socket.
    pub cgroup: u64,
}

/// A `sock_diag` socket in one netns.
pub struct SockDiag {
    /// The socket and the sequence number of its last request.
    socket: Mutex<(Socket, u32)>,
}

// === impl SockDiag ===

impl SockDiag {
    /// Opens a socket in the calling thread's netns.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self { socket: Mutex::new((socket, 0)) })
    }

    /// Finds the client's end of `connection`, a TCP socket whose owner can still read the answer: established, or with only its
    /// sending half closed. An IPv6 socket with a mapped IPv4 address is found too. With `interface` 0 the kernel finds only a socket
    /// that is bound to no device; with another index it also finds one that is bound to that device.
    pub fn client_end(&self, connection: &Connection, interface: u32) -> io::Result<Lookup> {
        let mut locked = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, sequence) = &mut *locked;
        *sequence = sequence.wrapping_add(1);
        socket.send(&request(connection, interface, *sequence), 0)?;
        let mut buffer = [0u8; 512];
        loop {
            let length = socket.recv(&mut &mut buffer[..], DONTWAIT)?;
            match parse(&buffer[..length.min(buffer.len())], *sequence)? {
                None => {}
                Some(lookup) => return Ok(lookup),
            }
        }
    }
}

impl std::fmt::Debug for SockDiag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SockDiag")
    }
}

fn request(connection: &Connection, interface: u32, sequence: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[0..4].copy_from_slice(&u32::try_from(REQUEST).expect("72 fits").to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[16] = AddressFamily::from(connection.server.ip()).into();
    bytes[17] = IPPROTO_TCP;
    // An exact lookup ignores the requested states.
    bytes[20..24].fill(0xff);
    bytes[24..26].copy_from_slice(&connection.peer.port().to_be_bytes());
    bytes[26..28].copy_from_slice(&connection.server.port().to_be_bytes());
    put_address(&mut bytes[28..44], connection.peer.ip());
    put_address(&mut bytes[44..60], connection.server.ip());
    bytes[60..64].copy_from_slice(&interface.to_ne_bytes());
    // A cookie of all ones (`INET_DIAG_NOCOOKIE`) matches any socket.
    bytes[64..72].fill(0xff);
    bytes
}

fn put_address(bytes: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.copy_from_slice(&v6.octets()),
    }
}

/// Parses an answer. `None` if it answers an earlier request.
fn parse(bytes: &[u8], sequence: u32) -> io::Result<Option<Lookup>> {
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "truncated or unexpected sock_diag answer");
    let header = bytes.get(..HEADER).ok_or_else(short)?;
    let (kind, answered) = (u16_at(header, 4), u32_at(header, 8));
    if answered != sequence {
        return Ok(None);
    }
    let end = usize::try_from(u32_at(header, 0)).map_err(|_| short())?;
    let body = bytes.get(HEADER..end).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let code = body.get(..4).map(|b| u32_at(b, 0).cast_signed().wrapping_neg()).ok_or_else(short)?;
        return if code == Errno::NOENT.raw_os_error() {
            Ok(Some(Lookup::Absent))
        } else {
            Err(io::Error::from_raw_os_error(code))
        };
    }
    if kind != SOCK_DIAG_BY_FAMILY || body.len() < MESSAGE {
        return Err(short());
    }
    // A closed socket keeps its cgroup while it is in FIN_WAIT1, but has no inode: nobody can read the answer any more. From
    // FIN_WAIT2 on, the kernel keeps only the ports of a closed socket, and reports neither inode nor cgroup.
    let closed = u32_at(body, 68) == 0;
    match body[1] {
        TCP_ESTABLISHED => {}
        TCP_FIN_WAIT1 | TCP_FIN_WAIT2 if !closed => {}
        TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_TIME_WAIT => return Ok(Some(Lookup::Unowned)),
        // A connection that is being set up proves nothing. In the other states (CLOSE_WAIT, LAST_ACK, CLOSING) the client has received
        // the end of the connection, which podrole sends only after its answer: the socket is forged.
        _ => return Ok(Some(Lookup::Absent)),
    }
    let cookie = u64::from(u32_at(body, 44)) | u64::from(u32_at(body, 48)) << 32;
    let mut attributes = &body[MESSAGE..];
    while attributes.len() >= NLA_HEADER_SIZE {
        let (length, kind) = (usize::from(u16_at(attributes, 0)), u16_at(attributes, 2));
        let Some(value) = attributes.get(NLA_HEADER_SIZE..length) else { break };
        if kind == INET_DIAG_CGROUP_ID && value.len() >= 8 {
            let cgroup = u64::from_ne_bytes(value[..8].try_into().expect("eight bytes"));
            return Ok(Some(Lookup::Found(Found { cookie, cgroup })));
        }
        attributes = attributes.get(length.next_multiple_of(NLA_ALIGNTO)..).unwrap_or_default();
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the kernel did not report the socket's cgroup; it needs Linux 5.7 or later with CONFIG_SOCK_CGROUP_DATA",
    ))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: u32 = 991;

    /// Turns `answer` into an answer about a socket that its owner has closed.
    fn closed(mut answer: Vec<u8>) -> Vec<u8> {
        answer[HEADER + 68..HEADER + 72].fill(0);
        answer
    }

    fn answer(state: u8, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + MESSAGE];
        bytes.extend_from_slice(attributes);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
        bytes[HEADER + 1] = state;
        bytes[HEADER + 68..HEADER + 72].copy_from_slice(&INODE.to_ne_bytes());
        bytes[HEADER + 44..HEADER + 52].copy_from_slice(&0x1122_3344_5566_7788u64.to_ne_bytes());
        bytes
    }

    fn cgroup(id: u64) -> Vec<u8> {
        [&12u16.to_ne_bytes()[..], &INET_DIAG_CGROUP_ID.to_ne_bytes(), &id.to_ne_bytes()].concat()
    }

    #[test]
    fn finds_the_cgroup_behind_other_attributes() {
        let other = [&5u16.to_ne_bytes()[..], &8u16.to_ne_bytes(), &[0, 0, 0, 0]].concat();
        let bytes = answer(TCP_ESTABLISHED, &[other, cgroup(4242)].concat());
        assert_eq!(
            parse(&bytes, 7).unwrap(),
            Some(Lookup::Found(Found { cookie: 0x1122_3344_5566_7788, cgroup: 4242 }))
        );
        assert_eq!(parse(&bytes, 8).unwrap(), None, "the answer to another request");
    }

    #[test]
    fn a_socket_counts_while_its_owner_can_read_the_answer() {
        for state in 1..=12 {
            let found = parse(&answer(state, &cgroup(1)), 7).unwrap().unwrap();
            let expected = match state {
                TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 => {
                    Lookup::Found(Found { cookie: 0x1122_3344_5566_7788, cgroup: 1 })
                }
                TCP_TIME_WAIT => Lookup::Unowned,
                _ => Lookup::Absent,
            };
            assert_eq!(found, expected, "state {state}");
        }
    }

    #[test]
    fn a_closed_socket_is_nobodys() {
        for (state, attributes) in [(TCP_FIN_WAIT1, &cgroup(1)[..]), (TCP_FIN_WAIT2, &[]), (TCP_TIME_WAIT, &[])] {
            let answer = closed(answer(state, attributes));
            assert_eq!(parse(&answer, 7).unwrap(), Some(Lookup::Unowned), "state {state}");
        }
    }

    #[test]
    fn a_request_names_the_interface() {
        let peer = ([10, 0, 0, 2], 40_000).into();
        let request = request(&Connection { peer, server: ([169, 254, 169, 254], 80).into() }, 0x0102_0304, 1);
        assert_eq!(u32_at(&request, 60), 0x0102_0304);
    }

    #[test]
    fn a_kernel_without_the_attribute_is_an_error_not_a_stranger() {
        assert_eq!(parse(&answer(TCP_ESTABLISHED, &[]), 7).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), attrs in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = parse(&bytes, 7);
            let _ = parse(&answer(TCP_ESTABLISHED, &attrs), 7);
        }
    }
}
