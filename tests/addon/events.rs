//! Events about denials on the real API server, and the cost of an unavailable server or a missing right.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::sts::Fault;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::judge::{TEAM, becomes_refused, double, figure, real, refused, role_arn, served, spec, with_role};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_denied_pods_event_says_why_and_what_to_do", told).waits(),
    Trial::new("without_the_right_to_write_events_pods_are_served_and_the_log_says_what_to_do", no_right)
        .timeout(LONG)
        .waits(),
    Trial::new("an_event_that_cannot_be_written_is_not_written_in_a_storm", no_storm).timeout(LONG).waits(),
    Trial::new("events_can_be_switched_off", switched_off),
];

const STRICT: &str = "strict";
const EVENTS: &str = "podrole_events_total";
/// The time from the first Event of a pod and reason to the second, with room for a slow machine.
const REPEATED: Duration = Duration::from_secs(60 + 30);
/// The timeout of trials that wait for the daemon's pauses.
const LONG: Duration = Duration::from_secs(240);
const WAIT: Duration = Duration::from_secs(20);

fn told() -> Result<()> {
    let mut rig = real()?;
    rig.namespace(STRICT, &["other-*"])?;
    rig.sts.fail_role(&role_arn("distrusted"), Some(Fault::AccessDenied));
    rig.start(&["--pod-name", "podrole-x7k2p"])?;
    let denied = with_role(&rig, STRICT, "web", "web-role")?;
    let distrusted = with_role(&rig, TEAM, "distrusted", "distrusted")?;
    let broken = with_role(&rig, TEAM, "broken", "not a role!")?;
    let good = with_role(&rig, TEAM, "good", "good-role")?;
    let agent = denied.agent("app")?;
    becomes_refused(&rig, agent.v4(), 404)?;
    let broken_agent = broken.agent("app")?;
    becomes_refused(&rig, broken_agent.v4(), 404)?;
    ensure!(refused(&rig, distrusted.agent("app")?.v4())?.status().is_none(), "STS's refusal is an answer");
    let begin = Instant::now();

    let event = first_event(&rig, &denied)?;
    for (field, expected) in [
        ("type", "Warning"),
        ("reason", "RoleDenied"),
        ("action", "AssumeRole"),
        ("reportingComponent", "podrole.dev/agent"),
        ("reportingInstance", "podrole-x7k2p"),
    ] {
        ensure!(event[field] == expected, "{field}: {event:#}");
    }
    says(&event, &["NamespaceNotPermitted: ", &role_arn("web-role"), "Fix: Annotate the namespace: kubectl annotate"])?;
    ensure!(event.get("series").is_none(), "{event:#}");
    let event = first_event(&rig, &distrusted)?;
    ensure!(event["reason"] == "AssumeRoleFailed", "{event:#}");
    says(
        &event,
        &["AssumeRoleRefused: ", &role_arn("distrusted"), "(AccessDenied)", "Fix: Check that the role exists"],
    )?;
    let event = first_event(&rig, &broken)?;
    ensure!(event["reason"] == "RoleInvalid", "{event:#}");
    says(&event, &["BadRole: ", "iam.amazonaws.com/role", "Fix: Write a role's name"])?;
    // The API server also deletes old Events.
    let deleted = event["metadata"]["name"].as_str().context("an Event has a name")?.to_owned();
    rig.kube.delete("Event", TEAM, &deleted)?;

    // The pod keeps asking. For a minute nothing is written, then the same Event counts the repetitions.
    let (mut asked, mut event) = (0, Value::Null);
    while event.get("series").is_none() {
        ensure!(begin.elapsed() < REPEATED, "no repetition after {:?}: {event:#}", begin.elapsed());
        refused(&rig, agent.v4())?;
        refused(&rig, broken_agent.v4())?;
        asked += 1;
        thread::sleep(Duration::from_millis(100));
        let events = events_of(&rig, &denied)?;
        ensure!(events.len() == 1, "{events:#?}");
        event = events[0].clone();
    }
    figure("the Event is repeated after", format_args!("{:.1} s, {asked} requests", begin.elapsed().as_secs_f64()));
    ensure!(begin.elapsed() > Duration::from_secs(58), "repeated after {:?}", begin.elapsed());
    // Each client requests the list over IPv4, and once at the start.
    let count = event["series"]["count"].as_u64().context("a series has a count")?;
    ensure!(count > 300 && count <= asked + 100, "{count} of {asked}: {event:#}");
    // The pod whose Event was deleted has a new one.
    let again = proc::until("the Event of broken", WAIT, || {
        refused(&rig, broken_agent.v4())?;
        Ok(events_of(&rig, &broken)?.into_iter().next())
    })?;
    ensure!(again["metadata"]["name"] != deleted.as_str() && again.get("series").is_none(), "{again:#}");
    let counted = |result| rig.daemon()?.metric(EVENTS, &[("result", result)]);
    // The API server shows an Event before the daemon has its answer and counts it.
    proc::until("the last Event to be counted", WAIT, || Ok((counted("published")? >= 5.0).then_some(())))?;
    let (published, failed) = (counted("published")?, counted("failed")?);
    ensure!((published, failed) == (5.0, 1.0), "{}", rig.daemon()?.metrics()?);
    ensure!(rig.daemon()?.metric(EVENTS, &[])? == 6.0, "{}", rig.daemon()?.metrics()?);
    served(&rig, good.agent("app")?.v4(), "good-role")?;
    ensure!(events_of(&rig, &good)?.is_empty(), "an Event for a pod that is served");
    Ok(())
}

fn no_right() -> Result<()> {
    let mut rig = real()?;
    let read = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces", "serviceaccounts"], "verbs": ["list", "watch"]},
    ]);
    rig.kube.grant("podrole", read.clone())?;
    rig.start(&[])?;
    let (plain, good) = (rig.pod(spec(TEAM, "plain"))?, with_role(&rig, TEAM, "good", "good-role")?);
    let agent = plain.agent("app")?;
    becomes_refused(&rig, agent.v4(), 404)?;
    let forbidden = |rig: &Rig<Cluster>| rig.daemon()?.metric(EVENTS, &[("result", "forbidden")]);
    proc::until("a second attempt", WAIT, || {
        refused(&rig, agent.v4())?;
        Ok((forbidden(&rig)? >= 2.0).then_some(()))
    })?;
    served(&rig, good.agent("app")?.v4(), "good-role")?;
    let logs = rig.daemon()?.logs();
    let told: Vec<&str> = logs.lines().filter(|line| line.contains("Cannot write Events of denied pods")).collect();
    ensure!(told.len() == 1 && told[0].contains("ERROR"), "{told:#?}");
    for word in ["create and patch", "events.k8s.io", "--events=false", "403"] {
        ensure!(told[0].contains(word), "{word} is not in {}", told[0]);
    }
    // The administrator follows that message and does not touch the node.
    let mut rules = read;
    let rule = json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]});
    rules.as_array_mut().context("a list")?.push(rule);
    rig.kube.grant("podrole", rules)?;
    // The third attempt comes after 10 to 30 s, a fourth after twice that.
    let event = proc::until("the Event", Duration::from_secs(100), || Ok(events_of(&rig, &plain)?.into_iter().next()))?;
    says(&event, &["NoRole: ", "Fix: Annotate the pod"])?;
    proc::until("the log to say that it is over", WAIT, || {
        Ok(rig.daemon()?.logs().contains("Events can be written again").then_some(()))
    })
}

fn no_storm() -> Result<()> {
    let mut rig = double()?;
    rig.start(&[])?;
    let pods: Vec<Pod> =
        (0..5).map(|n| with_role(&rig, TEAM, &format!("web-{n}"), "web-role")).collect::<Result<_>>()?;
    let agents: Vec<Agent> = pods.iter().map(|pod| pod.agent("app")).collect::<Result<_>>()?;
    let tokens: Vec<String> = agents.iter().map(|agent| agent.v4().token()).collect::<Result<_, _>>()?;
    let ask = |path: &str| -> Result<Vec<u16>> {
        let path = format!("/latest/meta-data/iam/security-credentials/{path}");
        let asked = agents.iter().zip(&tokens);
        asked.map(|(agent, token)| Ok(agent.get(&path, &[("X-aws-ec2-metadata-token", token)])?.status)).collect()
    };
    // All pods are served; nothing has been denied yet.
    proc::until("the watch to show them", WAIT, || Ok((ask("")? == [200; 5]).then_some(())))?;
    // From here on the API server rejects every request, like an overloaded one. Open streams continue.
    rig.kube.fail_all(Some(503));
    rig.kube.clear();
    let begin = Instant::now();
    let mut asked = 0;
    while begin.elapsed() < Duration::from_secs(16) {
        ensure!(ask("other-role")? == [404; 5]);
        asked += 5;
        thread::sleep(Duration::from_millis(20));
    }
    let attempts = writes(&rig);
    figure("attempts in 16 s of 503", format_args!("{attempts}, for {asked} denials of five pods"));
    // Attempts: immediately, after 5 to 15 s, and after 10 to 30 s more.
    ensure!((2..=3).contains(&attempts), "{attempts} attempts");
    ensure!(rig.daemon()?.metric(EVENTS, &[("result", "failed")])? == attempts as f64, "some were not counted");
    // One pod is deleted before its Event could be written.
    let mut pods = pods;
    let gone = pods.pop().context("five pods")?;
    let uid = gone.uid().to_owned();
    rig.delete(gone)?;
    let dropped = || Ok((rig.daemon()?.metric(EVENTS, &[("result", "dropped")])? == 1.0).then_some(()));
    proc::until("the daemon to forget the pod", WAIT, dropped)?;
    rig.kube.fail_all(None);
    let told = |uid: &str| rig.kube.list("Event").iter().any(|event| event["regarding"]["uid"] == uid);
    proc::until("the Events", Duration::from_secs(150), || Ok(pods.iter().all(|pod| told(pod.uid())).then_some(())))?;
    ensure!(!told(&uid), "an Event of a pod that was gone");
    Ok(())
}

fn switched_off() -> Result<()> {
    let mut rig = double()?;
    rig.start(&["--events", "false"])?;
    let pod = rig.pod(spec(TEAM, "plain"))?;
    becomes_refused(&rig, pod.agent("app")?.v4(), 404)?;
    ensure!(writes(&rig) == 0, "it was switched off: {:#?}", rig.kube.requests());
    rig.kube.clear();
    // Control: with Events on, the Event arrives within the time waited above.
    rig.start(&["--events", "true"])?;
    becomes_refused(&rig, pod.agent("app")?.v4(), 404)?;
    let begin = Instant::now();
    proc::until("the Event", WAIT, || Ok((writes(&rig) == 1).then_some(())))?;
    let took = begin.elapsed();
    rig.kube.clear();
    rig.start(&["--events", "false"])?;
    becomes_refused(&rig, pod.agent("app")?.v4(), 404)?;
    thread::sleep(took * 2 + Duration::from_secs(1));
    ensure!(writes(&rig) == 0, "it was switched off: {:#?}", rig.kube.requests());
    Ok(())
}

/// The number of times the daemon tried to write an Event.
fn writes(rig: &Rig) -> usize {
    let requests = rig.kube.requests();
    requests.iter().filter(|r| r.method != "GET" && r.path.starts_with("/apis/events.k8s.io/v1/")).count()
}

/// The Events that `kubectl describe pod` shows. It uses this selector.
fn events_of(rig: &Rig<Cluster>, pod: &Pod) -> Result<Vec<Value>> {
    let selector = format!(
        "fieldSelector=involvedObject.kind%3DPod%2CinvolvedObject.name%3D{}%2CinvolvedObject.namespace%3D{}%2CinvolvedObject.uid%3D{}",
        pod.name(),
        pod.namespace(),
        pod.uid()
    );
    let list = rig.kube.list(User::Admin, "Event", pod.namespace(), &selector)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn first_event(rig: &Rig<Cluster>, pod: &Pod) -> Result<Value> {
    let found = proc::until(&format!("an Event of {}", pod.name()), WAIT, || {
        let events = events_of(rig, pod)?;
        ensure!(events.len() <= 1, "{events:#?}");
        Ok(events.into_iter().next())
    });
    found.with_context(|| rig.daemon().map(|daemon| daemon.recently()).unwrap_or_default())
}

/// Asserts that the Event's note has these parts, is short enough, and contains nothing that would differ in a repetition.
fn says(event: &Value, parts: &[&str]) -> Result<()> {
    let note = event["message"].as_str().context("an Event has a note")?;
    ensure!(note.len() <= 1024, "{} bytes: {note}", note.len());
    for part in parts {
        ensure!(note.contains(part), "{part} is not in {note}");
    }
    ensure!(!note.contains("ASIA") && !note.contains("equest id") && !note.contains("202"), "{note}");
    Ok(())
}
