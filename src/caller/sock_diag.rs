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
/// The message type of request and answer, from `linux/sock_diag.h`; no crate has it.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The socket state `TCP_ESTABLISHED`, from `include/net/tcp_states.h`; no crate has it.
const TCP_ESTABLISHED: u8 = 1;
/// The attribute `INET_DIAG_CGROUP_ID`, from `linux/inet_diag.h` (since Linux 5.7); no crate has it.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `IPPROTO_TCP` in the one byte that the request has for it.
const IPPROTO_TCP: u8 = ipproto::TCP.as_raw().get().to_le_bytes()[0];
/// `recv` never waits: the kernel queues the answer before `send` returns.
const DONTWAIT: i32 = RecvFlags::DONTWAIT.bits().cast_signed();

/// What the kernel reports about one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The kernel's unique id of the socket.
    pub cookie: u64,
    /// The id of the cgroup whose process created it.
    pub cgroup: u64,
}

/// A `sock_diag` socket in one netns.
pub struct SockDiag {
    /// The socket and the sequence number of its last request.
    socket: Mutex<(Socket, u32)>,
}

// === impl SockDiag ===

impl SockDiag {
    /// Opens one in the calling thread's netns.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self { socket: Mutex::new((socket, 0)) })
    }

    /// Finds the client's end of `connection`, an established TCP socket; an IPv6 socket with a mapped IPv4 address is found too.
    /// `None` if there is no such socket or it is not (or no longer) established.
    pub fn established(&self, connection: &Connection) -> io::Result<Option<Found>> {
        let mut locked = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, sequence) = &mut *locked;
        *sequence = sequence.wrapping_add(1);
        socket.send(&request(connection, *sequence), 0)?;
        let mut buffer = [0u8; 512];
        loop {
            let length = socket.recv(&mut &mut buffer[..], DONTWAIT)?;
            match parse(&buffer[..length.min(buffer.len())], *sequence)? {
                Reply::Stale => {}
                Reply::Absent => return Ok(None),
                Reply::Found(found) => return Ok(Some(found)),
            }
        }
    }
}

impl std::fmt::Debug for SockDiag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SockDiag")
    }
}

#[derive(Debug, PartialEq)]
enum Reply {
    /// The answer to an earlier request.
    Stale,
    Absent,
    Found(Found),
}

fn request(connection: &Connection, sequence: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[0..4].copy_from_slice(&u32::try_from(REQUEST).expect("72 fits").to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[16] = AddressFamily::from(connection.server.ip()).into();
    bytes[17] = IPPROTO_TCP;
    bytes[20..24].copy_from_slice(&(1u32 << TCP_ESTABLISHED).to_ne_bytes());
    bytes[24..26].copy_from_slice(&connection.peer.port().to_be_bytes());
    bytes[26..28].copy_from_slice(&connection.server.port().to_be_bytes());
    put_address(&mut bytes[28..44], connection.peer.ip());
    put_address(&mut bytes[44..60], connection.server.ip());
    // All ones (`INET_DIAG_NOCOOKIE`) match any socket; interface 0 matches any interface.
    bytes[64..72].fill(0xff);
    bytes
}

fn put_address(bytes: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.copy_from_slice(&v6.octets()),
    }
}

fn parse(bytes: &[u8], sequence: u32) -> io::Result<Reply> {
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "short sock_diag answer");
    let header = bytes.get(..HEADER).ok_or_else(short)?;
    let (kind, answered) = (u16_at(header, 4), u32_at(header, 8));
    if answered != sequence {
        return Ok(Reply::Stale);
    }
    let end = usize::try_from(u32_at(header, 0)).map_err(|_| short())?;
    let body = bytes.get(HEADER..end).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let code = body.get(..4).map(|b| u32_at(b, 0).cast_signed().wrapping_neg()).ok_or_else(short)?;
        return if code == Errno::NOENT.raw_os_error() {
            Ok(Reply::Absent)
        } else {
            Err(io::Error::from_raw_os_error(code))
        };
    }
    if kind != SOCK_DIAG_BY_FAMILY || body.len() < MESSAGE {
        return Err(short());
    }
    // An exact lookup ignores the requested states, so the state in the answer decides: a socket that is still connecting, or in
    // TIME_WAIT, proves nothing.
    if body[1] != TCP_ESTABLISHED {
        return Ok(Reply::Absent);
    }
    let cookie = u64::from(u32_at(body, 44)) | u64::from(u32_at(body, 48)) << 32;
    let mut attributes = &body[MESSAGE..];
    while attributes.len() >= NLA_HEADER_SIZE {
        let (length, kind) = (usize::from(u16_at(attributes, 0)), u16_at(attributes, 2));
        let Some(value) = attributes.get(NLA_HEADER_SIZE..length) else { break };
        if kind == INET_DIAG_CGROUP_ID && value.len() >= 8 {
            let cgroup = u64::from_ne_bytes(value[..8].try_into().expect("eight bytes"));
            return Ok(Reply::Found(Found { cookie, cgroup }));
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

    fn answer(state: u8, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + MESSAGE];
        bytes.extend_from_slice(attributes);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
        bytes[HEADER + 1] = state;
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
        assert_eq!(parse(&bytes, 7).unwrap(), Reply::Found(Found { cookie: 0x1122_3344_5566_7788, cgroup: 4242 }));
        assert_eq!(parse(&bytes, 8).unwrap(), Reply::Stale);
    }

    #[test]
    fn only_established_counts() {
        for state in 2..=12 {
            assert_eq!(parse(&answer(state, &cgroup(1)), 7).unwrap(), Reply::Absent);
        }
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
