//! Compares the audit log with what really happened: STS's own record of calls, and the keys that reached containers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::effort::AUDITED_RESTARTS;
use podrole_lab::pod::PodSpec;
use podrole_lab::proc;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::sts::{Call, Fault, RoleSpec};
use podrole_lab::world::Trial;
use serde_json::Value;

use crate::support::{SOON, TEAM, TOKEN, WEB, arn, audit_lines, path_of, ready, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("every_sts_call_has_an_audit_line_and_vice_versa", calls),
    Trial::new("control_a_call_without_a_line_is_noticed", unnoted_call),
    Trial::new("the_last_lines_before_the_end_are_written", last_lines),
    Trial::new("every_first_delivery_has_an_audit_line_and_vice_versa", deliveries),
    Trial::new("two_hops_are_audited_and_end_after_an_hour", hops),
    Trial::new("a_first_hop_that_fails_is_audited", failing_hop),
    Trial::new("denials_are_one_line_in_ten_seconds_with_their_number", denials),
];

const HOP: &str = "arn:aws:iam::444455556666:role/hop";

/// The fields that a call and its audit line have in common. If the connection broke, the daemon knows no request id.
type Key = (String, Option<String>, Option<String>, Option<String>, Option<String>);

fn of_line(line: &Value) -> Key {
    let text = |key: &str| line[key].as_str().map(str::to_owned);
    (
        line["action"].as_str().unwrap_or_default().to_owned(),
        text("role"),
        text("session_name"),
        text("sts_request_id"),
        text("access_key_id"),
    )
}

fn of_call(call: &Call, answered: bool) -> Key {
    let id = answered.then(|| call.request_id.clone());
    (call.action.clone(), call.role_arn.clone(), call.session_name.clone(), id, call.issued().map(str::to_owned))
}

/// Waits until every call has exactly one audit line, and returns the lines of calls.
fn exact(rig: &Rig) -> Result<Vec<Value>> {
    let mut last = String::new();
    let joined = proc::until("the audit lines to match STS's calls", SOON, || {
        let (lines, odd) = compare(rig)?;
        last = odd.clone().unwrap_or_default();
        Ok(odd.is_none().then_some(lines))
    });
    joined.with_context(|| last)
}

/// The current audit lines of calls, and a description of any mismatch.
fn compare(rig: &Rig) -> Result<(Vec<Value>, Option<String>)> {
    let lines = rig.daemon()?.audit()?.into_iter().filter(|line| line.get("latency_ms").is_some());
    let lines: Vec<Value> = lines.collect();
    let noted: Vec<Key> = lines.iter().map(of_line).collect();
    let answered = |call: &Call| noted.iter().any(|line| line.3.as_deref() == Some(&call.request_id));
    let made: Vec<Key> = rig.sts.calls().iter().map(|call| of_call(call, answered(call))).collect();
    let (silent, invented) = (without(&made, &noted), without(&noted, &made));
    let odd = (!silent.is_empty() || !invented.is_empty())
        .then(|| format!("without a line: {silent:#?}\nwithout a call: {invented:#?}"));
    Ok((lines, odd))
}

/// The elements of `these` that are not in `those`, counting duplicates.
fn without(these: &[Key], those: &[Key]) -> Vec<Key> {
    let mut rest = those.to_vec();
    let mut left = these.to_vec();
    left.retain(|key| match rest.iter().position(|other| other == key) {
        Some(at) => {
            rest.swap_remove(at);
            false
        }
        None => true,
    });
    left
}

fn calls() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&[])?;
    ensure!(web(&rig)?.agent("app")?.credentials()?.role == WEB);
    let faults = [
        Fault::AccessDenied,
        Fault::Throttling,
        Fault::InternalFailure500,
        Fault::Html500,
        Fault::ConnectionReset,
        Fault::MalformedXml,
        Fault::ExpiredToken,
        Fault::RegionDisabled,
    ];
    for fault in faults {
        let role = format!("{fault:?}");
        rig.sts.fail_role(&arn(&role), Some(fault));
        let pod = rig.pod_with_role(TEAM, &role.to_lowercase(), &role)?;
        pod.agent("app")?.credentials().err().with_context(|| format!("got credentials despite {fault:?}"))?;
        rig.delete(pod)?;
    }
    let external = PodSpec::new(TEAM, "external")
        .annotation(ROLE, "external")
        .annotation("iam.amazonaws.com/external-id", "an-id");
    let external = rig.pod(external)?;
    ensure!(external.agent("app")?.credentials()?.role == "external");
    let lines = exact(&rig)?;
    for fault in faults {
        let of = |line: &&Value| line["role"] == arn(&format!("{fault:?}"));
        let failed: Vec<&Value> = lines.iter().filter(of).collect();
        ensure!(!failed.is_empty(), "{fault:?} has no audit line");
        for line in failed {
            ensure!(
                line["decision"] == "failed" && line["error"].is_string() && line.get("access_key_id").is_none(),
                "{line}"
            );
        }
    }
    for line in lines.iter().filter(|line| line["decision"] == "issued" && line["action"] == "AssumeRole") {
        let issued = rig
            .sts
            .who(line["access_key_id"].as_str().unwrap_or_default())
            .context("audit line with a key that STS never issued")?;
        ensure!(line["role"] == issued.role_arn && line["session_name"] == issued.session_name, "{line}");
        ensure!(line["external_id_set"] == issued.external_id.is_some(), "{line}");
        ensure!(line["node"] == rig.node.name() && line["schema"] == "podrole.audit/v1", "{line}");
    }
    // Also after a restart.
    rig.daemon_mut()?.kill9()?;
    rig.restart()?;
    exact(&rig).map(drop)
}

fn unnoted_call() -> Result<()> {
    let rig = ready(&[])?;
    ensure!(web(&rig)?.agent("app")?.credentials()?.role == WEB);
    exact(&rig)?;
    // A call by another client, which the daemon does not know about.
    let body = "Action=GetCallerIdentity&Version=2011-06-15";
    let head =
        "POST / HTTP/1.1\r\nHost: sts\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    podrole_lab::http::exchange(rig.sts.addr(), request.as_bytes())?;
    let odd = compare(&rig)?.1.context("a call without an audit line went unnoticed")?;
    ensure!(odd.contains("GetCallerIdentity"), "{odd}");
    Ok(())
}

fn last_lines() -> Result<()> {
    let mut rig = rig()?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    rig.start(&[])?;
    for round in 0..AUDITED_RESTARTS.count() {
        if round > 0 {
            rig.restart()?;
        }
        rig.sts.set_delay(Duration::from_millis(300));
        let before = rig.sts.assume_calls().len();
        let pid = rig.daemon()?.pid().to_string();
        let given = std::thread::scope(|scope| -> Result<_> {
            let asked = scope.spawn(|| app.credentials());
            ensure!(rig.sts.wait(SOON, |calls| calls.iter().filter(|call| call.assumes()).count() > before));
            // In the middle of the call: the connection must be drained, not cut.
            proc::run(rig.node.command().args(["kill", "-TERM", &pid]))?;
            let given = asked.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
            given.with_context(|| format!("round {round}: a request was cut"))
        })?;
        rig.sts.set_delay(Duration::ZERO);
        let status = rig.daemon_mut()?.wait(SOON)?;
        ensure!(status.success(), "{status}");
        // The daemon has ended: an audit line that is missing now is lost.
        let odd = compare(&rig)?.1;
        ensure!(odd.is_none(), "round {round}: {}", odd.unwrap_or_default());
        ensure!(delivered(&rig)?.iter().any(|(_, _, key)| *key == given.access_key_id), "round {round}: no delivery");
    }
    Ok(())
}

/// The deliveries in the audit log, as the container sees them: pod, container, key.
fn delivered(rig: &Rig) -> Result<Vec<(String, String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = rig.daemon()?.audit()?.into_iter().filter(|line| line["action"] == "Deliver");
    let mut seen: Vec<_> = lines
        .map(|line| (text(&line["pod"]["uid"]), text(&line["pod"]["container"]["name"]), text(&line["access_key_id"])))
        .collect();
    seen.sort();
    Ok(seen)
}

fn deliveries() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&[])?;
    let pods =
        [web(&rig)?, rig.pod(PodSpec::new(TEAM, "two").containers(&["app", "side"]).annotation(ROLE, "two-role"))?];
    let idle = rig.pod_with_role(TEAM, "idle", "idle-role")?;
    let mut truth = Vec::new();
    let mut agents: Vec<(String, &str, Agent)> = Vec::new();
    for pod in &pods {
        for container in ["app", "side"] {
            agents.push((pod.uid().to_owned(), container, pod.agent(container)?));
        }
    }
    // HEAD requests and role lists deliver no credentials, so they must leave no delivery line.
    let look = idle.agent("app")?;
    let token = look.v4().token()?;
    for method in ["HEAD", "HEAD"] {
        ensure!(look.v4().request(method, &path_of("idle-role"), &[(TOKEN, &token)])?.status == 200);
    }
    ensure!(look.get(&path_of(""), &[(TOKEN, &token)])?.status == 200);
    let mut ask = |rounds: usize| -> Result<()> {
        for (uid, container, agent) in &agents {
            for _ in 0..rounds {
                for client in [agent.v4(), agent.v6()] {
                    truth.push((uid.clone(), (*container).to_owned(), client.credentials()?.access_key_id));
                }
            }
        }
        truth.sort();
        truth.dedup();
        Ok(())
    };
    ask(10)?;
    // Another role means other keys.
    rig.kube.annotate("Pod", TEAM, "two", ROLE, Some("changed-role"))?;
    let (_, _, changed) = agents.last().context("four agents")?;
    proc::until("the new role", SOON, || {
        Ok((changed.credentials().ok().map(|c| c.role).as_deref() == Some("changed-role")).then_some(()))
    })?;
    ask(3)?;
    let mut last = Vec::new();
    proc::until("an audit line for each delivery", SOON, || {
        last = delivered(&rig)?;
        Ok((last == truth).then_some(()))
    })
    .with_context(|| format!("lines {:#?}\ndeliveries {truth:#?}", delivered(&rig)))?;
    ensure!(truth.len() == 6, "{truth:#?}");
    // Each delivery joins exactly one call.
    let calls = exact(&rig)?;
    for line in audit_lines(&rig, "Deliver", |lines| lines.len() == truth.len())? {
        let joined: Vec<&Value> = calls.iter().filter(|call| call["access_key_id"] == line["access_key_id"]).collect();
        ensure!(joined.len() == 1, "{line} joins {joined:?}");
        ensure!(joined[0]["role"] == line["role"] && joined[0]["session_name"] == line["session_name"], "{line}");
        ensure!(line["identity"] == "kernel" && line["decision"] == "allow", "{line}");
        ensure!(line["pod"]["namespace"] == TEAM && line["pod"]["service_account"] == "default", "{line}");
    }
    Ok(())
}

fn hops() -> Result<()> {
    let mut rig = rig()?;
    rig.sts.role(RoleSpec::new(HOP));
    rig.start(&["--assume-role-arn", HOP])?;
    let pod = web(&rig)?;
    let credentials = pod.agent("app")?.credentials()?;
    let calls = rig.sts.assume_calls();
    let [hop, role] = calls.as_slice() else { anyhow::bail!("expected two calls: {calls:#?}") };
    let node = rig.imds.credentials().access_key_id;
    ensure!(hop.role_arn.as_deref() == Some(HOP) && hop.access_key.as_deref() == Some(&node), "{hop:?}");
    ensure!(role.access_key.as_deref() == hop.issued() && hop.issued().is_some(), "{role:?}");
    // Roles without an account get the first hop's account.
    ensure!(role.role_arn.as_deref() == Some("arn:aws:iam::444455556666:role/web-role"), "{role:?}");
    ensure!([hop, role].iter().all(|call| call.duration.as_deref() == Some("3600")), "{calls:#?}");
    ensure!(role.issued() == Some(credentials.access_key_id.as_str()));
    let lines = exact(&rig)?;
    ensure!(lines.iter().any(|line| line["role"] == HOP && line["access_key_id"] == hop.issued().unwrap_or_default()));
    // The first hop's credentials sign GetCallerIdentity.
    ensure!(
        rig.sts
            .calls()
            .iter()
            .any(|call| call.action == "GetCallerIdentity" && call.access_key.as_deref() == hop.issued())
    );
    // No pod may get the first hop's own role.
    let greedy = rig.pod_with_role(TEAM, "greedy", HOP)?;
    ensure!(greedy.agent("app")?.credentials().err().and_then(|error| error.status()) == Some(404));
    // A duration of more than an hour is rejected before anything starts.
    rig.launch(&["--assume-role-arn", HOP, "--session-duration", "2h"])?;
    let status = rig.daemon_mut()?.wait(SOON)?;
    let logs = rig.daemon()?.logs();
    ensure!(status.code() == Some(64) && logs.contains("1h"), "{status}: {logs}");
    Ok(())
}

fn failing_hop() -> Result<()> {
    let mut rig = rig()?;
    rig.sts.role(RoleSpec::new(HOP));
    rig.sts.fail_role(HOP, Some(Fault::AccessDenied));
    rig.launch(&["--assume-role-arn", HOP])?;
    let tried = |calls: &[Call]| calls.iter().filter(|call| call.role_arn.as_deref() == Some(HOP)).count() >= 2;
    ensure!(rig.sts.wait(SOON, tried), "{:?}", rig.sts.calls());
    let lines = audit_lines(&rig, "AssumeRole", |lines| lines.len() >= 2)?;
    ensure!(lines.iter().all(|line| line["role"] == HOP && line["error"] == "AccessDenied"), "{lines:#?}");
    ensure!(lines.iter().all(|line| line["sts_request_id"].is_string()), "{lines:#?}");
    // The calls that the first hop would have signed were never sent, and no audit line claims that they were.
    exact(&rig)?;
    ensure!(!rig.daemon()?.is_ready());
    rig.sts.fail_role(HOP, None);
    rig.daemon_mut()?.wait_ready(Duration::from_secs(20))?;
    ensure!(web(&rig)?.agent("app")?.credentials()?.role == WEB);
    exact(&rig).map(drop)
}

fn denials() -> Result<()> {
    let rig = ready(&[])?;
    rig.namespace("strict", &["other-*"])?;
    let pods = [rig.pod(PodSpec::new(TEAM, "plain"))?, rig.pod_with_role("strict", "denied", WEB)?];
    let agents = [pods[0].agent("app")?, pods[1].agent("app")?];
    let tokens = [agents[0].v4().token()?, agents[1].v4().token()?];
    let begin = Instant::now();
    let mut asked = 0;
    // A burst, then requests at a low rate until the ten seconds are over.
    while asked < 40 || begin.elapsed() < Duration::from_millis(10_500) {
        for (agent, token) in agents.iter().zip(&tokens) {
            ensure!(agent.get(&path_of(""), &[(TOKEN, token)])?.status == 404);
        }
        asked += 1;
        if asked == 40 {
            let lines = audit_lines(&rig, "Deny", |lines| lines.len() >= 2)?;
            ensure!(lines.len() == 2 && lines.iter().all(|line| line["count"] == 1), "{lines:#?}");
        }
        if asked > 40 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let lines = audit_lines(&rig, "Deny", |lines| lines.len() >= 4)?;
    ensure!(lines.len() == 4, "{lines:#?}");
    for (pod, reason) in pods.iter().zip(["NoRole", "NamespaceNotPermitted"]) {
        let of: Vec<&Value> = lines.iter().filter(|line| line["pod"]["uid"] == pod.uid()).collect();
        ensure!(of.len() == 2 && of.iter().all(|line| line["reason"] == reason), "{of:#?}");
        ensure!(
            of[0]["count"] == 1 && of[1]["count"].as_u64().is_some_and(|n| n >= 40 && n < asked),
            "{asked}: {of:#?}"
        );
        ensure!(of.iter().all(|line| line["why"].as_str().is_some_and(|why| !why.is_empty())), "{of:#?}");
    }
    Ok(())
}
