//! Rigs and checks that the trials of SDKs and of Events share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use podrole_lab::agent::{Client, Creds, CredsError};
use podrole_lab::cluster::{Assets, Cluster};
use podrole_lab::pod::{Pod, PodSpec, Qos};
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, ROLE, Rig, RigOptions};
use podrole_lab::world;

/// The namespace of most trials' pods. It allows every role.
pub(crate) const TEAM: &str = "team";
/// The account of the node and of the roles.
pub(crate) const ACCOUNT: &str = "111122223333";
/// A generous bound for what takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A rig with a real API server and no daemon yet. The trial is skipped if the API server is not installed.
pub(crate) fn real() -> Result<Rig<Cluster>> {
    if let Err(missing) = Assets::find() {
        return world::skip(&format!("{missing:#}"));
    }
    let rig = Rig::real(options())?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

/// A rig with the API double, for behavior that no real server shows on demand.
pub(crate) fn double() -> Result<Rig> {
    let rig = Rig::new(options())?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

fn options() -> RigOptions {
    RigOptions { binary: Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole"))), ..RigOptions::default() }
}

/// A pod without resource requests, whose QoS class is therefore `BestEffort` for a real API server too.
pub(crate) fn spec(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name).qos(Qos::BestEffort)
}

/// Creates such a pod with a role.
pub(crate) fn with_role<A: ControlPlane>(rig: &Rig<A>, namespace: &str, name: &str, role: &str) -> Result<Pod> {
    rig.pod(spec(namespace, name).annotation(ROLE, role))
}

/// The ARN of the role with this name.
pub(crate) fn role_arn(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// [`Rig::served`]
pub(crate) fn served<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, role: &str) -> Result<Creds> {
    rig.served(client, role)
}

/// [`Rig::not_served`]
pub(crate) fn refused<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>) -> Result<CredsError> {
    rig.not_served(client)
}

/// Waits until `client` is refused with this status, and returns the time it took. Until then it may be served or get a 503.
pub(crate) fn becomes_refused<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, status: u16) -> Result<Duration> {
    let begin = Instant::now();
    proc::until(&format!("status {status}"), SOON, || match client.credentials() {
        Err(error) if error.status() == Some(status) => Ok(Some(begin.elapsed())),
        Err(error) if error.status() == Some(503) => Ok(None),
        Err(error) => bail!("neither served nor {status}: {error}"),
        Ok(credentials) => {
            ensure!(rig.role_of(&credentials).is_some(), "credentials that STS has not issued: {credentials:?}");
            Ok(None)
        }
    })
}

/// Prints a measured figure, which is shown with `--nocapture` and when a trial fails.
pub(crate) fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}
