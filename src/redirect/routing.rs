//! The routing guard and podrole's link-local addresses, set over netlink.
//!
//! ```text
//! 50: from all to 169.254.169.254 iif lo lookup main     requests of the node itself are routed as before
//! 51: from all to 169.254.169.254        lookup 1699     incoming packets to any port are delivered here, never forwarded
//! table 1699: local 169.254.169.254 dev lo
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use rustix::io::Errno;

use super::{LISTEN_V4, LISTEN_V6, RedirectError};
use crate::types::{METADATA_V4, METADATA_V6};

/// podrole's routing table.
const TABLE: u32 = 1699;
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Priority of the rule for the node's own requests.
const PREF_NODE: u32 = 50;
/// Priority of the rule for incoming packets.
const PREF_INCOMING: u32 = 51;
/// The lifetime of an address that never expires (`INFINITY_LIFE_TIME`).
const NEVER_EXPIRES: u32 = u32::MAX;

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A routing socket in the node's netns.
#[derive(Clone, Debug)]
pub struct Routing {
    handle: Handle,
}

// === impl Routing ===

impl Routing {
    /// Opens a socket and spawns the task that serves it. The task ends when the last clone is dropped.
    pub fn open() -> Result<Self, RedirectError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(RedirectError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Installs the routing guard for `family`: the two rules and the local route. Parts that already exist are kept.
    pub async fn install(&self, family: Family) -> Result<(), RedirectError> {
        let lo = self.loopback().await?;
        // The route comes first: a rule for an empty table would fall through to the next rule.
        self.handle
            .route()
            .add(local_route(family, lo))
            .replace()
            .execute()
            .await
            .map_err(failed("add the local route"))?;
        // The rule for incoming packets comes last: without the other rule, it would cut off the node itself.
        self.rule(family, PREF_NODE, MAIN, true).await?;
        self.rule(family, PREF_INCOMING, TABLE, false).await
    }

    /// Installs the routing guard for every family that the kernel supports. A failure for one family does not stop the other.
    pub async fn install_all(&self) -> Result<(), RedirectError> {
        let v4 = self.install(Family::V4).await;
        if has_ipv6() {
            self.install(Family::V6).await?;
        }
        v4
    }

    /// Adds podrole's listen address of `family` to `lo` so that the kernel never chooses it as a source address. Otherwise the
    /// kubelet's probes of pods would have this source address.
    pub async fn add_address(&self, family: Family) -> Result<(), RedirectError> {
        let lo = self.loopback().await?;
        let (address, length) = match family {
            Family::V4 => (IpAddr::V4(LISTEN_V4), 32),
            Family::V6 => (IpAddr::V6(LISTEN_V6), 128),
        };
        let mut request = self.handle.address().add(lo, address, length).replace();
        let message = request.message_mut();
        match family {
            Family::V4 => message.header.scope = AddressScope::Host,
            // A deprecated address (preferred lifetime 0) can be a destination but is never chosen as a source.
            Family::V6 => {
                // Without this flag the address is tentative, even on lo, until a kernel thread has run. A tentative address
                // cannot be bound.
                message.header.flags |= AddressHeaderFlags::Nodad;
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_preferred = 0;
                lifetime.ifa_valid = NEVER_EXPIRES;
                message.attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        request.execute().await.map_err(failed("add the listen address to lo"))
    }

    /// The names of the interfaces that lead out of the node: those used by a default route of any table, and all physical ones.
    pub async fn uplinks(&self) -> Result<Vec<String>, RedirectError> {
        let mut indices = BTreeSet::new();
        for empty in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut routes = self.handle.route().get(empty).execute();
            while let Some(route) = routes.try_next().await.map_err(failed("list routes"))? {
                indices.extend(default_route_interfaces(&route));
            }
        }
        let mut names = BTreeSet::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("list interfaces"))? {
            if !link.header.flags.contains(LinkFlags::Loopback)
                && (indices.contains(&link.header.index) || is_physical(&link))
            {
                names.extend(link_name(&link));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The missing parts of the routing guard, in words. Empty if it is complete.
    pub async fn missing(&self) -> Result<Vec<String>, RedirectError> {
        let mut missing = Vec::new();
        for (family, version) in [(Family::V4, IpVersion::V4), (Family::V6, IpVersion::V6)] {
            if family == Family::V6 && !has_ipv6() {
                continue;
            }
            let rules: Vec<RuleMessage> =
                self.handle.rule().get(version).execute().try_collect().await.map_err(failed("list rules"))?;
            for (priority, table) in [(PREF_NODE, MAIN), (PREF_INCOMING, TABLE)] {
                if !rules.iter().any(|rule| is_our_rule(rule, family) && leads_to(rule, priority, table)) {
                    missing.push(format!("rule {priority} for {}", metadata(family)));
                }
            }
            let empty = match family {
                Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
                Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
            };
            let routes: Vec<RouteMessage> =
                self.handle.route().get(empty).execute().try_collect().await.map_err(failed("list routes"))?;
            if !routes.iter().any(|route| is_our_route(route, family)) {
                missing.push(format!("local route for {} in table {TABLE}", metadata(family)));
            }
        }
        Ok(missing)
    }

    /// The names of all interfaces.
    pub async fn interfaces(&self) -> Result<Vec<String>, RedirectError> {
        let links = self.handle.link().get().execute();
        let links: Vec<LinkMessage> = links.try_collect().await.map_err(failed("list interfaces"))?;
        Ok(links.iter().filter_map(link_name).collect())
    }

    /// Removes podrole's rules, routes and listen addresses. Returns what was removed, in words.
    pub async fn remove(&self) -> Result<Vec<String>, RedirectError> {
        let mut removed = Vec::new();
        let lo = self.loopback().await?;
        for (family, version) in [(Family::V4, IpVersion::V4), (Family::V6, IpVersion::V6)] {
            let rules: Vec<RuleMessage> =
                self.handle.rule().get(version).execute().try_collect().await.map_err(failed("list rules"))?;
            for rule in rules.into_iter().filter(|rule| is_our_rule(rule, family)) {
                self.handle.rule().del(rule).execute().await.map_err(failed("delete a rule"))?;
                removed.push(format!("routing rule for {}", metadata(family)));
            }
            if self.handle.route().del(local_route(family, lo)).execute().await.is_ok() {
                removed.push(format!("local route for {}", metadata(family)));
            }
        }
        let addresses: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
        for address in addresses {
            let ours = address.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Address(ip) if *ip == IpAddr::V4(LISTEN_V4) || *ip == IpAddr::V6(LISTEN_V6))
            });
            if ours {
                self.handle.address().del(address).execute().await.map_err(failed("delete the listen address"))?;
                removed.push("listen address on lo".into());
            }
        }
        Ok(removed)
    }

    async fn rule(&self, family: Family, priority: u32, table: u32, from_node: bool) -> Result<(), RedirectError> {
        let rule = self.handle.rule().add().table_id(table).priority(priority).action(RuleAction::ToTable);
        let rule = if from_node { rule.input_interface("lo") } else { rule };
        let added = match family {
            Family::V4 => rule.v4().destination_prefix(METADATA_V4, 32).execute().await,
            Family::V6 => rule.v6().destination_prefix(METADATA_V6, 128).execute().await,
        };
        match added {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -Errno::EXIST.raw_os_error() => Ok(()),
            other => other.map_err(failed("add a routing rule")),
        }
    }

    async fn loopback(&self) -> Result<u32, RedirectError> {
        let mut links = self.handle.link().get().match_name("lo").execute();
        let lo = links.try_next().await.map_err(failed("find lo"))?;
        lo.map(|link| link.header.index).ok_or(RedirectError::NoLoopback)
    }
}

/// Whether the kernel supports IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> RedirectError {
    move |error| RedirectError::Netlink { what, error }
}

fn metadata(family: Family) -> IpAddr {
    match family {
        Family::V4 => METADATA_V4.into(),
        Family::V6 => METADATA_V6.into(),
    }
}

fn local_route(family: Family, lo: u32) -> RouteMessage {
    match family {
        Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(METADATA_V4, 32)
            .output_interface(lo)
            .table_id(TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .build(),
        Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(METADATA_V6, 128)
            .output_interface(lo)
            .table_id(TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Universe)
            .build(),
    }
}

fn is_our_rule(rule: &RuleMessage, family: Family) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    let wanted = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    rule.header.family == wanted
        && has(&RuleAttribute::Destination(metadata(family)))
        && (has(&RuleAttribute::Priority(PREF_NODE)) || has(&RuleAttribute::Priority(PREF_INCOMING)))
}

fn leads_to(rule: &RuleMessage, priority: u32, table: u32) -> bool {
    // Old kernels report a small table number in the header only.
    let in_header = u32::from(rule.header.table) == table;
    rule.attributes.contains(&RuleAttribute::Priority(priority))
        && (in_header || rule.attributes.contains(&RuleAttribute::Table(table)))
}

fn is_our_route(route: &RouteMessage, family: Family) -> bool {
    route.header.kind == RouteType::Local
        && route.attributes.contains(&RouteAttribute::Table(TABLE))
        && route.attributes.contains(&RouteAttribute::Destination(metadata(family).into()))
}

fn default_route_interfaces(route: &RouteMessage) -> Vec<u32> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut indices = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            indices.push(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            indices.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    indices
}

/// The kernel reports a kind for every virtual interface (veth, bridge, vlan, bond, dummy, …) and none for hardware.
fn is_physical(link: &LinkMessage) -> bool {
    !link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(|info| matches!(info, LinkInfo::Kind(_))))
    })
}

fn link_name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(
        |attribute| {
            if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None }
        },
    )
}
