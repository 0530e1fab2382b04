//! The watch is late: a client is held for a moment, then told to come again, and never told that there is no role.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{TEAM, ask_role, no_leak, ready, served, timed};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_that_the_watch_shows_late_is_served_in_the_same_request", late_pod).alone(),
    Trial::new("a_namespace_that_the_watch_shows_late_is_served_in_the_same_request", late_namespace).alone(),
    Trial::new("a_pod_that_the_watch_does_not_show_is_told_to_come_again", unseen_pod).alone(),
    Trial::new("a_namespace_that_the_watch_does_not_show_is_told_to_come_again", unseen_namespace).alone(),
    Trial::new("control_a_pod_that_is_known_to_have_no_role_is_told_so_at_once", known),
];

const LATE: Duration = Duration::from_millis(300);
const TOO_LATE: Duration = Duration::from_secs(5);
/// What the daemon may take, and what measuring adds.
const BUDGET: Duration = Duration::from_millis(800 + 100);

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
    let spec = PodSpec::new(TEAM, "late").annotation(ROLE, "late-role");
    // Its address was another pod's, whose end the watch has not shown either.
    let old = rig.pod_with_role(TEAM, "old", "old-role")?;
    served(&rig, old.agent("app")?.v4(), "old-role")?;
    let (v4, v6) = (old.v4(), old.v6());
    old.delete()?;
    let pod = rig.node.pod(spec.v4(v4).v6(v6))?;
    rig.kube.delay_object(pod.uid(), TOO_LATE);
    rig.kube.apply(pod.object())?;
    told_to_come_again(&pod)?;
    ensure!(rig.sts.assume_calls().len() == 1, "STS was asked for somebody: {:?}", rig.sts.assume_calls());
    no_leak(&rig)
}

fn unseen_namespace() -> Result<()> {
    let rig = ready()?;
    let pod = unshown(&rig, "fresh")?;
    rig.kube.apply(pod.object())?;
    rig.kube.delay_object("fresh", TOO_LATE);
    rig.namespace("fresh", &["*"])?;
    told_to_come_again(&pod)?;
    ensure!(rig.sts.assume_calls().is_empty(), "{:?}", rig.sts.assume_calls());
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

/// One request is in flight while `show` happens; it is that one which is answered.
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

/// Every question of the pod gets 503, in time; over both address families.
fn told_to_come_again(pod: &Pod) -> Result<()> {
    let agent = pod.agent("app")?;
    for (client, paths) in [(agent.v4(), &["", "late-role", "old-role"][..]), (agent.v6(), &["late-role"])] {
        let token = client.token()?;
        for path in paths {
            let headers = [("X-aws-ec2-metadata-token", token.as_str())];
            let path = format!("/latest/meta-data/iam/security-credentials/{path}");
            let (answer, took) = timed(|| client.get(&path, &headers));
            let answer = answer?;
            ensure!(answer.status == 503, "{path}: {answer:?}");
            ensure!(took > Duration::from_millis(700) && took < BUDGET, "{path}: {took:?}");
        }
    }
    Ok(())
}
