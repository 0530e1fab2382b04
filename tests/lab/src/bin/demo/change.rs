//! Third act: a pod that runs gets another role by an annotation, without a restart.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Client;
use podrole_lab::rig::ROLE;

use crate::cast::{BATCH, ROLES, Stage, TOKEN};

const OLD: &str = "batch";
const NEW: &str = "report";
/// Milliseconds in truth.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    stage.screen.heading("A NEW ROLE FOR A POD THAT RUNS", "");
    stage.screen.line(&format!("   As by: kubectl annotate --overwrite -n data pod/batch {ROLE}={NEW}"));
    let (namespace, name) = BATCH.split_once('/').context("a pod is namespace/name")?;
    let mut program = stage.sdk.boto(stage.pod(BATCH), "app")?;
    let held = program.ask()?;
    stage.checks.same("role of data/batch before the change", role(&held), OLD);

    let client = stage.agent(BATCH).v4();
    let token = client.token()?;
    let begin = Instant::now();
    stage.rig.kube.annotate("Pod", namespace, name, ROLE, Some(NEW))?;
    let listed = await_role(client, &token, begin)?;
    let credentials = client.credentials()?;
    let served = begin.elapsed();
    let real = stage.rig.role_of(&credentials).unwrap_or_default();
    stage.checks.same("role of the credentials after the change, by STS's word", real.as_str(), NEW);

    let fresh = program.fresh()?;
    stage.checks.same("role of a new boto3 session after the change", role(&fresh), NEW);
    stage.screen.line(&format!(
        "   {BATCH} is {} now: listed {:.1} ms after the annotation, with credentials after {:.1} ms.",
        stage.screen.good(role(&fresh)),
        listed.as_secs_f64() * 1e3,
        served.as_secs_f64() * 1e3,
    ));
    Ok(())
}

/// Asks until the pod's role is the new one. Each answer is the old one or the new one: never none, never an error.
fn await_role(client: Client<'_>, token: &str, begin: Instant) -> Result<Duration> {
    loop {
        let answer = client.get(ROLES, &[(TOKEN, token)])?;
        let role = answer.text();
        if answer.status == 200 && role == NEW {
            return Ok(begin.elapsed());
        }
        ensure!(answer.status == 200 && role == OLD, "in between, {BATCH} was answered {} {role}", answer.status);
        ensure!(begin.elapsed() < PATIENCE, "{BATCH} still is {OLD} {PATIENCE:?} after its annotation changed");
    }
}

fn role(said: &crate::sdk::Said) -> &str {
    said.role().map_or("nobody", |(role, _)| role)
}
