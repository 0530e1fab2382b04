//! IPv4 and IPv6: what an attacker can do in one family is tried in the other too.

use std::fmt;
use std::net::IpAddr;

use anyhow::Result;
use podrole_lab::agent::Target;
use podrole_lab::pod::Pod;

/// A family of addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The metadata service, at its address of this family.
    pub(crate) fn target(self) -> Target {
        match self {
            Self::V4 => Target::v4(),
            Self::V6 => Target::v6(),
        }
    }

    /// A pod's address of this family.
    pub(crate) fn of(self, pod: &Pod) -> IpAddr {
        match self {
            Self::V4 => pod.v4().into(),
            Self::V6 => pod.v6().into(),
        }
    }

    /// An address as the network of one host.
    pub(crate) fn host(self, address: IpAddr) -> String {
        match self {
            Self::V4 => format!("{address}/32"),
            Self::V6 => format!("{address}/128"),
        }
    }

    /// Makes a pod claim an address that is another's.
    pub(crate) fn claim(self, pod: &Pod, address: IpAddr) -> Result<()> {
        let host = self.host(address);
        let command = ["ip", "addr", "replace", &host, "dev", "eth0"];
        match self {
            Self::V4 => pod.configure(&command)?,
            // It does not ask first whether somebody has it.
            Self::V6 => pod.configure(&[&command[..], &["nodad"]].concat())?,
        };
        Ok(())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
