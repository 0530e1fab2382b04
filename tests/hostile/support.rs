//! Shared helpers of the trials: a rig with a pod that has a role, and names.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Agent, Client, Failure, Response};
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc;
use podrole_lab::rig::{ROLE, Rig, RigOptions};
use serde_json::Value;

use crate::corpus::{CREDENTIALS, Fill};

/// The namespace of most trials' pods. It allows every role.
pub(crate) const TEAM: &str = "team";
/// The role of most trials' pods.
pub(crate) const WEB: &str = "web-role";
/// The account of roles that are given without an account.
pub(crate) const ACCOUNT: &str = "111122223333";
/// The header of a session token.
pub(crate) const TOKEN: &str = "X-aws-ec2-metadata-token";
/// Timeout for asynchronous effects: a separate thread writes audit lines.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A rig without a daemon.
pub(crate) fn rig() -> Result<Rig> {
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole")));
    let rig = Rig::new(RigOptions { binary, ..RigOptions::default() })?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

/// A rig whose daemon is ready.
pub(crate) fn ready(flags: &[&str]) -> Result<Rig> {
    let mut rig = rig()?;
    rig.start(flags)?;
    Ok(rig)
}

/// A pod with the role of most trials and a second container beside `app`.
pub(crate) fn web(rig: &Rig) -> Result<Pod> {
    rig.pod(PodSpec::new(TEAM, "web").containers(&["app", "side"]).annotation(ROLE, WEB))
}

/// A `GET` request with a session token.
pub(crate) fn get(client: Client<'_>, token: &str, path: &str) -> Result<Response, Failure> {
    client.get(path, &[(TOKEN, token)])
}

/// The path of a role's credentials.
pub(crate) fn path_of(role: &str) -> String {
    format!("{CREDENTIALS}{role}")
}

/// The ARN of a role.
pub(crate) fn arn(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// Tokens of every kind for requests from `app` of the pod `web`: its own, its sibling's, another pod's, and an expired
/// one.
pub(crate) fn fill(web: &Pod, app: &Agent, other: &Pod) -> Result<Fill> {
    let expired = app.v4().put_token(1)?.text();
    let token = app.v4().token()?;
    let sibling = web.agent("side")?.v4().token()?;
    let foreign = other.agent("app")?.v4().token()?;
    proc::until("a token with a TTL of one second to expire", SOON, || {
        Ok((get(app.v4(), &expired, "/latest/meta-data/")?.status == 401).then_some(()))
    })?;
    Ok(Fill { role: WEB.to_owned(), token, foreign, sibling, expired })
}

/// Expects this status; the error shows the response.
pub(crate) fn expect(answer: Result<Response, Failure>, status: u16, what: &str) -> Result<Response> {
    let answer = answer.with_context(|| what.to_owned())?;
    ensure!(answer.status == status, "{what}: expected {status}, got {answer:?}");
    Ok(answer)
}

/// Waits until `enough` accepts the audit lines of one action, and returns them. On timeout, the error contains all
/// audit lines.
pub(crate) fn audit_lines(rig: &Rig, action: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let of = |lines: Vec<Value>| lines.into_iter().filter(|line| line["action"] == action).collect::<Vec<_>>();
    let waited = proc::until(&format!("audit lines of {action}"), SOON, || {
        let lines = of(rig.daemon()?.audit()?);
        Ok(enough(&lines).then_some(lines))
    });
    waited.with_context(|| format!("audit so far: {:#?}", rig.daemon().and_then(|daemon| daemon.audit())))
}
