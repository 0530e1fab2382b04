//! What the trials have in common: rigs, and the judgements that all of them make.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::agent::{Client, Creds, CredsError};
use podrole_lab::cluster::{Assets, Cluster};
use podrole_lab::pod::{Pod, PodSpec, Qos};
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, ROLE, Rig, RigOptions};
use podrole_lab::world;
use serde_json::Value;

/// The namespace of most trials' pods: it allows every role.
pub(crate) const TEAM: &str = "team";
/// The account of the node, and so of the roles.
pub(crate) const ACCOUNT: &str = "111122223333";
/// What the daemon may take before it tells a client to come again, and what measuring adds.
pub(crate) const BUDGET: Duration = Duration::from_millis(800 + 150);
/// For what happens within milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A rig with a real API server and no daemon yet; the trial is skipped where there is none.
pub(crate) fn real() -> Result<Rig<Cluster>> {
    if let Err(missing) = Assets::find() {
        return world::skip(&format!("{missing:#}"));
    }
    let rig = Rig::real(options())?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

/// The same with a daemon that is ready.
pub(crate) fn real_ready() -> Result<Rig<Cluster>> {
    let mut rig = real()?;
    rig.start(&[])?;
    Ok(rig)
}

/// A rig with the API double, for what no real server does on demand.
pub(crate) fn double() -> Result<Rig> {
    let rig = Rig::new(options())?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

fn options() -> RigOptions {
    RigOptions { binary: Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole"))), ..RigOptions::default() }
}

/// A pod as the API server takes it: without requests of resources it is of the lowest class, which the server alone decides.
pub(crate) fn spec(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name).qos(Qos::BestEffort)
}

/// Such a pod that asks for a role.
pub(crate) fn with_role<A: ControlPlane>(rig: &Rig<A>, namespace: &str, name: &str, role: &str) -> Result<Pod> {
    rig.pod(spec(namespace, name).annotation(ROLE, role))
}

/// The ARN of a role's name.
pub(crate) fn role_arn(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// Who a pod is in AWS when its role is `role`: the session names the pod by namespace, service account and UID.
pub(crate) fn session_arn(pod: &Pod, role: &str) -> Result<String> {
    let uid = pod.uid().get(..8).context("a UID has eight characters")?;
    Ok(format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{}.default.{uid}", pod.namespace()))
}

/// [`Rig::served`]
pub(crate) fn served<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, role: &str) -> Result<Creds> {
    rig.served(client, role)
}

/// [`Rig::refused`]
pub(crate) fn refused<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>) -> Result<CredsError> {
    rig.refused(client)
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

/// Waits until `client` is refused with this status; the time it took. Until then it may be served, or told to come again.
pub(crate) fn becomes_refused<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, status: u16) -> Result<Duration> {
    let begin = Instant::now();
    proc::until(&format!("status {status}"), SOON, || match client.credentials() {
        Err(error) if error.status() == Some(status) => Ok(Some(begin.elapsed())),
        Err(error) if error.status() == Some(503) => Ok(None),
        Err(error) => bail!("neither served nor {status}: {error}"),
        Ok(credentials) => {
            ensure!(rig.role_of(&credentials).is_some(), "credentials that STS never gave: {credentials:?}");
            Ok(None)
        }
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

/// Says a measured figure, for those who run with `--nocapture` and for the report of a failure.
pub(crate) fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}
