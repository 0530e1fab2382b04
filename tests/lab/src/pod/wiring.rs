//! The pod's network: a netns, a veth pair, addresses and routes. It takes two `ip` processes per pod, so that a
//! thousand pods take seconds.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Shape;
use crate::node::{BRIDGE_V4, BRIDGE_V6};
use crate::{ids, netns};

/// The group of interfaces that are about to be removed. No other interface on the node is in it.
const DOOMED: u32 = 4242;

/// A pod's netns and the veth pair that connects it.
#[derive(Debug)]
pub(super) struct Link {
    netns: PathBuf,
    interface: String,
}

impl Link {
    /// Creates and connects a new netns.
    pub(super) fn plug(serial: u32, shape: Shape, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        let netns = Path::new("/run/netns").join(format!("cni-{}", ids::uuid()?));
        let interface = format!("veth{serial:08x}");
        netns::create(&netns)?;
        let cable = Cable { netns: &netns, interface: &interface, near: mac(1, serial), far: mac(2, serial), v4, v6 };
        let (near, far) = match shape {
            Shape::Bridge => cable.bridge(),
            Shape::PointToPoint => cable.point_to_point(),
        };
        netns::batch(None, &near).context("connect a pod")?;
        netns::batch(Some(&netns), &far).context("set up a pod's network")?;
        Ok(Self { netns, interface })
    }

    /// Removes the veth pair and the netns's path. The kernel frees the netns with its last process; it would also
    /// remove the veth pair then, but too late if a test reuses the address.
    pub(super) fn unplug(&self) -> Result<()> {
        Self::unplug_all(&[self])
    }

    /// Removes many links. Each removal makes the kernel wait some 30 ms for all processors, so all veth pairs are
    /// removed at once.
    pub(super) fn unplug_all(links: &[&Self]) -> Result<()> {
        let here: Vec<&Self> = links.iter().copied().filter(|link| link.netns.exists()).collect();
        if here.is_empty() {
            return Ok(());
        }
        let mut script: String =
            here.iter().map(|link| format!("link set {} group {DOOMED}\n", link.interface)).collect();
        script.push_str(&format!("link del group {DOOMED}\n"));
        netns::batch(None, &script).context("disconnect pods")?;
        here.iter().try_for_each(|link| netns::delete(&link.netns))
    }

    pub(super) fn netns(&self) -> &Path {
        &self.netns
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }
}

struct Cable<'a> {
    netns: &'a Path,
    interface: &'a str,
    near: String,
    far: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// The `ip` commands for the node's side and for the pod's side.
impl Cable<'_> {
    fn bridge(&self) -> (String, String) {
        let Self { interface, v4, v6, .. } = self;
        let near = format!("{}link set {interface} master cni0 up\n", self.add());
        let far = format!(
            "link set lo up
addr add {v4}/24 dev eth0
addr add {v6}/64 dev eth0 nodad
link set eth0 up
route add 0.0.0.0/0 via {BRIDGE_V4}
route add ::/0 via {BRIDGE_V6}
"
        );
        (near, far)
    }

    /// The gateway's addresses exist nowhere, so the pod gets permanent neighbor entries for them.
    fn point_to_point(&self) -> (String, String) {
        let Self { interface, near: near_mac, far: far_mac, v4, v6, .. } = self;
        let near = format!(
            "{}link set {interface} up
route replace {v4}/32 dev {interface}
route replace {v6}/128 dev {interface}
neigh replace {v6} lladdr {far_mac} dev {interface} nud permanent
",
            self.add()
        );
        let far = format!(
            "link set lo up
addr add {v4}/32 dev eth0
addr add {v6}/128 dev eth0 nodad
link set eth0 up
route add 169.254.1.1/32 dev eth0 scope link
route add 0.0.0.0/0 via 169.254.1.1
neigh add 169.254.1.1 lladdr {near_mac} dev eth0 nud permanent
route add ::/0 via fe80::1 dev eth0
neigh add fe80::1 lladdr {near_mac} dev eth0 nud permanent
"
        );
        (near, far)
    }

    fn add(&self) -> String {
        let Self { netns, interface, near, far, .. } = self;
        format!(
            "link add {interface} address {near} type veth peer name eth0 address {far} netns {}\n",
            netns.display()
        )
    }
}

/// A locally administered MAC address; `side` distinguishes the two ends.
fn mac(side: u8, serial: u32) -> String {
    let [a, b, c, d] = serial.to_be_bytes();
    format!("02:{side:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
