//! The configuration of containerd and the CNI plugins.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Network;

/// Debian's directory of CNI plugins.
pub(super) const PLUGINS: &str = "/usr/lib/cni";
/// The image of the process that holds a pod's namespaces: see [`super::Image::pause`].
pub(super) const PAUSE: &str = "localhost/lab/pause:1";

pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

/// The configuration of containerd. `restrict_oom_score_adj` is set because the lab may lack the capability to lower a
/// process's OOM score.
pub(super) fn containerd(dir: &Path, runc: &Path) -> String {
    let (socket, dir, runc) = (socket(dir), dir.display(), runc.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    BinaryName = "{runc}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{dir}/cni"
"#,
        socket.display()
    )
}

/// The network of the runtime's pods, IPv4 and IPv6. It is separate from the networks of the lab's own pods.
pub(super) fn network(network: Network) -> Value {
    let (plugin, v4, v6) = match network {
        Network::PointToPoint => (json!({"type": "ptp"}), "10.90.0.0/16", "fd90::/64"),
        Network::Bridge => {
            (json!({"type": "bridge", "bridge": "cni1", "isGateway": true}), "10.91.0.0/16", "fd91::/64")
        }
    };
    let mut plugin = plugin;
    plugin["ipam"] = json!({
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": v4}], [{"subnet": v6}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [plugin]})
}
