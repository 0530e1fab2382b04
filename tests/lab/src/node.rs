//! A Kubernetes node: its network, its kubepods cgroups, and the pods on it.
//!
//! ```text
//!  pods (bridge)           10.88.1.0/24  fd88:1::/64 --- cni0 --+
//!  pods (point to point)   10.89.0.0/16  fd89::/64   --- veth --+-- the node --- up0 === eth0 -- wan
//!                                                       10.0.0.5, 2001:db8::5    10.0.0.1, 2001:db8::1
//!                                                                         lo: 169.254.169.254, fd00:ec2::254
//! ```
//!
//! The node is the network namespace of the calling process. The machine behind its uplink has a netns that is not in
//! `/run/netns`: software on the node sees it as another machine.

mod addresses;
mod launch;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::pod::{Pod, PodSpec};
use crate::{netns, world};

use addresses::Addresses;
pub(crate) use launch::{Place, command};

/// The node's own address.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// The node's own IPv6 address.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
/// The IPv4 address of the machine behind the uplink.
pub const WAN_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The IPv6 address of the machine behind the uplink.
pub const WAN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The cloud's metadata address.
pub const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The cloud's IPv6 metadata address.
pub const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The bridge's address, which is the gateway of its pods.
pub const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 1);
/// The bridge's IPv6 address.
pub const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 1, 0, 0, 0, 0, 0, 1);

const BRIDGE_MAC: &str = "02:00:0a:58:01:01";

/// Options of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name in Kubernetes.
    pub name: String,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "node-1".to_owned() }
    }
}

/// The node. Clones refer to the same node.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: NodeOptions,
    addresses: Addresses,
    serial: AtomicU32,
    wan: PathBuf,
}

impl Node {
    /// Makes the calling process's network namespace a node. Call it once per world.
    pub fn new(options: NodeOptions) -> Result<Self> {
        let wan = world::scratch().join("wan");
        netns::create(&wan)?;
        netns::batch(None, &uplink(&wan)).context("set up the node's network")?;
        netns::batch(Some(&wan), &far_side()).context("set up the machine behind the uplink")?;
        for dir in [
            "kubepods/burstable",
            "kubepods/besteffort",
            "kubepods.slice/kubepods-burstable.slice",
            "kubepods.slice/kubepods-besteffort.slice",
            "system.slice/podrole.service",
        ] {
            let path = Path::new(world::CGROUP_ROOT).join(dir);
            fs::create_dir_all(&path).with_context(|| format!("create the cgroup {}", path.display()))?;
        }
        Ok(Self(Arc::new(Inner { options, addresses: Addresses::default(), serial: AtomicU32::new(0), wan })))
    }

    /// The node's name in Kubernetes.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Starts a pod.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        Pod::start(self, spec)
    }

    /// A command on the node itself, in the cgroup of a system service. The caller adds the program and its arguments.
    pub fn command(&self) -> Command {
        command(&Place { cgroup: Some(self.service_cgroup()), netns: None })
    }

    /// A command on the machine behind the uplink. The caller adds the program and its arguments.
    pub fn wan_command(&self) -> Command {
        command(&Place { cgroup: None, netns: Some(self.0.wan.clone()) })
    }

    /// Runs a command in a container to its end.
    pub fn exec(&self, pod: &Pod, container: &str, argv: &[&str]) -> Result<std::process::Output> {
        pod.exec(container, argv)
    }

    /// An agent on the node itself.
    pub fn agent(&self) -> Result<Agent> {
        Agent::start(self.command())
    }

    /// An agent on the machine behind the uplink.
    pub fn wan_agent(&self) -> Result<Agent> {
        Agent::start(self.wan_command())
    }

    /// The cgroup of the node's system services.
    pub fn service_cgroup(&self) -> PathBuf {
        Path::new(world::CGROUP_ROOT).join("system.slice/podrole.service")
    }

    /// The network namespace of the machine behind the uplink.
    pub fn wan_netns(&self) -> &Path {
        &self.0.wan
    }

    /// Whether an address belongs to the node itself or to the machine behind its uplink, not to a pod.
    pub fn is_own(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => [NODE_V4, WAN_V4, METADATA_V4].contains(&v4),
            IpAddr::V6(v6) => [NODE_V6, WAN_V6, METADATA_V6].contains(&v6),
        }
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0.addresses
    }

    /// A number that is unique among the pods of this node.
    pub(crate) fn serial(&self) -> u32 {
        self.0.serial.fetch_add(1, Ordering::Relaxed)
    }
}

fn uplink(wan: &Path) -> String {
    format!(
        "link add name cni0 address {BRIDGE_MAC} type bridge
addr add {BRIDGE_V4}/24 dev cni0
addr add {BRIDGE_V6}/64 dev cni0 nodad
link set cni0 up
link add up0 type veth peer name eth0 netns {}
addr add {NODE_V4}/24 dev up0
addr add {NODE_V6}/64 dev up0 nodad
link set up0 up
route add 0.0.0.0/0 via {WAN_V4}
route add ::/0 via {WAN_V6}
",
        wan.display()
    )
}

fn far_side() -> String {
    format!(
        "link set lo up
addr add {METADATA_V4}/32 dev lo
addr add {METADATA_V6}/128 dev lo nodad
addr add {WAN_V4}/24 dev eth0
addr add {WAN_V6}/64 dev eth0 nodad
link set eth0 up
route add 0.0.0.0/0 via {NODE_V4}
route add ::/0 via {NODE_V6}
"
    )
}
