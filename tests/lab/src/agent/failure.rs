//! Why a request got no answer.

use std::fmt;
use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused.
    Refused,
    /// The timeout expired.
    TimedOut,
    /// The peer reset the connection.
    Reset,
    /// The target is unreachable, or the packet was prohibited.
    Unreachable,
    /// The peer closed the connection without sending anything.
    NoAnswer,
    /// The answer is not HTTP, or it is incomplete.
    Garbled(String),
    /// The agent failed or has ended.
    Agent(String),
    /// Another system error.
    Other(String),
}

impl Failure {
    pub(super) fn agent(error: impl fmt::Display) -> Self {
        Self::Agent(error.to_string())
    }

    /// A one-word label, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no answer",
            Self::Garbled(_) => "garbled",
            Self::Agent(_) => "agent",
            Self::Other(_) => "other",
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let is = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
        if is(&[ErrorKind::ConnectionRefused]) {
            Self::Refused
        } else if is(&[ErrorKind::TimedOut]) {
            Self::TimedOut
        } else if is(&[ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe]) {
            Self::Reset
        } else if is(&[ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable, ErrorKind::PermissionDenied]) {
            // Netfilter verdicts in the output path surface as EPERM.
            Self::Unreachable
        } else {
            Self::Other(error.to_string())
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbled(detail) | Self::Agent(detail) | Self::Other(detail) => write!(f, "{}: {detail}", self.kind()),
            Self::Refused | Self::TimedOut | Self::Reset | Self::Unreachable | Self::NoAnswer => {
                f.write_str(self.kind())
            }
        }
    }
}

impl std::error::Error for Failure {}
