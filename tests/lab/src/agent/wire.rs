//! The protocol between test and agent: one line of JSON in each direction.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, Load, LoadReport, decode};

/// The target of a connection and its socket options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub(super) to: SocketAddr,
    pub(super) from: Option<SocketAddr>,
    pub(super) mapped: bool,
    pub(super) timeout_ms: u64,
    pub(super) half_closes: bool,
    pub(super) on_device: bool,
}

impl Target {
    /// The client closes its sending half after the request, as `nc -N` does.
    #[must_use]
    pub fn half_closing(mut self) -> Self {
        self.half_closes = true;
        self
    }

    /// The client's socket is bound to the pod's interface, as `curl --interface if!eth0` does.
    #[must_use]
    pub fn on_device(mut self) -> Self {
        self.on_device = true;
        self
    }

    /// The address that the socket connects to.
    pub fn address(&self) -> SocketAddr {
        self.to
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The peer closed the connection.
    Closed,
    /// The requested number of bytes has arrived.
    Enough,
    /// The timeout expired.
    TimedOut,
    /// The peer reset the connection.
    Reset,
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Why reading stopped.
    pub end: End,
}

/// An order. Bytes are encoded as base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Op {
    /// Connects, sends, reads to the end and closes.
    Exchange { target: Target, data: String },
    /// Connects and keeps the connection.
    Open { target: Target },
    /// Sends on a kept connection.
    Send { handle: u64, data: String },
    /// Reads until the end, `limit` bytes or the timeout.
    Read { handle: u64, limit: usize, timeout_ms: u64 },
    /// Shuts a kept connection down for writing.
    Finish { handle: u64 },
    /// Closes or resets a kept connection.
    Close { handle: u64, reset: bool },
    /// Sends a UDP datagram and waits for one in answer.
    Datagram { target: Target, data: String },
    /// Runs a load plan.
    Load(Load),
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub(crate) enum Answer {
    Opened { handle: u64, local: SocketAddr },
    Data { data: String, end: End },
    Done,
    Load(LoadReport),
    Failed(Failure),
}

impl Answer {
    pub(super) fn opened(self) -> Result<(u64, SocketAddr), Failure> {
        match self {
            Self::Opened { handle, local } => Ok((handle, local)),
            Self::Data { .. } | Self::Done | Self::Load(_) | Self::Failed(_) => Err(self.failure()),
        }
    }

    pub(super) fn received(self) -> Result<Received, Failure> {
        match self {
            Self::Data { data, end } => Ok(Received { bytes: decode(&data)?, end }),
            Self::Opened { .. } | Self::Done | Self::Load(_) | Self::Failed(_) => Err(self.failure()),
        }
    }

    pub(super) fn done(self) -> Result<(), Failure> {
        match self {
            Self::Done => Ok(()),
            Self::Opened { .. } | Self::Data { .. } | Self::Load(_) | Self::Failed(_) => Err(self.failure()),
        }
    }

    pub(super) fn report(self) -> Result<LoadReport, Failure> {
        match self {
            Self::Load(report) => Ok(report),
            Self::Opened { .. } | Self::Data { .. } | Self::Done | Self::Failed(_) => Err(self.failure()),
        }
    }

    fn failure(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Opened { .. } | Self::Data { .. } | Self::Done | Self::Load(_) => {
                Failure::Agent(format!("unexpected answer:  {self:?}"))
            }
        }
    }
}
