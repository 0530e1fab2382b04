//! Every capability that the manifests grant is needed: without it podrole's pod is not ready and says which one it lacks.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::proc;
use podrole_lab::real::RealNode;
use podrole_lab::runtime::Network;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{READY, SYSTEM, apply, daemonset, node, podrole_image};

pub(crate) const TRIALS: &[Trial] = &[Trial::new("capabilities::each_that_is_granted_is_needed", each_is_needed)
    .timeout(Duration::from_secs(240))
    .alone()];

/// What is granted to which container, and how to find it in the DaemonSet.
const GRANTED: [(&str, &str, &[&str]); 2] = [
    ("guard", "/spec/template/spec/initContainers/0", &["NET_ADMIN"]),
    ("podrole", "/spec/template/spec/containers/0", &["NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN"]),
];

fn each_is_needed() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    let image = podrole_image(&site)?;
    // The control: with all of them it becomes ready.
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

/// The container ends with an error that names the capability, and the pod is not ready.
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
