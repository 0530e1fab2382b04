//! `podrole explain` next to a running daemon, with the real API server: it predicts what the pods get, and says what it cannot know.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::pod::Pod;
use podrole_lab::rig::{ControlPlane, ROLE, Rig};
use podrole_lab::world::{Trial, scratch};
use serde_json::{Value, json};

use crate::support::{
    ACCOUNT, TEAM, becomes, becomes_refused, denial, no_leak, real, real_ready, role_arn, spec, with_role,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("explain_says_what_pods_of_a_real_cluster_get", says_what_they_get),
    Trial::new("explain_says_why_it_has_no_answer", says_why_it_has_no_answer),
];

/// The flags of both the daemon and `explain`.
const FLAGS: [&str; 2] = ["--allow", "shop=web-*"];

fn says_what_they_get() -> Result<()> {
    let mut rig = real()?;
    rig.start(&FLAGS)?;
    ControlPlane::namespace(&rig.kube, "shop", &[])?;
    let allowed = with_role(&rig, TEAM, "allowed", "web-role")?;
    let by_admin = with_role(&rig, "shop", "by-admin", "web-role")?;
    let denied = with_role(&rig, "shop", "denied", "db-role")?;
    let own = with_role(&rig, TEAM, "own", "node-role")?;
    let mixed = spec(TEAM, "mixed")
        .containers(&["app", "side"])
        .annotation(ROLE, "web-role")
        .annotation("podrole.dev/role.side", "");
    let mixed = rig.pod(mixed)?;

    for pod in [&allowed, &by_admin] {
        becomes(&rig, pod.agent("app")?.v4(), "web-role", &[])?;
        let (code, report) = explain(&rig, pod)?;
        let app = container(&report, "app")?;
        ensure!(code == Some(0) && report["decision"] == "allow" && app["role"] == role_arn("web-role"), "{report:#}");
        // The session name is the one that STS received.
        let given = rig.sts.assume_calls().into_iter().filter_map(|call| call.session_name);
        ensure!(given.into_iter().any(|name| app["session_name"] == name), "{report:#}");
    }
    for (pod, reason) in [(&denied, "NamespaceNotPermitted"), (&own, "OwnRole")] {
        becomes_refused(&rig, pod.agent("app")?.v4(), 404)?;
        let line = denial(&rig, pod, reason)?;
        let (code, report) = explain(&rig, pod)?;
        let app = container(&report, "app")?;
        ensure!(code == Some(1) && app["reason"] == reason && app["why"] == line["why"], "{report:#}\n{line}");
    }
    becomes(&rig, mixed.agent("app")?.v4(), "web-role", &[])?;
    becomes_refused(&rig, mixed.agent("side")?.v4(), 404)?;
    let (code, report) = explain(&rig, &mixed)?;
    ensure!(code == Some(1) && container(&report, "app")?["decision"] == "allow", "{report:#}");
    ensure!(container(&report, "side")?["reason"] == "NoRole", "{report:#}");
    // Only one container.
    let output = run(&rig, &["-n", TEAM, "mixed", "--container", "app"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");

    // The command that it suggests works.
    let (_, report) = explain(&rig, &denied)?;
    let command = container(&report, "app")?["command"].as_str().context("a command")?.to_owned();
    let list = command.strip_prefix("kubectl annotate namespace shop 'iam.amazonaws.com/allowed-roles=");
    let list = list.and_then(|rest| rest.strip_suffix('\'')).with_context(|| command.clone())?;
    rig.kube.annotate("Namespace", "", "shop", "iam.amazonaws.com/allowed-roles", Some(list))?;
    becomes(&rig, denied.agent("app")?.v4(), "db-role", &[])?;
    ensure!(explain(&rig, &denied)?.0 == Some(0));

    // With the same objects in a file, the answer is the same without an API server.
    let objects =
        [rig.kube.get(User::Admin, "Pod", "shop", "denied")?, rig.kube.get(User::Admin, "Namespace", "", "shop")?];
    let file = scratch().join("objects.json");
    std::fs::write(&file, json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string())?;
    let file = file.display().to_string();
    let output = rig.podrole(&[&["explain", "--account", ACCOUNT, "-o", "json", "-f", &file], &FLAGS[..]].concat())?;
    let from_file: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(from_file["pods"] == explain(&rig, &denied)?.1["pods"], "{from_file:#}");
    no_leak(&rig)
}

fn says_why_it_has_no_answer() -> Result<()> {
    let rig = real_ready()?;
    let pod = with_role(&rig, TEAM, "web", "web-role")?;
    fails(
        &run(&rig, &["-n", TEAM, "ghost"])?,
        &["there is no pod ghost in namespace team", "kubectl get pods -n team"],
    )?;
    fails(&run(&rig, &["-n", "nowhere", "web"])?, &["there is no namespace nowhere", "--namespace"])?;
    fails(&run(&rig, &["-n", TEAM, "web", "-c", "ghost"])?, &["has no container ghost", "it has: app"])?;
    fails(&run(&rig, &["-n", "../team", "web"])?, &["not a valid name"])?;
    fails(&run(&rig, &["-n", TEAM, "web", "--context", "ghost"])?, &["cannot use the kubeconfig", "ghost"])?;

    // A known user without any rights: the pod's own service account.
    let token = rig.kube.token_request(TEAM, "default", &rig.kube.url(), (pod.name(), pod.uid()))?;
    let path = kubeconfig("without-rights", |config| config["users"][0]["user"]["token"] = json!(token))?;
    let output = by_kubeconfig(&rig, &path, &["-n", TEAM, "web"])?;
    fails(
        &output,
        &["not allowed to read pod web in namespace team", "system:serviceaccount:team:default", "get or list"],
    )?;
    ensure!(!String::from_utf8_lossy(&output.stderr).contains(&token), "the token is in the message");
    let path = kubeconfig("unknown", |config| config["users"][0]["user"]["token"] = json!("no-such-token"))?;
    fails(&by_kubeconfig(&rig, &path, &["-n", TEAM, "web"])?, &["does not accept these credentials", "log in again"])?;
    let path = kubeconfig("unreachable", |config| {
        config["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    })?;
    fails(&by_kubeconfig(&rig, &path, &["-n", TEAM, "web"])?, &["cannot ask the API server", "refused"])?;
    let nothing = rig.podrole(&["explain", "--account", ACCOUNT, "web"])?;
    fails(&nothing, &["no --kubeconfig, no KUBECONFIG, no ~/.kube/config", "not in a pod"])?;

    // With a login program, as in the kubeconfigs of managed clusters.
    let path = kubeconfig("login", |config| {
        let token = config["users"][0]["user"]["token"].clone();
        let version = "client.authentication.k8s.io/v1";
        let credential = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}});
        let args = json!(["-c", "echo \"$CREDENTIAL\""]);
        let env = json!([{"name": "CREDENTIAL", "value": credential.to_string()}]);
        let program =
            json!({"apiVersion": version, "command": "/bin/sh", "args": args, "env": env, "interactiveMode": "Never"});
        config["users"][0]["user"] = json!({"exec": program});
    })?;
    let output = by_kubeconfig(&rig, &path, &["-n", TEAM, "web"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");

    // Control: the same user as the daemon, with KUBECONFIG and the namespace of the context.
    let path = kubeconfig("good", |config| config["contexts"][0]["context"]["namespace"] = json!(TEAM))?;
    let mut options = rig.options().clone();
    let missing = scratch().join("missing");
    options.env.push(("KUBECONFIG".into(), format!("{}:{}", missing.display(), path.display())));
    let output = options.run(&rig.node, &["explain", "--account", ACCOUNT, "web"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(0) && text.contains("Decision     ALLOW"), "{output:?}");
    ensure!(text.contains(&role_arn("web-role")) && text.contains(pod.uid()), "{text}");
    no_leak(&rig)
}

/// Runs `explain` with the daemon's flags and kubeconfig. Returns the exit code and the document.
fn explain(rig: &Rig<Cluster>, pod: &Pod) -> Result<(Option<i32>, Value)> {
    let output = run(rig, &[&["-o", "json", "-n", pod.namespace(), pod.name()], &FLAGS[..]].concat())?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(report["pods"][0]["uid"] == pod.uid(), "{report:#}");
    Ok((output.status.code(), report))
}

fn run(rig: &Rig<Cluster>, args: &[&str]) -> Result<Output> {
    by_kubeconfig(rig, &scratch().join("kubeconfig"), args)
}

fn by_kubeconfig(rig: &Rig<Cluster>, path: &std::path::Path, args: &[&str]) -> Result<Output> {
    let path = path.display().to_string();
    let own_role = role_arn("node-role");
    let common = ["explain", "--kubeconfig", &path, "--account", ACCOUNT, "--own-role", &own_role];
    rig.podrole(&[&common[..], args].concat())
}

/// A modified copy of the daemon's kubeconfig.
fn kubeconfig(name: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
    let text = std::fs::read_to_string(scratch().join("kubeconfig")).context("the daemon's kubeconfig")?;
    let mut config: Value = serde_json::from_str(&text).context("the lab writes JSON")?;
    change(&mut config);
    let path = scratch().join(name);
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn container<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let containers = report["pods"][0]["containers"].as_array().context("containers")?;
    containers.iter().find(|container| container["name"] == name).with_context(|| format!("{name}: {report:#}"))
}

/// `explain` gave no answer and printed one line with the reason, containing `says`.
fn fails(output: &Output, says: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3) && output.stdout.is_empty(), "{output:?}");
    ensure!(said.lines().count() == 1 && says.iter().all(|part| said.contains(part)), "{said} lacks one of {says:?}");
    println!("{}", said.trim_end());
    Ok(())
}
