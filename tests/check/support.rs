//! A healthy node, and the assertions on the output of `podrole check` that all cases share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole::cli::check::table::{Check, Severity};
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, Rig, RigOptions};
use podrole_lab::secrets;
use serde_json::Value;

/// The namespace of the pods, which allows every role.
pub(crate) const TEAM: &str = "team";
/// How long another process may take to notice a change.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A node with a daemon and a pod that it serves. The pod is kept so that it lives as long as the node.
pub(crate) struct Node<A: ControlPlane = podrole_lab::kube::Kube> {
    pub(crate) rig: Rig<A>,
    pub(crate) pod: Pod,
}

/// A rig without a daemon, whose metadata service requires session tokens.
pub(crate) fn rig() -> Result<Rig> {
    let rig = Rig::new(options())?;
    rig.imds.set_v1(false);
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

pub(crate) fn options() -> RigOptions {
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole")));
    RigOptions { binary, ..RigOptions::default() }
}

/// A node on which every check passes.
pub(crate) fn healthy() -> Result<Node> {
    serve(rig()?)
}

/// Starts a rig's daemon and a pod that it serves.
pub(crate) fn serve<A: ControlPlane>(mut rig: Rig<A>) -> Result<Node<A>> {
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&[])?;
    ensure!(pod.agent("app")?.credentials()?.role == "web-role", "the pod is not served");
    Ok(Node { rig, pod })
}

/// The output of `podrole check`.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Said {
    fn of(&self, check: Check) -> Result<&Value> {
        let areas = self.report["areas"].as_array().context("a report has areas")?;
        let checks = areas.iter().filter_map(|area| area["checks"].as_array()).flatten();
        let found = checks.into_iter().find(|line| line["code"] == check.code());
        found.with_context(|| format!("{} is not in {:#}", check.code(), self.report))
    }

    pub(crate) fn result(&self, check: Check) -> Result<&str> {
        self.of(check)?["result"].as_str().context("a check has a result")
    }

    pub(crate) fn found(&self, check: Check) -> Result<&str> {
        self.of(check)?["found"].as_str().context("a check says what was found")
    }

    pub(crate) fn fix(&self, check: Check) -> Result<&str> {
        self.of(check)?["fix"].as_str().context("a failed check names a fix")
    }

    /// The checks that failed.
    pub(crate) fn failed(&self) -> Result<BTreeSet<Check>> {
        let mut failed = BTreeSet::new();
        for check in Check::ALL {
            match self.result(check)? {
                "ok" | "skipped" => {}
                wrong => {
                    ensure!(wrong == check.about().severity.name(), "{} is reported as {wrong}", check.code());
                    failed.insert(check);
                }
            }
        }
        Ok(failed)
    }
}

/// Runs `podrole check` with the daemon's flags and these.
pub(crate) fn check<A: ControlPlane>(rig: &Rig<A>, flags: &[&str]) -> Result<Said> {
    let output = raw(rig, &["-o", "json"], flags)?;
    let text = String::from_utf8(output.stdout).context("a report is text")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).with_context(|| format!("not a report: {text}{errors}"))?;
    let hits = secrets::search(&secrets::planted(rig)?, "check", format!("{text}{errors}").as_bytes());
    ensure!(hits.is_empty(), "secrets in the report: {hits:?}");
    Ok(Said { code: output.status.code(), report })
}

/// The same with other output flags; returns the output as it is.
pub(crate) fn raw<A: ControlPlane>(rig: &Rig<A>, own: &[&str], flags: &[&str]) -> Result<std::process::Output> {
    let flags = rig.options().with(flags).flags;
    let args: Vec<&str> = ["check"].iter().chain(own).copied().chain(flags.iter().map(String::as_str)).collect();
    rig.podrole(&args)
}

/// Asserts that the check runs and passes on this node, and that no other check fails.
pub(crate) fn passes<A: ControlPlane>(rig: &Rig<A>, flags: &[&str], wanted: Check) -> Result<()> {
    let said = check(rig, flags)?;
    let failed = said.failed()?;
    ensure!(failed.is_empty(), "{failed:?} failed on a healthy node: {:#}", said.report);
    ensure!(said.result(wanted)? == "ok", "{} did not run: {:#}", wanted.code(), said.report);
    ensure!(said.code == Some(0), "exit code {:?}", said.code);
    Ok(())
}

/// Asserts that the check fails on this node, and besides it exactly the checks in `also`.
pub(crate) fn fails<A: ControlPlane + Sync>(
    rig: &Rig<A>,
    flags: &[&str],
    wanted: Check,
    also: &[Check],
) -> Result<Said> {
    let (said, strict) = thread::scope(|scope| {
        let strict = scope.spawn(|| raw(rig, &["--strict", "-o", "short"], flags));
        Ok::<_, anyhow::Error>((check(rig, flags)?, strict.join().expect("the thread does not panic")?))
    })?;
    let expected: BTreeSet<Check> = [wanted].iter().chain(also).copied().collect();
    let failed = said.failed()?;
    if failed != expected {
        bail!("{failed:?} failed, expected {expected:?}: {:#}", said.report);
    }
    ensure!(!said.fix(wanted)?.is_empty() && !said.found(wanted)?.is_empty(), "{:#}", said.report);
    let error = expected.iter().any(|check| check.about().severity == Severity::Error);
    ensure!(said.code == Some(error.into()), "exit code {:?}: {:#}", said.code, said.report);
    let lines = String::from_utf8_lossy(&strict.stdout).into_owned();
    ensure!(strict.status.code() == Some(1), "--strict: {}: {lines}", strict.status);
    for check in &expected {
        ensure!(lines.contains(check.code()), "the short output does not name {}: {lines}", check.code());
    }
    Ok(said)
}

/// Runs a command on the node.
pub(crate) fn on_node<A: ControlPlane>(rig: &Rig<A>, line: &str) -> Result<String> {
    proc::run(rig.node.command().args(line.split(' ')))
}

/// Runs an nft script on the node.
pub(crate) fn nft<A: ControlPlane>(rig: &Rig<A>, script: &str) -> Result<()> {
    let mut command = rig.node.command();
    proc::feed(command.args(["nft", "-f", "-"]), script.as_bytes()).map(drop).with_context(|| format!("nft:\n{script}"))
}

/// What a command printed on standard output and standard error.
pub(crate) fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
