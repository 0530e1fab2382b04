//! The watch is late: a request waits for a moment and then gets 503, never an answer that there is no role.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{TEAM, ask_role, no_leak, ready, served, served_both, timed};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_that_the_watch_shows_late_is_served_in_the_same_request", late_pod).alone(),
    Trial::new("a_namespace_that_the_watch_shows_late_is_served_in_the_same_request", late_namespace).alone(),
    Trial::new("a_pod_that_the_watch_does_not_show_gets_503", unseen_pod).alone(),
    Trial::new("a_namespace_that_the_watch_does_not_show_gets_503", unseen_namespace).alone(),
    Trial::new("a_pod_that_the_watch_shows_after_five_seconds_gets_503_until_then", unseen_pod_for_long),
    Trial::new("a_namespace_that_the_watch_shows_after_five_seconds_gets_503_until_then", unseen_namespace_for_long),
    Trial::new("control_a_pod_that_is_known_to_have_no_role_gets_404_at_once", known).alone(),
];

const LATE: Duration = Duration::from_millis(300);
const TOO_LATE: Duration = Duration::from_secs(5);
/// How long a client may wait for any answer: 50 ms more than the daemon waits for facts that it does not know yet.
const BUDGET: Duration = Duration::from_millis(800);

fn late_pod() -> Result<()> {
    let rig = ready()?;
    let pod = unshown(&rig, TEAM)?;
    served_late(&rig, &pod.agent("app")?, || rig.kube.apply(pod.object()).map(drop))?;
    served(&rig, pod.agent("app")?.v6(), "late-role")?;
    no_leak(&rig)
}

fn late_namespace() -> Result<()> {
    let rig = ready()?;
    let pod = unshown(&rig, "fresh")?;
    rig.kube.apply(pod.object())?;
    served_late(&rig, &pod.agent("app")?, || rig.namespace("fresh", &["*"]))?;
    no_leak(&rig)
}

fn unseen_pod() -> Result<()> {
    let rig = ready()?;
    let Reused { pod, .. } = reused(&rig)?;
    in_time(&pod)?;
    no_leak(&rig)
}

fn unseen_namespace() -> Result<()> {
    let rig = ready()?;
    let pod = unshown(&rig, "fresh")?;
    rig.kube.apply(pod.object())?;
    in_time(&pod)?;
    no_leak(&rig)
}

fn unseen_pod_for_long() -> Result<()> {
    let rig = ready()?;
    let Reused { pod, old } = reused(&rig)?;
    all_the_while(&pod)?;
    ensure!(rig.sts.assume_calls().len() == 1, "STS was called for another pod: {:?}", rig.sts.assume_calls());
    rig.kube.delete("Pod", TEAM, &old)?;
    rig.kube.apply(pod.object())?;
    served_both(&rig, &pod.agent("app")?, "late-role")?;
    no_leak(&rig)
}

fn unseen_namespace_for_long() -> Result<()> {
    let rig = ready()?;
    let pod = unshown(&rig, "fresh")?;
    rig.kube.apply(pod.object())?;
    all_the_while(&pod)?;
    ensure!(rig.sts.assume_calls().is_empty(), "{:?}", rig.sts.assume_calls());
    rig.namespace("fresh", &["*"])?;
    served_both(&rig, &pod.agent("app")?, "late-role")?;
    no_leak(&rig)
}

fn known() -> Result<()> {
    let rig = ready()?;
    let pod = rig.pod(PodSpec::new(TEAM, "plain"))?;
    let agent = pod.agent("app")?;
    let token = agent.v4().token()?;
    let (answer, took) = timed(|| ask_role(agent.v4(), &token));
    let answer = answer?;
    ensure!(answer.status == 404 && took < LATE, "{took:?}: {answer:?}");
    Ok(())
}

/// A pod that the API server does not show yet.
fn unshown(rig: &Rig, namespace: &str) -> Result<Pod> {
    rig.node.pod(PodSpec::new(namespace, "late").annotation(ROLE, "late-role"))
}

/// Runs `show` while a request is in flight; that request must be answered.
fn served_late(rig: &Rig, agent: &Agent, show: impl FnOnce() -> Result<()>) -> Result<()> {
    let token = agent.v4().token()?;
    let (answer, took) = thread::scope(|scope| {
        let asking = scope.spawn(|| timed(|| ask_role(agent.v4(), &token)));
        thread::sleep(LATE);
        show()?;
        asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))
    })?;
    let answer = answer?;
    ensure!(answer.status == 200 && answer.text() == "late-role", "{answer:?}");
    ensure!(took > LATE - Duration::from_millis(50) && took < BUDGET, "{took:?}");
    served(rig, agent.v4(), "late-role")
}

/// A pod that the watch does not show, with the addresses of another pod, `old`, whose end it has not shown either.
struct Reused {
    pod: Pod,
    old: String,
}

fn reused(rig: &Rig) -> Result<Reused> {
    let old = rig.pod_with_role(TEAM, "old", "old-role")?;
    served(rig, old.agent("app")?.v4(), "old-role")?;
    let (v4, v6, name) = (old.v4(), old.v6(), old.name().to_owned());
    old.delete()?;
    let pod = rig.node.pod(PodSpec::new(TEAM, "late").annotation(ROLE, "late-role").v4(v4).v6(v6))?;
    Ok(Reused { pod, old: name })
}

/// Asserts that the pod gets 503 when the daemon's waiting time is over, over both address families.
fn in_time(pod: &Pod) -> Result<()> {
    let agent = pod.agent("app")?;
    for client in [agent.v4(), agent.v6()] {
        let token = client.token()?;
        let (answer, took) = timed(|| ask_role(client, &token));
        let answer = answer?;
        ensure!(answer.status == 503, "{answer:?}");
        ensure!(took > BUDGET - Duration::from_millis(100) && took < BUDGET, "{took:?}");
    }
    Ok(())
}

/// Asserts that for five seconds every request of the pod gets 503, over both address families.
fn all_the_while(pod: &Pod) -> Result<()> {
    let agent = pod.agent("app")?;
    let clients = [(agent.v4(), agent.v4().token()?), (agent.v6(), agent.v6().token()?)];
    let paths = ["", "late-role", "old-role"];
    let questions: Vec<_> = paths.iter().flat_map(|role| clients.iter().map(move |client| (*role, client))).collect();
    let begin = Instant::now();
    for (asked, (role, (client, token))) in questions.iter().cycle().enumerate() {
        // Each is sent at least once, even on a slow machine.
        if begin.elapsed() >= TOO_LATE && asked >= questions.len() {
            break;
        }
        let path = format!("/latest/meta-data/iam/security-credentials/{role}");
        let answer = client.get(&path, &[("X-aws-ec2-metadata-token", token)])?;
        ensure!(answer.status == 503 && !answer.text().contains("AccessKeyId"), "{role}: {answer:?}");
    }
    Ok(())
}
