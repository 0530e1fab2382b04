//! The node's agent implements manifests and reports every field that it does not support. The other trials rely on this.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::real::RealNode;
use podrole_lab::runtime::Network;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{PYTHON, TEAM, node, python_image};

pub(crate) const TRIALS: &[Trial] =
    &[Trial::new("agent::does_what_a_pod_says_or_refuses_it", does_or_refuses).timeout(Duration::from_secs(150))];

const SOON: Duration = Duration::from_secs(60);

fn does_or_refuses() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    python_image(&site)?;
    site.namespace(TEAM, &[])?;
    for pod in [refused(), sequence(), flapping(), unready()] {
        site.cluster.create(pod)?;
    }
    let named = |pods: &[Value], name: &str| pods.iter().find(|pod| pod["metadata"]["name"] == name).cloned();
    let status = |pods: &[Value], name: &str| {
        named(pods, name).map_or(Value::Null, |pod| pod["status"]["containerStatuses"][0].clone())
    };
    let pods = site.until_pods("four pods as they should be", TEAM, SOON, |pods| {
        let ended = |name: &str| named(pods, name).is_some_and(|pod| RealNode::is_finished(&pod));
        ended("refused")
            && ended("sequence")
            && status(pods, "flapping")["restartCount"].as_i64() >= Some(2)
            && status(pods, "unready")["state"]["running"].is_object()
    })?;
    let pod = |name: &str| named(&pods, name).with_context(|| format!("there is a pod {name}"));

    let message = pod("refused")?["status"]["message"].clone();
    let text = message.as_str().unwrap_or_default();
    ensure!(text.contains("lifecycle.preStop.exec") && text.contains("subPath"), "what it cannot do: {message}");
    ensure!(status(&pods, "refused")["containerID"].is_null(), "it is not run in part");

    let done = pod("sequence")?;
    ensure!(done["status"]["phase"] == "Succeeded", "{}", site.report(TEAM));
    let uid = done["metadata"]["uid"].as_str().unwrap_or_default();
    let said = site.container_log(&done, "main")?;
    // Init containers ran first and in order, with a shared volume. Fields of the pod and its environment reached the arguments.
    ensure!(said.trim() == format!("one two {uid} team 10.0.0.5 three-four"), "{said:?}");

    let last = status(&pods, "flapping")["lastState"]["terminated"].clone();
    ensure!(last["exitCode"] == 3 && last["message"] == "as it was told", "the end before: {last:#}");
    ensure!(!RealNode::is_ready(&pod("unready")?), "its probe fails");
    Ok(())
}

/// Fields that the agent does not know. If it ignored one, a test could rely on something that has no effect.
fn refused() -> Value {
    let mut pod = python("refused", "Never", "print(1)");
    let container = &mut pod["spec"]["containers"][0];
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data", "subPath": "part"}]);
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pod
}

fn sequence() -> Value {
    let script =
        "import os, sys; print(open('/data/log').read().strip(), os.environ['UID'], os.environ['NS'], *sys.argv[1:])";
    let mut pod = python("sequence", "Never", script);
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let write = |name: &str| {
        json!({
            "name": name, "image": PYTHON, "args": ["-c", format!("open('/data/log', 'a').write('{name} ')")],
            "volumeMounts": mounts, "securityContext": {"readOnlyRootFilesystem": true},
        })
    };
    pod["spec"]["initContainers"] = json!([write("one"), write("two")]);
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {"medium": "Memory"}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = mounts;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    container["env"] = json!([
        field("UID", "metadata.uid"), field("NS", "metadata.namespace"), field("HOST", "status.hostIP"),
        {"name": "PART", "value": "three"}, {"name": "WHOLE", "value": "$(PART)-four"},
    ]);
    if let Some(args) = container["args"].as_array_mut() {
        args.extend([json!("$(HOST)"), json!("$(WHOLE)")]);
    }
    pod
}

/// A container that exits again and again, and is restarted.
fn flapping() -> Value {
    python("flapping", "Always", "open('/dev/termination-log', 'w').write('as it was told'); raise SystemExit(3)")
}

fn unready() -> Value {
    let mut pod = python("unready", "Always", "import time; time.sleep(600)");
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1});
    pod
}

fn python(name: &str, policy: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": TEAM, "name": name},
        "spec": {
            "restartPolicy": policy,
            "containers": [{"name": "main", "image": PYTHON, "args": ["-c", script]}],
        },
    })
}
