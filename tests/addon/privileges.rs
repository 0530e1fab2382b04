//! The privileges in the manifests are enough for each container. Without any one of them, the program names the missing one.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use podrole_lab::node::METADATA_V4;
use podrole_lab::proc::Process;
use podrole_lab::world::Trial;
use serde_json::Value;

use crate::support::{Applied, SOON, applied, object, real, render, served, with_role};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("each_container_runs_with_its_capabilities_and_no_fewer", exact),
    Trial::new("guard_and_cleanup_stay_until_they_are_told_to_end", hold),
];

fn exact() -> Result<()> {
    let Applied { mut rig, account, .. } = applied(".")?;
    let guard = granted(".", "initContainers")?;
    ensure!(guard == ["net_admin"], "{guard:?}");
    rig.options_mut().wrapper = with(&[]);
    let said = text(&rig.podrole(&["guard"])?);
    ensure!(said.contains("routing guard") && said.contains("table guard"), "without anything: {said}");
    rig.options_mut().wrapper = with(&guard);
    let closed = rig.podrole(&["guard"])?;
    ensure!(closed.status.success(), "{}", text(&closed));

    for (target, identity) in [("overlays/ip-identity", "ip"), (".", "kernel")] {
        let all = granted(target, "containers")?;
        let flags = ["--kubeconfig", account.as_str(), "--identity", identity];
        for missing in &all {
            let rest: Vec<String> = all.iter().filter(|one| *one != missing).cloned().collect();
            rig.options_mut().wrapper = with(&rest);
            rig.launch(&flags)?;
            let status = rig.daemon_mut()?.wait(SOON).with_context(|| format!("{target} without {missing}"))?;
            let named = format!("the capability CAP_{} is missing", missing.to_uppercase());
            let logs = rig.daemon()?.logs();
            ensure!(!status.success() && logs.contains(&named), "{target} without {missing}: {status}\n{logs}");
        }
        rig.options_mut().wrapper = with(&all);
        rig.start(&flags)?;
        let pod = with_role(&rig, &format!("web-{identity}"), "web-role")?;
        served(&rig, pod.agent("app")?.v4(), "web-role")?;
        served(&rig, pod.agent("app")?.v6(), "web-role")?;
        let log = rig.daemon()?.logs();
        ensure!(!log.contains("not permitted") && !log.contains("Permission denied"), "{target}: {log}");
        ensure!(rig.daemon()?.metric("podrole_faults_total", &[])? == 0.0, "{target}: {}", rig.daemon()?.metrics()?);
    }
    Ok(())
}

fn hold() -> Result<()> {
    let rig = real()?;
    let pod = with_role(&rig, "web", "web-role")?;
    let agent = pod.agent("app")?;
    let real_service = || agent.reach((METADATA_V4, 80).into(), Duration::from_millis(500)).is_ok();
    ensure!(real_service(), "the node is closed before anything runs");
    for (subcommand, said, open) in [("guard", "no longer reach", false), ("cleanup", "from now on every pod", true)] {
        let mut command = rig.node.command();
        command.args(with(&granted("overlays/guard-only", "containers")?));
        command.args([env!("CARGO_BIN_EXE_podrole"), subcommand, "--hold"]);
        let mut process = Process::start(subcommand, &mut command)?;
        process.wait_for_log(said, SOON)?;
        ensure!(real_service() == open, "{subcommand}: {}", process.log()?);
        ensure!(process.is_running()?, "{subcommand} has ended: {}", process.log()?);
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(SOON)?;
        ensure!(status.success(), "{subcommand}: {status}");
        ensure!(real_service() == open, "{subcommand} undid what it did");
    }
    Ok(())
}

/// The capabilities of the first container in a target's list, in setpriv's spelling.
fn granted(target: &str, list: &str) -> Result<Vec<String>> {
    let objects = render(target)?;
    let container = &object(&objects, "DaemonSet", "podrole")?["spec"]["template"]["spec"][list][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array().context("nothing is added")?;
    Ok(added.iter().filter_map(Value::as_str).map(str::to_lowercase).collect())
}

/// Starts a program as root with only these capabilities, as a container runtime does.
fn with(capabilities: &[String]) -> Vec<String> {
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    [
        "setpriv".to_owned(),
        "--no-new-privs".to_owned(),
        "--inh-caps=-all".to_owned(),
        format!("--bounding-set=-all{set}"),
    ]
    .into()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
