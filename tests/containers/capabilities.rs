//! Every capability that the manifests grant is needed. Without it podrole's pod is not ready and names the missing capability.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::proc;
use podrole_lab::real::RealNode;
use podrole_lab::runtime::Network;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{PYTHON, READY, SYSTEM, TEAM, apply, daemonset, node, podrole_image, python_image};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("capabilities::each_that_is_granted_is_needed", each_is_needed).timeout(Duration::from_secs(240)),
    Trial::new("capabilities::the_kernel_wants_them", the_kernel_wants_them).timeout(Duration::from_secs(120)),
];

/// Each granted capability, its container, and its place in the DaemonSet.
const GRANTED: [(&str, &str, &[&str]); 2] = [
    ("guard", "/spec/template/spec/initContainers/0", &["NET_ADMIN"]),
    ("podrole", "/spec/template/spec/containers/0", &["NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN"]),
];

fn each_is_needed() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    let image = podrole_image(&site)?;
    // Control: with all capabilities the pod becomes ready.
    apply(&site, &image, &[])?;
    site.until_pods("podrole's pod to become ready", SYSTEM, READY, |pods| pods.iter().any(RealNode::is_ready))?;
    let template = daemonset(&site)?["spec"]["template"]["spec"].clone();
    for (container, path, granted) in GRANTED {
        let list = if container == "guard" { "initContainers" } else { "containers" };
        let security = &template[list][0]["securityContext"]["capabilities"];
        ensure!(security["add"] == json!(granted) && security["drop"] == json!(["ALL"]), "{container}: {security}");
        for taken in granted {
            let left: Vec<&str> = granted.iter().copied().filter(|name| name != taken).collect();
            site.kubectl(&["delete", "-n", SYSTEM, "daemonset", "podrole", "--wait=true"])?;
            site.until_pods("podrole's pod to be gone", SYSTEM, READY, <[Value]>::is_empty)?;
            let patch =
                json!({"op": "replace", "path": format!("{path}/securityContext/capabilities/add"), "value": left});
            apply(&site, &image, &[patch])?;
            fails(&site, container, taken).with_context(|| format!("{container} without {taken}"))?;
        }
    }
    Ok(())
}

/// Asserts that the container exits with an error that names the capability, and that the pod is not ready.
fn fails(site: &RealNode, container: &str, taken: &str) -> Result<()> {
    let log = proc::until("the container's failure", READY, || {
        let Some(pod) = site.pods(SYSTEM)?.into_iter().next() else { return Ok(None) };
        if RealNode::is_ready(&pod) {
            bail!("the pod is ready");
        }
        let Ok(state) = RealNode::container_state(&pod, container) else { return Ok(None) };
        let ended = [&state["state"]["terminated"], &state["lastState"]["terminated"]];
        let failed = ended.iter().any(|ended| ended["exitCode"].as_i64().is_some_and(|code| code != 0));
        let log = site.container_log(&pod, container)?;
        Ok((failed || log.contains(&format!("CAP_{taken}"))).then_some(log))
    })
    .with_context(|| site.report(SYSTEM))?;
    ensure!(log.contains(&format!("CAP_{taken}")), "it does not name the capability:\n{log}");
    println!(
        "figure: {container} without {taken}: {}",
        log.lines().find(|line| line.contains(taken)).unwrap_or_default()
    );
    Ok(())
}

/// The daemon has a table of the capabilities that it needs, which could list too many. This trial checks with the kernel: in a
/// container like the daemon's, an operation that needs a capability fails without it and succeeds with all of them. (The guard
/// container above covers NET_ADMIN.)
fn the_kernel_wants_them() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    python_image(&site)?;
    site.namespace(TEAM, &[])?;
    // The network namespace of another pod.
    site.cluster.create(prober("resident", &[], false, "import time; time.sleep(600)"))?;
    site.until_pods("a pod that runs", TEAM, READY, |pods| pods.iter().any(RealNode::is_ready))?;
    let all: &[&str] = GRANTED[1].2;
    for taken in [None, Some("NET_BIND_SERVICE"), Some("SYS_ADMIN")] {
        let left: Vec<&str> = all.iter().copied().filter(|name| Some(*name) != taken).collect();
        let name =
            taken.map_or_else(|| "with-all".to_owned(), |name| format!("no-{}", name.to_lowercase().replace('_', "-")));
        site.cluster.create(prober(&name, &left, true, TRY))?;
        let ended =
            |pods: &[Value]| pods.iter().any(|pod| pod["metadata"]["name"] == name && RealNode::is_finished(pod));
        let pods = site.until_pods("the attempts", TEAM, READY, ended)?;
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name).context("there is a pod")?;
        let said = site.container_log(pod, "main")?;
        let bind = if taken == Some("NET_BIND_SERVICE") { "bind EACCES" } else { "bind ok" };
        let enter = if taken == Some("SYS_ADMIN") { "setns EPERM" } else { "setns ok" };
        ensure!(said.lines().eq([bind, enter]), "without {taken:?}, not {bind} and {enter}: {said}");
    }
    Ok(())
}

/// Operations of the daemon: listen on port 80, enter another network namespace.
const TRY: &str = r#"
import ctypes, errno, glob, os, socket
try:
    socket.create_server(("127.0.0.1", 80)).close()
    print("bind ok")
except OSError as error:
    print("bind", errno.errorcode[error.errno])
libc = ctypes.CDLL(None, use_errno=True)
namespace = os.open(glob.glob("/run/netns/cni-*")[0], os.O_RDONLY)
CLONE_NEWNET = 0x40000000
print("setns", "ok" if libc.setns(namespace, CLONE_NEWNET) == 0 else errno.errorcode[ctypes.get_errno()])
"#;

/// A container with the same privileges as the daemon's.
fn prober(name: &str, capabilities: &[&str], host: bool, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": TEAM, "name": name},
        "spec": {
            "restartPolicy": "Never", "hostNetwork": host,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "netns", "hostPath": {"path": "/run/netns"}}],
            "containers": [{
                "name": "main", "image": PYTHON, "args": ["-c", script],
                "volumeMounts": [
                    {"name": "netns", "mountPath": "/run/netns", "readOnly": true, "mountPropagation": "HostToContainer"},
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": capabilities},
                },
            }],
        },
    })
}
