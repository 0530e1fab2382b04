//! The node's own metadata service. podrole asks it for a fixed set of paths at start and never forwards a pod's request to it.

pub mod client;

use thiserror::Error;

/// Why the metadata service's facts are not available.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// The service belongs to another cloud, which uses the same address.
    #[error(
        "the metadata service of this node is {0}'s, not EC2's: podrole would cut pods off from it and refuses to run; \
         remove podrole from this node"
    )]
    ForeignCloud(&'static str),
    /// The service cannot be reached or does not answer in time.
    #[error("the metadata service at {endpoint} does not answer ({reason}); outside EC2 use --platform=none")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// The error.
        reason: String,
    },
    /// The answer is not one that EC2's service gives.
    #[error("the metadata service answered {path} with status {status}")]
    Status {
        /// The requested path.
        path: &'static str,
        /// The HTTP status.
        status: u16,
    },
}
