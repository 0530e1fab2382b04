//! The daemon removes the startup taint when it is ready and not before, and its right to do so permits nothing else.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::{self, Trial};
use serde_json::{Value, json};

use crate::api::Api;
use crate::rights::{Right, may, rights, set};
use crate::support::{Kubectl, SOON, SYSTEM, object, real, render};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("the_startup_taint_goes_when_all_is_ready", goes).timeout(Duration::from_secs(240)),
    Trial::new("the_right_to_the_taint_is_good_for_nothing_else", bounded),
];

const TARGET: &str = "overlays/startup-taint";
const TAINT: &str = "podrole.dev/not-ready";
const KEY: &str = "--startup-taint";

fn goes() -> Result<()> {
    let mut rig = real()?;
    let (kubectl, api) = (Kubectl::new(&rig)?, Api::new(&rig)?);
    kubectl.apply(TARGET)?;
    let (token, config) = bound_token(&rig, &api)?;
    ensure!(!token.is_empty(), "no token");
    let objects = render(TARGET)?;
    let role = object(&objects, "ClusterRole", "podrole")?;
    let all = rights(role)?;
    let flags = ["--kubeconfig", config.as_str(), KEY, TAINT];
    // Without each right of this overlay, and while another cause keeps the daemon from being ready.
    for (resource, verb) in [("nodes", "get"), ("nodes", "patch"), ("namespaces", "list")] {
        let what = format!("{verb} {resource}");
        taint(&api)?;
        let is_it = |right: &&Right| right.1 == resource && right.2 == verb;
        ensure!(all.iter().any(|right| is_it(&right)), "{what} is not granted");
        set(&api, role, &all.iter().filter(|right| !is_it(right)).cloned().collect::<Vec<_>>())?;
        proc::until(&what, SOON, || Ok((!may(&kubectl, "", resource, verb)?).then_some(())))?;
        rig.launch(&flags)?;
        let sign = if resource == "nodes" { "Cannot remove the startup taint" } else { "cannot list resource" };
        proc::until(sign, SOON, || Ok(rig.daemon()?.logs().contains(sign).then_some(())))?;
        ensure!(taints(&kubectl, "node-1")? == ["keep", TAINT, TAINT], "it is gone without the right to {what}");
        ensure!(rig.daemon()?.is_ready() == (resource == "nodes"), "a taint that stays is no reason to serve nobody");
        // Control: with all rights the same daemon removes this taint and no other.
        set(&api, role, &all)?;
        let gone = || Ok((taints(&kubectl, "node-1")? == ["keep"]).then_some(()));
        proc::until("the taint to be gone", Duration::from_secs(60), gone)
            .with_context(|| rig.daemon().map(|d| d.recently()).unwrap_or_default())?;
        ensure!(rig.daemon()?.is_ready(), "gone before all is ready");
        ensure!(taints(&kubectl, "node-2")? == [TAINT], "another node's is gone");
    }
    // A node that never had the taint is not an error.
    rig.start(&flags)?;
    let said = "This node does not have the startup taint";
    proc::until(said, SOON, || Ok(rig.daemon()?.logs().contains(said).then_some(())))
}

fn bounded() -> Result<()> {
    let rig = real()?;
    let (kubectl, api) = (Kubectl::new(&rig)?, Api::new(&rig)?);
    kubectl.apply(TARGET)?;
    taint(&api)?;
    let (token, _) = bound_token(&rig, &api)?;
    let patch = |token: &str, node: &str, patch: &Value| {
        kubectl.try_run(&["--token", token, "patch", "node", node, "--type=merge", "-p", &patch.to_string()], "")
    };
    let spec = |taints: Value| json!({"spec": {"taints": taints}});
    let (ours, keep) = (json!({"key": TAINT, "effect": "NoSchedule"}), json!({"key": "keep", "effect": "NoSchedule"}));
    let more = json!({"key": "more", "effect": "NoExecute"});
    let cases = [
        ("node-2", spec(json!([])), "only the node that its own pod runs on"),
        ("node-1", spec(json!([])), "and change no other"),
        ("node-1", spec(json!([keep, more])), "and change no other"),
        ("node-1", json!({"metadata": {"labels": {"a": "b"}}}), "change nothing of a node but its taint"),
        ("node-1", json!({"metadata": {"annotations": {"a": "b"}}}), "change nothing of a node but its taint"),
        ("node-1", json!({"metadata": {"finalizers": ["a/b"]}}), "change nothing of a node but its taint"),
        ("node-1", json!({"spec": {"unschedulable": true}}), "change nothing of a node but its taint"),
        ("node-1", json!({"spec": {"providerID": "aws:///x/i-1"}}), "change nothing of a node but its taint"),
        (
            "node-1",
            json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}),
            "change nothing of a node",
        ),
    ];
    // The server enforces the policy shortly after it was applied.
    proc::until("the policy to be in force", SOON, || {
        Ok(patch(&token, "node-2", &json!({"metadata": {"labels": {"probe": "x"}}}))?.err())
    })?;
    for (node, change, reason) in &cases {
        let refused = patch(&token, node, change)?.err().with_context(|| format!("{node} {change}: done"))?;
        ensure!(refused.contains(reason), "{node} {change}: {refused}");
    }
    // A token that is not bound to a pod does not name a node.
    let loose = kubectl.run(&["create", "token", "podrole", "-n", SYSTEM])?;
    let off = spec(json!([keep]));
    let refused = patch(loose.out.trim(), "node-1", &off)?.err().context("a token of no node may do it")?;
    ensure!(refused.contains("only the node that its own pod runs on"), "{refused}");
    // Controls: the intended change works, and administrators are not restricted.
    patch(&token, "node-1", &off)?.map_err(anyhow::Error::msg)?;
    ensure!(taints(&kubectl, "node-1")? == ["keep"] && taints(&kubectl, "node-2")? == [TAINT], "not as patched");
    for (node, change, _) in &cases {
        let answer = api.merge(&format!("/api/v1/nodes/{node}"), change)?;
        ensure!(answer.is_admitted(), "{node} {change}: {answer:?}");
    }
    ensure!(ours["key"] == TAINT, "{ours}");
    Ok(())
}

/// Two new nodes: both have the taint, one of them also others.
fn taint(api: &Api) -> Result<()> {
    let one = |key: &str, effect: &str| json!({"key": key, "effect": effect});
    let nodes = [
        ("node-1", json!([one("keep", "NoSchedule"), one(TAINT, "NoSchedule"), one(TAINT, "NoExecute")])),
        ("node-2", json!([one(TAINT, "NoSchedule")])),
    ];
    for (name, taints) in nodes {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let made = api.post("/api/v1/nodes", &node)?;
        ensure!(made.is_admitted() || made.status == 409, "{made:?}");
        let patched = api.merge(&format!("/api/v1/nodes/{name}"), &json!({"spec": {"taints": taints}}))?;
        ensure!(patched.is_admitted(), "{patched:?}");
    }
    Ok(())
}

/// The keys of a node's taints, without those that the server adds to nodes without a kubelet.
fn taints(kubectl: &Kubectl, node: &str) -> Result<Vec<String>> {
    let said = kubectl.run(&["get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"])?;
    let keys = said.out.split_whitespace().filter(|key| !key.starts_with("node.kubernetes.io/"));
    Ok(keys.map(str::to_owned).collect())
}

/// A token like the one the kubelet gets for the daemon's pod, which names the pod's node, and the path of a kubeconfig with it.
fn bound_token(rig: &Rig<Cluster>, api: &Api) -> Result<(String, String)> {
    taint(api)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "podrole-x", "namespace": SYSTEM},
        "spec": {
            "nodeName": "node-1", "serviceAccountName": "podrole",
            "containers": [{"name": "podrole", "image": "podrole"}],
        },
    });
    let made = api.post(&format!("/api/v1/namespaces/{SYSTEM}/pods"), &pod)?;
    let uid = made.body["metadata"]["uid"].as_str().with_context(|| format!("{made:?}"))?;
    let token = rig.kube.token_request(SYSTEM, "podrole", &rig.kube.url(), ("podrole-x", uid))?;
    let path = world::scratch().join("bound.kubeconfig");
    rig.kube.kubeconfig(&path, User::Podrole)?;
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    config["users"][0]["user"]["token"] = json!(token);
    fs::write(&path, config.to_string()).context("write a kubeconfig")?;
    Ok((token, path.to_str().context("a path that is text")?.to_owned()))
}
