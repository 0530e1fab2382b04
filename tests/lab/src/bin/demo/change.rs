//! Part 3: changing the role annotation of a running pod takes effect without a restart.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Client;
use podrole_lab::rig::ROLE;

use crate::cast::{BATCH, ROLES, Stage, TOKEN};

const OLD: &str = "batch";
const NEW: &str = "report";
/// How long the change may take. It normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    stage.screen.heading("CHANGING THE ROLE OF A RUNNING POD", "no restart");
    stage.screen.line(&format!("   Equivalent to: kubectl annotate --overwrite -n data pod/batch {ROLE}={NEW}"));
    let (namespace, name) = BATCH.split_once('/').context("pod name is not namespace/name")?;
    let mut program = stage.sdk.boto(stage.pod(BATCH), "app")?;
    let held = program.held()?;
    stage.checks.same("role of data/batch before the change", role(&held), OLD);

    let client = stage.agent(BATCH).v4();
    let token = client.token()?;
    let begin = Instant::now();
    stage.rig.kube.annotate("Pod", namespace, name, ROLE, Some(NEW))?;
    let listed = await_role(client, &token, begin)?;
    let credentials = client.credentials()?;
    let served = begin.elapsed();
    let real = stage.rig.role_of(&credentials).unwrap_or_default();
    stage.checks.same("role of the credentials after the change, according to STS", real.as_str(), NEW);

    let fresh = program.fresh()?;
    stage.checks.same("role of a new boto3 session after the change", role(&fresh), NEW);
    stage.screen.line(&format!(
        "   {BATCH} now has role {}: listed after {:.1} ms, credentials served after {:.1} ms.",
        stage.screen.good(role(&fresh)),
        listed.as_secs_f64() * 1e3,
        served.as_secs_f64() * 1e3,
    ));
    Ok(())
}

/// Polls until the metadata service lists the new role. Every answer must be the old or the new role, never an error.
fn await_role(client: Client<'_>, token: &str, begin: Instant) -> Result<Duration> {
    loop {
        let answer = client.get(ROLES, &[(TOKEN, token)])?;
        let role = answer.text();
        if answer.status == 200 && role == NEW {
            return Ok(begin.elapsed());
        }
        ensure!(
            answer.status == 200 && role == OLD,
            "during the change, {BATCH} got status {} and body {role:?}",
            answer.status
        );
        ensure!(begin.elapsed() < PATIENCE, "{BATCH} still has role {OLD} {PATIENCE:?} after its annotation changed");
    }
}

fn role(identity: &crate::sdk::Identity) -> &str {
    identity.role().map_or("none", |(role, _)| role)
}
