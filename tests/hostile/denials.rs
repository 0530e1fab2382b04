//! Denied pods send requests as fast as they can, for up to a minute. Checks the cost for the API server and the log,
//! and that other pods are not affected.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{Agent, Load, LoadReport, Target};
use podrole_lab::effort::DENIAL_FLOOD_SECONDS;
use podrole_lab::pod::PodSpec;
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::Trial;

use crate::support::{SOON, TEAM, TOKEN, WEB, audit_lines, path_of, rig, web};

pub(crate) const TRIALS: &[Trial] =
    &[Trial::new("a_minute_of_denials_is_ten_events_and_a_little_audit_and_others_are_served", minute)
        .timeout(Duration::from_secs(180))
        // It uses the whole machine.
        .alone()];

/// Concurrent requests of each pod: enough to keep the daemon busy all the time.
const WORKERS: usize = 24;
const MOST_AUDIT: usize = 1_000_000;
/// An unoptimized build on a busy machine makes a few thousand a second. Fewer than this in total is not a flood.
const LEAST: usize = 12_000;

fn minute() -> Result<()> {
    let mut rig = rig()?;
    rig.namespace("strict", &["other-*"])?;
    // A less verbose log than in other trials, because the log is not measured here.
    rig.start(&["--log", "info"])?;
    let plain = [rig.pod(PodSpec::new(TEAM, "plain-a"))?, rig.pod(PodSpec::new(TEAM, "plain-b"))?];
    let strict = rig.pod_with_role("strict", "strict", WEB)?;
    let other = rig.pod_with_role(TEAM, "other", "other-role")?;
    let asked = [
        (plain[0].agent("app")?, path_of("")),
        (plain[1].agent("app")?, path_of("any")),
        (strict.agent("app")?, path_of("")),
        // A pod that has a role and requests another pod's role.
        (other.agent("app")?, path_of("somebody-elses")),
    ];
    rig.kube.clear();
    let seconds = DENIAL_FLOOD_SECONDS.count();
    let flood = Duration::from_secs(seconds as u64);
    let plans: Vec<(&Agent, Load)> =
        asked.iter().map(|(agent, path)| Ok((agent, plan(agent, path, flood)?))).collect::<Result<_>>()?;
    let begin = Instant::now();
    let running: Vec<_> = plans.iter().map(|(agent, plan)| agent.start_load(plan)).collect::<Result<_, _>>()?;
    // In the middle of the flood, a pod with all rights starts.
    thread::sleep(flood / 2);
    let served = web(&rig)?;
    let app = served.agent("app")?;
    let credentials = proc::until("the new pod to be served", Duration::from_secs(10), || Ok(app.credentials().ok()))?;
    ensure!(begin.elapsed() < flood, "the flood ended before the other pod was served");
    ensure!(rig.role_of(&credentials).as_deref() == Some(WEB), "{credentials:?}");
    let reports: Vec<LoadReport> = running.into_iter().map(|load| load.wait()).collect::<Result<_, _>>()?;
    let took = begin.elapsed();

    let denied = rig.daemon()?.metric("podrole_denials_total", &[])?;
    let writes = event_writes(&rig);
    let audit = rig.daemon()?.audit_text()?.len();
    println!(
        "figure: {denied} denials in {took:?} ({:.0} a second): {writes} writes of Events, {audit} bytes of audit",
        denied / took.as_secs_f64()
    );
    for report in &reports {
        let answered = report.answered();
        ensure!(report.with_status(404) == answered && answered > 0, "{:?} {:?}", report.statuses, report.failures);
    }
    ensure!(denied >= DENIAL_FLOOD_SECONDS.at_least(LEAST) as f64, "{denied} denials are not a flood");
    // Three at once, then one in ten seconds, and one for the time after the flood: ten in a minute.
    let most_events = 3 + seconds / 10 + 1;
    ensure!((3..=most_events).contains(&writes), "{writes} writes: {:#?}", rig.kube.list("Event"));
    ensure!(audit < MOST_AUDIT, "{audit} bytes of audit");
    // Nevertheless, no audit line was lost.
    let lines = audit_lines(&rig, "Deliver", |lines| !lines.is_empty())?;
    ensure!(lines.len() == 1 && lines[0]["access_key_id"] == credentials.access_key_id, "{lines:#?}");
    ensure!(rig.daemon()?.metric("podrole_faults_total", &[("fault", "audit_lost")])? == 0.0);
    // Every pod got an Event.
    for pod in [&plain[0], &plain[1], &strict, &other] {
        let told = |events: &[serde_json::Value]| events.iter().any(|event| event["regarding"]["uid"] == pod.uid());
        ensure!(told(&rig.kube.list("Event")), "{} got no Event", pod.name());
    }
    proc::until("the Events metric to match the API server", SOON, || {
        let counted = rig.daemon()?.metric("podrole_events_total", &[("result", "published")])?;
        Ok((event_writes(&rig) as f64 == counted).then_some(()))
    })
}

fn plan(agent: &Agent, path: &str, flood: Duration) -> Result<Load> {
    let token = agent.v4().token()?;
    let request = agent.v4().render("GET", path, &[(TOKEN, &token)]);
    Ok(Load::new(Target::v4(), &request).workers(WORKERS).duration(flood))
}

/// The number of times that the daemon wrote, or tried to write, an Event.
fn event_writes(rig: &Rig) -> usize {
    let requests = rig.kube.requests();
    requests.iter().filter(|r| r.method != "GET" && r.path.starts_with("/apis/events.k8s.io/v1/")).count()
}
