//! Many concurrent requests for credentials that are not cached yet.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::{Load, LoadReport, Target};
use podrole_lab::world::Trial;

use crate::support::{TEAM, calls_for, figure, no_leak, real, with_role};

pub(crate) const TRIALS: &[Trial] =
    &[Trial::new("500_concurrent_cold_requests_for_one_key_are_one_call_to_sts", one_call).alone()];

/// Requests per pod, below the daemon's limit for one pod.
const EACH: usize = 250;
/// Long enough for every request to arrive before the first answer, and short enough that no client gives up.
const STS_TAKES: Duration = Duration::from_millis(500);
const LOOKUPS: &str = "podrole_credential_cache_lookups_total";

fn one_call() -> Result<()> {
    let mut rig = real()?;
    rig.start(&["--session-scope", "service-account"])?;
    // Two pods of one service account have the same cache key.
    let pods = [with_role(&rig, TEAM, "a", "shared-role")?, with_role(&rig, TEAM, "b", "shared-role")?];
    rig.sts.set_delay(STS_TAKES);
    let agents = [pods[0].agent("app")?, pods[1].agent("app")?];
    let plan = |agent: &podrole_lab::agent::Agent| -> Result<Load> {
        let token = agent.v4().token()?;
        let path = "/latest/meta-data/iam/security-credentials/shared-role";
        let request = agent.v4().render("GET", path, &[("X-aws-ec2-metadata-token", &token)]);
        Ok(Load::new(Target::v4(), &request).workers(EACH).requests(EACH as u64))
    };
    let (plan_a, plan_b) = (plan(&agents[0])?, plan(&agents[1])?);
    ensure!(calls_for(&rig, "shared-role") == 0, "the key was already cached");
    // Start the requests of both pods before waiting for either.
    let (a, b) = (agents[0].start_load(&plan_a)?, agents[1].start_load(&plan_b)?);
    let reports: [LoadReport; 2] = [a.wait()?, b.wait()?];

    let calls = calls_for(&rig, "shared-role");
    let waited = rig.daemon()?.metric(LOOKUPS, &[("result", "wait")])?;
    for report in &reports {
        figure("cold latency p50, p99, max in us", format_args!("{:?}", report.latency));
    }
    figure("cold requests for one key", format_args!("{} answered, {waited} at once, {calls} calls to STS", 2 * EACH));
    for report in &reports {
        ensure!(report.with_status(200) == EACH as u64 && report.bodies.len() == 1, "{report:?}");
    }
    ensure!(reports[0].bodies.keys().eq(reports[1].bodies.keys()), "two sets of credentials for one key");
    ensure!(calls == 1, "{calls} calls: {:#?}", rig.sts.assume_calls());
    // All requests must have arrived while the one call was under way, or the result shows nothing.
    ensure!(waited == (2 * EACH) as f64, "only {waited} waited for it");
    no_leak(&rig)
}
