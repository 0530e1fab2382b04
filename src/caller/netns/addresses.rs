//! The addresses of one netns, listed over its routing socket.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

/// The most addresses that are read from one netns. A pod has a handful; a pod that adds thousands must not make podrole store
/// them.
const MAX_ADDRESSES: usize = 64;

/// The most interfaces that are remembered for one netns. Pods have one or two.
const MAX_INTERFACES: usize = 8;

/// The addresses and interfaces of one netns.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The addresses from which a connection can come: all except loopback and link-local addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The indexes of the interfaces that have any address. Interfaces with one of `addresses` are listed first.
    pub(super) interfaces: Vec<u32>,
    /// False if the netns has more addresses than were read.
    pub(super) complete: bool,
    /// Interfaces that have only link-local addresses.
    link_local: Vec<u32>,
}

/// Opens a routing socket in the calling thread's netns.
pub(super) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Lists the addresses of the socket's netns. Reading stops at [`MAX_ADDRESSES`], so that a pod with a hundred thousand addresses
/// costs no more than that. The rest of the answer is then still in the socket, which must not be used again.
///
/// There is one request per family: for a request without a family, the kernel takes the lock of all network configuration (RTNL),
/// and every creation or removal of a netns on the node also waits for that lock. Under churn, the lock cost 5 ms per netns at p99,
/// compared with 0.07 ms without it.
pub(super) fn list(socket: &Socket) -> io::Result<Listing> {
    let mut found = Listing::default();
    found.complete =
        list_family(socket, AddressFamily::Inet, &mut found)? && list_family(socket, AddressFamily::Inet6, &mut found)?;
    for index in std::mem::take(&mut found.link_local) {
        remember(&mut found.interfaces, index);
    }
    Ok(found)
}

/// Adds the addresses of one family to `found`. Returns false if there are more addresses, in which case the rest of the answer is
/// still in the socket.
fn list_family(socket: &Socket, family: AddressFamily, found: &mut Listing) -> io::Result<bool> {
    socket.send(&request(family), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::Done(_) = message.payload {
                return Ok(true);
            }
            if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            }
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) = &message.payload {
                found.add(address);
            }
            if found.addresses.len() >= MAX_ADDRESSES {
                return Ok(false);
            }
            rest = rest.get(padded_length(&message)..).unwrap_or_default();
        }
    }
}

// === impl Listing ===

impl Listing {
    fn add(&mut self, message: &AddressMessage) {
        let index = message.header.index;
        match own_address(message) {
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => remember(&mut self.link_local, index),
            Some(address) if !address.is_loopback() => {
                self.addresses.push(address);
                remember(&mut self.interfaces, index);
            }
            Some(_) | None => {}
        }
    }
}

fn remember(interfaces: &mut Vec<u32>, index: u32) {
    if interfaces.len() < MAX_INTERFACES && !interfaces.contains(&index) {
        interfaces.push(index);
    }
}

fn request(family: AddressFamily) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = AddressMessage::default();
    message.header.family = family;
    let message = RouteNetlinkMessage::GetAddress(message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The length of the message with padding. It is at least the length of a header, so that reading always advances.
fn padded_length<I: NetlinkDeserializable>(message: &NetlinkMessage<I>) -> usize {
    const HEADER: usize = 16;
    let length = usize::try_from(message.header.length).unwrap_or(0);
    length.next_multiple_of(usize::from(NLMSG_ALIGNTO)).max(HEADER)
}

fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link IFA_ADDRESS is the address of the peer; the netns' own address is then IFA_LOCAL.
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(local) = attribute {
            address = Some(*local);
        } else if let AddressAttribute::Address(other) = attribute {
            address = address.or(Some(*other));
        }
    }
    address
}
