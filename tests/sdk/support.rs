//! Helpers of the trials with SDKs, in addition to the shared ones in [`judge`](crate::judge).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use podrole_lab::agent::Client;
use podrole_lab::cluster::Cluster;
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, Rig};
use serde_json::Value;

pub(crate) use crate::judge::{
    ACCOUNT, SOON, TEAM, becomes_refused, double, figure, real, refused, role_arn, served, spec, with_role,
};

/// The time within which the daemon promises an answer, plus a margin for the measurement.
pub(crate) const BUDGET: Duration = Duration::from_millis(800 + 150);

/// A rig with a real API server and a ready daemon.
pub(crate) fn real_ready() -> Result<Rig<Cluster>> {
    let mut rig = real()?;
    rig.start(&[])?;
    Ok(rig)
}

/// The ARN of a pod's session when its role is `role`. The session name contains the namespace, the service account and the UID.
pub(crate) fn session_arn(pod: &Pod, role: &str) -> Result<String> {
    let uid = pod.uid().get(..8).context("a UID has eight characters")?;
    Ok(format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{}.default.{uid}", pod.namespace()))
}

/// Waits until `client` is served with `role`, and returns the time it took. Until then it may be refused or get a role of `before`,
/// but nothing else.
pub(crate) fn becomes<A: ControlPlane>(
    rig: &Rig<A>,
    client: Client<'_>,
    role: &str,
    before: &[&str],
) -> Result<Duration> {
    let begin = Instant::now();
    proc::until(&format!("credentials of {role}"), SOON, || match client.credentials() {
        Err(_) => Ok(None),
        Ok(credentials) => match rig.role_of(&credentials) {
            Some(now) if now == role => Ok(Some(begin.elapsed())),
            Some(old) if before.contains(&old.as_str()) => Ok(None),
            other => bail!("got {other:?} while waiting for {role}"),
        },
    })
}

/// Waits for the audit line of a denial of `pod` for `reason`.
pub(crate) fn denial<A: ControlPlane>(rig: &Rig<A>, pod: &Pod, reason: &str) -> Result<Value> {
    let line = proc::until(&format!("a denial of {} for {reason}", pod.name()), SOON, || {
        let lines = rig.daemon()?.audit()?;
        Ok(lines.into_iter().find(|line| line["pod"]["uid"] == pod.uid() && line["reason"] == reason))
    });
    line.with_context(|| format!("audit: {:#?}", rig.daemon().and_then(|daemon| daemon.audit()).unwrap_or_default()))
}

/// [`Rig::no_leak`]
pub(crate) fn no_leak<A: ControlPlane>(rig: &Rig<A>) -> Result<()> {
    rig.no_leak()
}

/// The number of STS calls for a role.
pub(crate) fn calls_for<A: ControlPlane>(rig: &Rig<A>, role: &str) -> usize {
    let arn = role_arn(role);
    rig.sts.assume_calls().iter().filter(|call| call.role_arn.as_deref() == Some(&arn)).count()
}
