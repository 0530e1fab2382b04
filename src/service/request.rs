//! One request on its way through the service.

use std::net::IpAddr;
use std::time::Duration;

use http::request::Parts;

use crate::caller::Connection;
use crate::caller::resolver::Proofs;
use crate::deadline::Deadline;

/// How long a request may wait. Common SDKs try once and time out after one second; podrole promises an answer within 800 ms as the
/// client measures it, so 50 ms remain for the network.
pub(super) const BUDGET: Duration = Duration::from_millis(750);

/// One request and its sender.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) connection: &'a Connection,
    pub(super) head: &'a Parts,
    pub(super) caller: Caller,
    /// The time limit, which also records whether the request has waited.
    pub(super) deadline: Deadline,
}

/// The information that identifies the caller.
#[derive(Debug)]
pub(super) enum Caller {
    /// The proofs that the kernel provided.
    Kernel(Proofs),
    /// The peer's address only (`--identity=ip`).
    Address,
}

// === impl Request ===

impl Request<'_> {
    /// The address that the request came from.
    pub(super) fn peer(&self) -> IpAddr {
        self.connection.peer.ip()
    }
}
