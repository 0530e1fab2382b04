//! A node on which nothing is wrong, and the judgements that all cases make about what `podrole check` says of it.

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

/// The namespace of pods: it allows every role.
pub(crate) const TEAM: &str = "team";
/// For what another process must get to know first.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A node with a daemon that serves a pod. The pod is here so that it lives as long.
pub(crate) struct Node<A: ControlPlane = podrole_lab::kube::Kube> {
    pub(crate) rig: Rig<A>,
    pub(crate) pod: Pod,
}

/// A rig whose metadata service is hardened, without a daemon.
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

/// A node on which nothing is wrong.
pub(crate) fn healthy() -> Result<Node> {
    serve(rig()?)
}

/// Starts the daemon of a rig, and a pod that it serves.
pub(crate) fn serve<A: ControlPlane>(mut rig: Rig<A>) -> Result<Node<A>> {
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&[])?;
    ensure!(pod.agent("app")?.credentials()?.role == "web-role", "the pod is not served");
    Ok(Node { rig, pod })
}

/// What `podrole check` said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Said {
    fn of(&self, check: Check) -> Result<&Value> {
        let areas = self.report["areas"].as_array().context("a report has areas")?;
        let checks = areas.iter().filter_map(|area| area["checks"].as_array()).flatten();
        let found = checks.into_iter().find(|line| line["code"] == check.code());
        found.with_context(|| format!("no line of {} in {:#}", check.code(), self.report))
    }

    pub(crate) fn result(&self, check: Check) -> Result<&str> {
        self.of(check)?["result"].as_str().context("a line has a result")
    }

    pub(crate) fn found(&self, check: Check) -> Result<&str> {
        self.of(check)?["found"].as_str().context("a line says what was found")
    }

    pub(crate) fn fix(&self, check: Check) -> Result<&str> {
        self.of(check)?["fix"].as_str().context("a line that is wrong says what to do")
    }

    /// What is wrong.
    pub(crate) fn bad(&self) -> Result<BTreeSet<Check>> {
        let mut bad = BTreeSet::new();
        for check in Check::ALL {
            match self.result(check)? {
                "ok" | "skipped" => {}
                wrong => {
                    ensure!(wrong == check.about().severity.name(), "{} is reported as {wrong}", check.code());
                    bad.insert(check);
                }
            }
        }
        Ok(bad)
    }
}

/// Runs `podrole check` with the daemon's flags, these on top.
pub(crate) fn check<A: ControlPlane>(rig: &Rig<A>, flags: &[&str]) -> Result<Said> {
    let output = raw(rig, &["-o", "json"], flags)?;
    let text = String::from_utf8(output.stdout).context("a report is text")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).with_context(|| format!("no report: {text}{errors}"))?;
    let hits = secrets::search(&secrets::planted(rig)?, "check", format!("{text}{errors}").as_bytes());
    ensure!(hits.is_empty(), "secrets in the report: {hits:?}");
    Ok(Said { code: output.status.code(), report })
}

/// The same in another form, as it comes.
pub(crate) fn raw<A: ControlPlane>(rig: &Rig<A>, own: &[&str], flags: &[&str]) -> Result<std::process::Output> {
    let flags = rig.options().with(flags).flags;
    let args: Vec<&str> = ["check"].iter().chain(own).copied().chain(flags.iter().map(String::as_str)).collect();
    rig.podrole(&args)
}

/// On this node the check runs and finds nothing, nor does any other.
pub(crate) fn silent<A: ControlPlane>(rig: &Rig<A>, flags: &[&str], wanted: Check) -> Result<()> {
    let said = check(rig, flags)?;
    let bad = said.bad()?;
    ensure!(bad.is_empty(), "{bad:?} on a node that is right: {:#}", said.report);
    ensure!(said.result(wanted)? == "ok", "{} did not run: {:#}", wanted.code(), said.report);
    ensure!(said.code == Some(0), "exit code {:?}", said.code);
    Ok(())
}

/// On this node the check is named, and besides it exactly those that follow from it.
pub(crate) fn named<A: ControlPlane + Sync>(
    rig: &Rig<A>,
    flags: &[&str],
    wanted: Check,
    also: &[Check],
) -> Result<Said> {
    let (said, strict) = thread::scope(|scope| {
        let strict = scope.spawn(|| raw(rig, &["--strict", "-o", "short"], flags));
        Ok::<_, anyhow::Error>((check(rig, flags)?, strict.join().expect("it does not panic")?))
    })?;
    let expected: BTreeSet<Check> = [wanted].iter().chain(also).copied().collect();
    let bad = said.bad()?;
    if bad != expected {
        bail!("wrong is {bad:?}, expected {expected:?}: {:#}", said.report);
    }
    ensure!(!said.fix(wanted)?.is_empty() && !said.found(wanted)?.is_empty(), "{:#}", said.report);
    let error = expected.iter().any(|check| check.about().severity == Severity::Error);
    ensure!(said.code == Some(error.into()), "exit code {:?}: {:#}", said.code, said.report);
    let lines = String::from_utf8_lossy(&strict.stdout).into_owned();
    ensure!(strict.status.code() == Some(1), "--strict: {}: {lines}", strict.status);
    for check in &expected {
        ensure!(lines.contains(check.code()), "the short form does not name {}: {lines}", check.code());
    }
    Ok(said)
}

/// Runs a command line on the node.
pub(crate) fn on_node<A: ControlPlane>(rig: &Rig<A>, line: &str) -> Result<String> {
    proc::run(rig.node.command().args(line.split(' ')))
}

/// Runs nft on the node with this script.
pub(crate) fn nft<A: ControlPlane>(rig: &Rig<A>, script: &str) -> Result<()> {
    let mut command = rig.node.command();
    proc::feed(command.args(["nft", "-f", "-"]), script.as_bytes()).map(drop).with_context(|| format!("nft:\n{script}"))
}

/// What a command printed, both ways.
pub(crate) fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
