//! What the SDKs' trials have in common, besides what [`judge`](crate::judge) has for others too.

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

/// What the daemon may take before it tells a client to come again, and what measuring adds.
pub(crate) const BUDGET: Duration = Duration::from_millis(800 + 150);
/// The same with a daemon that is ready.
pub(crate) fn real_ready() -> Result<Rig<Cluster>> {
    let mut rig = real()?;
    rig.start(&[])?;
    Ok(rig)
}

/// Who a pod is in AWS when its role is `role`: the session names the pod by namespace, service account and UID.
pub(crate) fn session_arn(pod: &Pod, role: &str) -> Result<String> {
    let uid = pod.uid().get(..8).context("a UID has eight characters")?;
    Ok(format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{}.default.{uid}", pod.namespace()))
}

/// Waits until `client` is served with `role`; the time it took. Until then it may be refused or have one of `before`, nothing else.
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
            other => bail!("on the way to {role} it got {other:?}"),
        },
    })
}

/// Waits for the audit line of a pod's denial for this reason.
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

/// How often STS was asked for a role.
pub(crate) fn calls_for<A: ControlPlane>(rig: &Rig<A>, role: &str) -> usize {
    let arn = role_arn(role);
    rig.sts.assume_calls().iter().filter(|call| call.role_arn.as_deref() == Some(&arn)).count()
}
