//! IPv4 and IPv6, so that each attack is tried in both families.

use std::fmt;
use std::net::IpAddr;

use anyhow::Result;
use podrole_lab::agent::Target;
use podrole_lab::pod::Pod;

/// An address family.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The metadata service at its address of this family.
    pub(crate) fn target(self) -> Target {
        match self {
            Self::V4 => Target::v4(),
            Self::V6 => Target::v6(),
        }
    }

    /// The pod's address of this family.
    pub(crate) fn of(self, pod: &Pod) -> IpAddr {
        match self {
            Self::V4 => pod.v4().into(),
            Self::V6 => pod.v6().into(),
        }
    }

    /// The address with the prefix length of a single host.
    pub(crate) fn host(self, address: IpAddr) -> String {
        match self {
            Self::V4 => format!("{address}/32"),
            Self::V6 => format!("{address}/128"),
        }
    }

    /// Adds another pod's address to a pod.
    pub(crate) fn claim(self, pod: &Pod, address: IpAddr) -> Result<()> {
        let host = self.host(address);
        let command = ["ip", "addr", "replace", &host, "dev", "eth0"];
        match self {
            Self::V4 => pod.configure(&command)?,
            // Skips duplicate address detection, which would find the other pod.
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
