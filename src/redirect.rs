//! Directs pods' metadata traffic to podrole, and keeps it away from the node's metadata service.
//!
//! There are two guards, each of which is enough by itself:
//! * The table guard is an nftables table that rewrites `metadata:80` to podrole's listener and drops all other packets for the
//!   metadata addresses ([`ruleset`], applied by [`nft`]).
//! * The routing guard is policy routing that delivers every incoming packet for the metadata addresses to this node, so that none
//!   is forwarded even when every table is flushed ([`routing`]). The metadata listener serves these packets.
//!
//! Both guards stay in place when the daemon stops. Only `podrole cleanup` removes them.

pub mod nft;
pub mod routing;
pub mod ruleset;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// The address to which the table rewrites requests: link-local, on `lo`, used by podrole only. 127.0.0.1 would need
/// `route_localnet`, and the `redirect` statement drops packets from interfaces without an address, such as those of Calico and the
/// VPC CNI.
pub const LISTEN_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 77);
/// The address to which the table rewrites IPv6 requests (`fd00:ec2::77`).
pub const LISTEN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x77);

/// Why a rule could not be read, set or removed.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// There is no `nft` at any of the usual paths.
    #[error("no nft binary at {0}: install nftables")]
    NoNft(String),
    /// `nft` could not be run.
    #[error("cannot run nft: {0}")]
    Spawn(#[source] io::Error),
    /// `nft` did not end within this many seconds and was killed.
    #[error("nft did not finish within {0} seconds")]
    Timeout(u64),
    /// `nft` failed with this error output.
    #[error("nft failed: {0}")]
    Failed(String),
    /// The table does not have the expected form: another program has added a rule that podrole never writes.
    #[error("cannot read back the table inet podrole: {0}")]
    Unreadable(#[source] serde_json::Error),
    /// `nft` did not print valid JSON.
    #[error("nft did not print valid JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// The rules could not be serialized for `nft`.
    #[error("cannot serialize the rules as JSON: {0}")]
    Unwritable(#[source] serde_json::Error),
    /// A netlink request for routes, rules or addresses failed.
    #[error("cannot {what}: {error}")]
    Netlink {
        /// The attempted operation.
        what: &'static str,
        /// The kernel's answer.
        error: rtnetlink::Error,
    },
    /// The netlink socket could not be opened.
    #[error("cannot open a routing socket: {0}")]
    Socket(#[source] io::Error),
    /// The routing guard delivers packets to `lo`, but this network namespace has no `lo`.
    #[error("this network namespace has no interface lo")]
    NoLoopback,
}
