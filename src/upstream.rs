//! The node's own metadata service: asked by us, for a fixed set of paths, at start. No pod's request ever goes there.

pub mod client;

use thiserror::Error;

/// Why there are no facts.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// It belongs to another cloud, where these addresses mean something else.
    #[error(
        "the metadata service here is {0}'s, not EC2's: podrole would cut pods off from it and refuses to run here"
    )]
    ForeignCloud(&'static str),
    /// It cannot be reached, or not in time.
    #[error("the metadata service at {endpoint} does not answer ({reason}); outside EC2 use --platform=none")]
    Unreachable {
        /// Where we asked.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// It answered something else than EC2's does.
    #[error("the metadata service answered {path} with status {status}")]
    Status {
        /// What we asked.
        path: &'static str,
        /// What it said.
        status: u16,
    },
}
