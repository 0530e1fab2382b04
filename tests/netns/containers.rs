//! Two containers of one pod with two roles: they share the address but not the cgroup.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Agent, Client, Load, LoadReport, Target};
use podrole_lab::effort::{CONTAINER_REQUESTS, CONTAINER_TURNS};
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::rig::{ControlPlane as _, ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{TEAM, ask_role, no_leak, ready, refused, rig, served, timed};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("containers_of_one_pod_never_get_each_others_role", || never_crossed(Target::v4())),
    Trial::new("containers_of_one_pod_never_get_each_others_role_over_ipv6", || never_crossed(Target::v6())),
    Trial::new("control_a_crossing_between_containers_would_be_detected", crossing),
    Trial::new("control_by_address_containers_cannot_be_told_apart", by_address),
    Trial::new("a_request_waits_for_a_container_that_is_not_known_yet", || late(Target::v4())).alone(),
    Trial::new("a_request_waits_for_a_container_that_is_not_known_yet_over_ipv6", || late(Target::v6())).alone(),
    Trial::new("a_container_that_stays_unknown_gets_503_in_time", too_late).alone(),
    Trial::new("a_container_that_stays_unknown_never_gets_the_pods_role", unknown),
    Trial::new("control_an_unknown_container_gets_the_pods_role_where_no_container_has_another", unknown_without_roles),
    Trial::new("a_restarted_container_keeps_its_role", restarted),
];

const PATH: &str = "/latest/meta-data/iam/security-credentials/";
/// How long the API does not show the third container.
const UNKNOWN: Duration = Duration::from_secs(5);

fn never_crossed(target: Target) -> Result<()> {
    let rig = ready()?;
    let pod = two_roles(&rig)?;
    let (web, batch) = (pod.agent("web")?, pod.agent("batch")?);
    let all = [(&web, "web-role", "batch-role"), (&batch, "batch-role", "web-role")];
    // In turn.
    for _ in 0..CONTAINER_TURNS.count() {
        for (agent, role, _) in all {
            served(&rig, agent.to(target), role)?;
        }
    }
    // Then both at once, while each also requests the other's role.
    let mut loads = Vec::new();
    let tokens = [web.to(target).token()?, batch.to(target).token()?];
    for ((agent, own, other), token) in all.into_iter().zip(&tokens) {
        loads.push((agent, own, plan(agent, target, token, own), plan(agent, target, token, other)));
    }
    thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = loads
            .iter()
            .map(|(agent, own, mine, others)| (own, scope.spawn(|| (agent.load(mine), agent.load(others)))))
            .collect();
        for (own, thread) in running {
            let (mine, others) = thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))?;
            let (mine, others) = (mine?, others?);
            judge(&rig, own, &mine, &others)?;
        }
        Ok(())
    })?;
    // A token is bound to the container, not to the pod.
    let stolen = ask_role(batch.to(target), &tokens[0])?;
    ensure!(stolen.status == 401, "{stolen:?}");
    no_leak(&rig)
}

/// Asserts that one container always got the same credentials of its own role, and nothing for the other's role.
fn judge(rig: &Rig, own: &str, mine: &LoadReport, others: &LoadReport) -> Result<()> {
    let requests = CONTAINER_REQUESTS.count() as u64;
    ensure!(mine.with_status(200) == requests && mine.failed() == 0, "{own}: {mine:?}");
    // All bodies are counted and are equal, so checking one sample is enough.
    ensure!(mine.bodies.len() == 1 && mine.samples.len() == 1, "{own} got {} different bodies", mine.bodies.len());
    for body in mine.samples.values() {
        let body: serde_json::Value = serde_json::from_str(body).context("a credentials document")?;
        let key = body["AccessKeyId"].as_str().context("an access key")?;
        ensure!(rig.role_of_key(key).as_deref() == Some(own), "{own} got {:?}", rig.role_of_key(key));
    }
    ensure!(others.with_status(404) == requests, "{own} gets the other's: {others:?}");
    ensure!(others.samples.values().all(|body| !body.contains("AccessKeyId")), "{own}: {others:?}");
    Ok(())
}

/// The control: two containers that share a role are judged as if each had its own, and both kinds of crossing must be detected.
fn crossing() -> Result<()> {
    let rig = ready()?;
    let spec = PodSpec::new(TEAM, "alike").containers(&["web", "batch"]).annotation(ROLE, "web-role");
    let pod = rig.pod(spec)?;
    let (web, batch) = (pod.agent("web")?, pod.agent("batch")?);
    let ask = |agent: &Agent, role: &str| -> Result<LoadReport> {
        let token = agent.v4().token()?;
        Ok(agent.load(&plan(agent, Target::v4(), &token, role))?)
    };
    let (right, nothing) = (ask(&web, "web-role")?, ask(&web, "batch-role")?);
    judge(&rig, "web-role", &right, &nothing).context("the judge rejects a correct result")?;
    let crossed = ask(&batch, "web-role")?;
    let complaint = |own: &str, mine: &LoadReport, others: &LoadReport| {
        judge(&rig, own, mine, others)
            .err()
            .map(|error| error.to_string())
            .context("the judge does not detect a crossing")
    };
    let said = complaint("batch-role", &crossed, &nothing)?;
    ensure!(said.contains("batch-role got Some(\"web-role\")"), "{said}");
    let said = complaint("web-role", &right, &crossed)?;
    ensure!(said.contains("gets the other's"), "{said}");
    // One crossed answer among many is detected, whether or not it was kept as the sample.
    let mut mixed = right.clone();
    mixed.bodies.insert("another".into(), 1);
    let said = complaint("web-role", &mixed, &nothing)?;
    ensure!(said.contains("2 different bodies"), "{said}");
    no_leak(&rig)
}

/// Sends many requests for the credentials of a role, four at a time.
fn plan(agent: &Agent, target: Target, token: &str, role: &str) -> Load {
    let request = agent.to(target).render("GET", &format!("{PATH}{role}"), &[("X-aws-ec2-metadata-token", token)]);
    Load::new(target, &request).workers(4).requests(CONTAINER_REQUESTS.count() as u64)
}

fn by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let pod = two_roles(&rig)?;
    for container in ["web", "batch"] {
        let error = refused(&rig, pod.agent(container)?.v4())?;
        ensure!(error.status() == Some(503), "{container}: {error}");
    }
    Ok(())
}

fn late(target: Target) -> Result<()> {
    let rig = ready()?;
    let (pod, debug) = with_unknown(&rig)?;
    let token = debug.to(target).token()?;
    let (answer, took) = thread::scope(|scope| {
        let asking = scope.spawn(|| timed(|| ask_role(debug.to(target), &token)));
        thread::sleep(Duration::from_millis(300));
        rig.kube.update_pod(&pod)?;
        asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))
    })?;
    let answer = answer?;
    ensure!(answer.status == 200 && answer.text() == "debug-role", "{answer:?}");
    ensure!(took >= Duration::from_millis(250) && took < Duration::from_millis(800), "{took:?}");
    served(&rig, debug.to(target), "debug-role")
}

fn too_late() -> Result<()> {
    let rig = ready()?;
    let (_pod, debug) = with_unknown(&rig)?;
    for client in [debug.v4(), debug.v6()] {
        let token = client.token()?;
        let (answer, took) = timed(|| ask_role(client, &token));
        let answer = answer?;
        ensure!(answer.status == 503, "{answer:?}");
        ensure!(took > Duration::from_millis(700) && took < Duration::from_millis(800), "{took:?}");
    }
    no_leak(&rig)
}

/// The API shows the container only long after every request has ended.
fn unknown() -> Result<()> {
    let rig = ready()?;
    let (pod, debug) = with_unknown(&rig)?;
    let clients = [(debug.v4(), debug.v4().token()?), (debug.v6(), debug.v6().token()?)];
    let by_name = |(client, token): &(Client<'_>, String), role: &str| {
        client.get(&format!("{PATH}{role}"), &[("X-aws-ec2-metadata-token", token)])
    };
    // Neither the list nor a request by name gives the pod's role, a sibling's, or the role it is going to have.
    let roles = ["", "pod-role", "web-role", "debug-role"];
    let questions: Vec<_> = roles.iter().flat_map(|role| clients.iter().map(move |client| (*role, client))).collect();
    let begin = Instant::now();
    for (asked, (role, client)) in questions.iter().cycle().enumerate() {
        // Each is requested at least once, even on a slow machine.
        if begin.elapsed() >= UNKNOWN && asked >= questions.len() {
            break;
        }
        let answer = by_name(client, role)?;
        ensure!(answer.status == 503 && !answer.text().contains("AccessKeyId"), "{role}: {answer:?}");
    }
    // Once the API shows the container, it gets its own role and no other.
    rig.kube.update_pod(&pod)?;
    for client in &clients {
        served(&rig, client.0, "debug-role")?;
        for role in ["pod-role", "web-role"] {
            let answer = by_name(client, role)?;
            ensure!(answer.status == 404, "{role}: {answer:?}");
        }
    }
    no_leak(&rig)
}

/// An unknown container gets the pod's role if no container has a role of its own.
fn unknown_without_roles() -> Result<()> {
    let rig = ready()?;
    let pod = rig.pod(PodSpec::new(TEAM, "plain").containers(&["web", "batch"]).annotation(ROLE, "pod-role"))?;
    pod.add_container("debug")?;
    let debug = pod.agent("debug")?;
    for client in [debug.v4(), debug.v6()] {
        served(&rig, client, "pod-role")?;
    }
    no_leak(&rig)
}

/// A pod whose containers have their own roles, with a process in a container that the API does not show.
fn with_unknown(rig: &Rig) -> Result<(Pod, Agent)> {
    let pod = two_roles(rig)?;
    let web = pod.agent("web")?;
    for client in [web.v4(), web.v6()] {
        served(rig, client, "web-role")?;
    }
    pod.add_container("debug")?;
    let debug = pod.agent("debug")?;
    Ok((pod, debug))
}

fn restarted() -> Result<()> {
    let rig = ready()?;
    let pod = two_roles(&rig)?;
    served(&rig, pod.agent("web")?.v4(), "web-role")?;
    let old = pod.agent("web")?.v4().token()?;
    pod.restart_container("web")?;
    rig.kube.update_pod(&pod)?;
    let agent = pod.agent("web")?;
    served(&rig, agent.v4(), "web-role")?;
    // A restart makes a new container, for which the old token is not valid.
    let answer = ask_role(agent.v4(), &old)?;
    ensure!(answer.status == 401, "{answer:?}");
    Ok(())
}

fn two_roles(rig: &Rig) -> Result<Pod> {
    let spec = PodSpec::new(TEAM, "pair").containers(&["web", "batch"]).annotation(ROLE, "pod-role");
    let roles = ["web", "batch", "debug"];
    rig.pod(
        roles
            .iter()
            .fold(spec, |spec, name| spec.annotation(&format!("podrole.dev/role.{name}"), &format!("{name}-role"))),
    )
}
