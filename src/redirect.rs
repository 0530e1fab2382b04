//! Getting pods' metadata traffic to us, and nowhere else.
//!
//! Two locks, each of which holds alone:
//! * an nftables table that rewrites `metadata:80` to our listener and drops what would pass by it ([`ruleset`], applied by [`nft`]);
//! * policy routing that delivers whatever comes in for the metadata addresses to this node, so that nothing is forwarded even
//!   when every table is flushed ([`routing`]); a listener on the metadata addresses themselves serves then.
//!
//! Both outlive the daemon. Only `podrole cleanup` takes them away.

pub mod nft;
pub mod routing;
pub mod ruleset;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Where the rewritten traffic goes: link-local, on `lo`, ours alone. Not 127.0.0.1 (needs `route_localnet`), and not `redirect`
/// (drops on interfaces without an address, as Calico's and the VPC CNI's are).
pub const LISTEN_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 77);
/// The same for IPv6 (`fd00:ec2::77`).
pub const LISTEN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x77);

/// Why a rule could not be set.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// There is no `nft` where Debian, the image, or other distributions put it.
    #[error("no nft binary at {0}: install nftables")]
    NoNft(String),
    /// It could not be run.
    #[error("cannot run nft: {0}")]
    Spawn(#[source] io::Error),
    /// It did not end in time and was killed.
    #[error("nft did not end within {0} seconds")]
    Timeout(u64),
    /// It refused; what it said.
    #[error("nft refused: {0}")]
    Refused(String),
    /// It printed something we cannot read: somebody put a rule into our table that we would never write.
    #[error("our table cannot be read back: {0}")]
    Unreadable(#[source] serde_json::Error),
    /// It printed no JSON.
    #[error("nft prints no JSON that can be read: {0}")]
    NotJson(#[source] serde_json::Error),
    /// What it is to set could not be written down for it.
    #[error("our rules cannot be written as JSON: {0}")]
    Unwritable(#[source] serde_json::Error),
    /// A netlink request for routes, rules or addresses failed.
    #[error("cannot {what}: {error}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: rtnetlink::Error,
    },
    /// The netlink socket could not be opened.
    #[error("cannot open a routing socket: {0}")]
    Socket(#[source] io::Error),
    /// The routing lock delivers to `lo`, and this network namespace has none.
    #[error("the kernel has no interface lo")]
    NoLoopback,
}
