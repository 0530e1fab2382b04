//! The real API server accepts everything in `daemonset/` from `kubectl apply -k` without a warning.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::api::Api;
use crate::support::{Kubectl, SYSTEM, dir, object, real, render};
use crate::targets::TARGETS;

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("everything_can_be_applied_without_a_warning", everything),
    Trial::new("removal_as_readme_has_it", removal),
    Trial::new("a_pod_of_the_daemonset_is_admitted_where_it_is_to_run", pod),
];

/// The part of the Prometheus operator's PodMonitor that is used here. The full definition has 1,300 lines.
const POD_MONITOR: &str = include_str!("podmonitor.crd.yaml");

fn everything() -> Result<()> {
    let rig = real()?;
    let kubectl = Kubectl::new(&rig)?;
    kubectl.try_run(&["apply", "-f", "-"], POD_MONITOR)?.map_err(anyhow::Error::msg)?;
    kubectl.run(&["wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com", "--timeout=20s"])?;
    for target in TARGETS {
        kubectl.apply(target)?;
        // Applying it twice changes nothing.
        kubectl.apply(target)?;
        // Client-side apply, starting without objects on the server.
        let path = dir(target);
        let path = path.to_str().context("a path that is text")?;
        let said = kubectl.run(&["apply", "--dry-run=server", "--validate=strict", "-k", path])?;
        // kubectl warns about objects from server-side apply; any other warning is about the manifests.
        let other = said.err.lines().filter(|line| !line.contains("last-applied-configuration"));
        ensure!(other.count() == 0, "{target}: {}", said.err);
        for object in render(target)? {
            let kind = object["kind"].as_str().context("an object without a kind")?;
            let name = object["metadata"]["name"].as_str().context("an object without a name")?;
            ensure!(object["metadata"]["labels"]["app.kubernetes.io/name"] == "podrole", "{target}: {kind} {name}");
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            kubectl.run(&["get", kind, name, "-n", namespace]).with_context(|| target.to_owned())?;
        }
    }
    // Control: strict validation rejects a typo, and warnings are detected.
    let typo = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "typo", "namespace": SYSTEM}, "automountServiceAccountTokn": false,
    });
    let strict = kubectl.try_run(&["apply", "--server-side", "--validate=strict", "-f", "-"], &typo.to_string())?;
    ensure!(strict.is_err_and(|error| error.contains("automountServiceAccountTokn")), "a typo passes");
    kubectl.run(&["label", "--overwrite", "namespace", SYSTEM, "pod-security.kubernetes.io/warn=restricted"])?;
    let restart = json!({"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}}).to_string();
    let said = kubectl.run(&["patch", "daemonset", "podrole", "-n", SYSTEM, "-p", &restart])?;
    ensure!(said.err.contains("Warning: would violate PodSecurity"), "no warning: {}{}", said.out, said.err);
    Ok(())
}

/// With plain `kubectl apply`, as most people use it: fields that the overlay leaves out must be removed from the existing objects.
fn removal() -> Result<()> {
    let rig = real()?;
    let kubectl = Kubectl::new(&rig)?;
    let at = |target: &str| dir(target).display().to_string();
    kubectl.run(&["apply", "-k", &at("base")])?;
    let said = kubectl.run(&["apply", "-k", &at("overlays/cleanup")])?;
    ensure!(said.err.is_empty(), "{}", said.err);
    let live = kubectl.run(&["get", "daemonset", "podrole", "-n", SYSTEM, "-o", "json"])?;
    let live: Value = serde_json::from_str(&live.out)?;
    let pod = &live["spec"]["template"]["spec"];
    ensure!(pod["initContainers"].is_null() && pod["volumes"].is_null(), "{pod:#}");
    let container = &pod["containers"][0];
    ensure!(container["args"] == json!(["cleanup", "--hold"]) && container["env"].is_null(), "{container:#}");
    for left_out in ["volumeMounts", "livenessProbe", "readinessProbe", "startupProbe"] {
        ensure!(container[left_out].is_null(), "{container:#}");
    }
    kubectl.run(&["delete", "-k", &at("base"), "--wait=false"])?;
    for what in ["daemonset/podrole", "clusterrole/podrole", "clusterrolebinding/podrole", "serviceaccount/podrole"] {
        let found = kubectl.try_run(&["get", what, "-n", SYSTEM], "")?;
        ensure!(found.is_err_and(|error| error.contains("NotFound")), "{what} is left");
    }
    Ok(())
}

fn pod() -> Result<()> {
    let rig = real()?;
    let kubectl = Kubectl::new(&rig)?;
    let api = Api::new(&rig)?;
    kubectl.apply(".")?;
    let objects = render(".")?;
    let template = &object(&objects, "DaemonSet", "podrole")?["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": template["metadata"], "spec": template["spec"],
    });
    pod["metadata"]["name"] = json!("by-hand");
    let answer = api.post(&format!("/api/v1/namespaces/{SYSTEM}/pods"), &pod)?;
    ensure!(answer.is_admitted() && answer.warnings.is_empty(), "{answer:?}");
    ensure!(answer.body["spec"]["priority"] == 2_000_001_000, "{}", answer.body["spec"]["priority"]);
    // Control: without the namespace's label the pod is rejected.
    for level in ["baseline", "restricted"] {
        let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
        let space =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": level, "labels": Value::Null}});
        ensure!(api.post("/api/v1/namespaces", &space)?.is_admitted(), "namespace {level}");
        ensure!(api.merge(&format!("/api/v1/namespaces/{level}"), &labels)?.is_admitted(), "label of {level}");
        let answer = api.post(&format!("/api/v1/namespaces/{level}/pods"), &pod)?;
        ensure!(answer.status == 403 && answer.message().contains("violates PodSecurity"), "{level}: {answer:?}");
    }
    Ok(())
}
