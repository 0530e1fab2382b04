//! The HTTP status for each situation: SDKs give up after a 404, retry after a 503, and show their users the `Code` of
//! a 200.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{Agent, Response};
use podrole_lab::pod::PodSpec;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::sts::Fault;
use podrole_lab::world::Trial;

use crate::support::{TEAM, WEB, arn, get, path_of, ready, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_that_is_not_known_yet_gets_503", unknown).alone(),
    Trial::new("a_pod_without_a_right_gets_404", nothing).alone(),
    Trial::new("a_definite_sts_error_is_reported_as_a_code", denied),
    Trial::new("a_transient_sts_error_is_a_503", later).alone(),
    Trial::new("cached_credentials_are_served_despite_errors", in_hand),
];

/// Clients time out after a second; the rest is for the network.
const BUDGET: Duration = Duration::from_millis(950);

fn unknown() -> Result<()> {
    let rig = ready(&[])?;
    rig.kube.freeze(true);
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    for path in [path_of(WEB), path_of(""), "/latest/meta-data/iam/".into(), "/latest/meta-data/iam/info".into()] {
        not_ready(&app, &token, &path)?;
    }
    rig.kube.freeze(false);
    ensure!(app.credentials()?.role == WEB);
    Ok(())
}

/// Expects an empty 503 with `Retry-After`, before SDKs time out.
fn not_ready(app: &Agent, token: &str, path: &str) -> Result<()> {
    let begin = Instant::now();
    let answer = get(app.v4(), token, path)?;
    let took = begin.elapsed();
    ensure!(answer.status == 503 && answer.header("Retry-After") == Some("1"), "{path}: {answer:?}");
    ensure!(answer.body.is_empty() && took < BUDGET, "{path} after {took:?}: {answer:?}");
    Ok(())
}

fn nothing() -> Result<()> {
    let rig = ready(&[])?;
    rig.namespace("strict", &["other-*"])?;
    rig.namespace("closed", &[])?;
    let role = |namespace: &str, name: &str, role: &str| rig.pod(PodSpec::new(namespace, name).annotation(ROLE, role));
    let pods = [
        rig.pod(PodSpec::new(TEAM, "plain"))?,
        role(TEAM, "empty", "")?,
        role(TEAM, "malformed", "arn:aws:s3:::bucket")?,
        role(TEAM, "node", "node-role")?,
        role(TEAM, "abroad", "arn:aws:iam::999999999999:role/web-role")?,
        role("strict", "strict", WEB)?,
        role("closed", "closed", WEB)?,
    ];
    for pod in &pods {
        let app = pod.agent("app")?;
        let token = app.v4().token()?;
        for path in [
            path_of(""),
            path_of(WEB),
            path_of("node-role"),
            "/latest/meta-data/iam".into(),
            "/latest/meta-data/iam/info".into(),
        ] {
            let begin = Instant::now();
            let answer = get(app.v4(), &token, &path)?;
            ensure!(answer.status == 404, "{} {path}: {answer:?}", pod.name());
            ensure!(begin.elapsed() < Duration::from_millis(500), "{} {path}: answered too late", pod.name());
        }
        // Paths that are not secret are served nevertheless.
        ensure!(get(app.v4(), &token, "/latest/meta-data/placement/region")?.status == 200, "{}", pod.name());
    }
    let web = web(&rig)?.agent("app")?;
    let token = web.v4().token()?;
    for wrong in ["other-role", "node-role", "Web-Role", "web-role2", "web-rol"] {
        ensure!(get(web.v4(), &token, &path_of(wrong))?.status == 404, "{wrong}");
    }
    ensure!(rig.sts.assume_calls().is_empty(), "{:?}", rig.sts.assume_calls());
    Ok(())
}

fn denied() -> Result<()> {
    let rig = ready(&[])?;
    rig.sts.fail_role(&arn(WEB), Some(Fault::AccessDenied));
    let answer = ask(&rig, "denied")?;
    denial(&answer, "AccessDenied")?;
    rig.sts.fail_role(&arn(WEB), Some(Fault::RegionDisabled));
    denial(&ask(&rig, "region")?, "RegionDisabled")
}

/// Checks the document that an SDK shows to its user.
fn denial(answer: &Response, code: &str) -> Result<()> {
    ensure!(answer.status == 200, "{answer:?}");
    let body = answer.json()?;
    ensure!(body["Code"] == "AssumeRoleUnauthorizedAccess", "{answer:?}");
    let message = body["Message"].as_str().unwrap_or_default();
    ensure!(message.contains(&arn(WEB)) && message.contains(code), "{message}");
    ensure!(body["LastUpdated"].as_str().is_some_and(|date| date.ends_with('Z') && date.len() == 20), "{answer:?}");
    ensure!(!answer.text().contains("AccessKeyId") && !answer.text().contains("Expiration"), "{answer:?}");
    Ok(())
}

/// A new pod requests the role of most trials. Nothing about the pod is cached.
fn ask(rig: &Rig, name: &str) -> Result<Response> {
    let pod = rig.pod_with_role(TEAM, name, WEB)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    ensure!(get(app.v4(), &token, &path_of(""))?.text() == WEB, "the list of roles must not need STS");
    Ok(get(app.v4(), &token, &path_of(WEB))?)
}

fn later() -> Result<()> {
    let rig = ready(&[])?;
    let faults = [
        Fault::Throttling,
        Fault::InternalFailure500,
        Fault::Html500,
        Fault::ServiceUnavailable,
        Fault::ConnectionReset,
        Fault::MalformedXml,
        Fault::ExpiredToken,
        Fault::Stall,
    ];
    let mut asking = Vec::new();
    for fault in faults {
        let name = format!("{fault:?}").to_lowercase();
        rig.sts.fail_role(&arn(&name), Some(fault));
        let app = rig.pod_with_role(TEAM, &name, &name)?.agent("app")?;
        let token = app.v4().token()?;
        asking.push((app, token, name));
    }
    // Each takes nearly as long as a client waits, so all run at once.
    thread::scope(|scope| -> Result<()> {
        let not_ready = |(app, token, role): &(Agent, String, String)| not_ready(app, token, &path_of(role));
        let threads: Vec<_> = asking.iter().map(|one| scope.spawn(move || not_ready(one))).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
        }
        Ok(())
    })
}

fn in_hand() -> Result<()> {
    let mut rig = rig()?;
    let pod = web(&rig)?;
    rig.start(&[])?;
    let app = pod.agent("app")?;
    let first = app.credentials()?;
    for fault in [Fault::AccessDenied, Fault::Throttling, Fault::Html500] {
        rig.sts.fail_always(Some(fault));
        ensure!(app.credentials()?.access_key_id == first.access_key_id, "{fault:?}");
    }
    rig.sts.down(true)?;
    rig.kube.down(true)?;
    ensure!(app.credentials()?.access_key_id == first.access_key_id);
    Ok(())
}
