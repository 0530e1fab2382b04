//! Start, crash, restart, upgrade, stop and cleanup.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Load, LoadReport, Target};
use podrole_lab::cluster::Assets;
use podrole_lab::pod::{PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig, RigOptions};
use podrole_lab::world::{Trial, scratch, skip};

use crate::support::{
    METADATA, NODE_ROLE, TEAM, answered, ask_role, connects, leak, no_leak, on_node, pods, ready, refused, rig, said,
    served, served_both,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("tokens_from_before_a_crash_are_still_valid", tokens_survive),
    Trial::new("control_tokens_do_not_survive_the_loss_of_the_state_directory", tokens_lost),
    Trial::new("a_crash_and_a_restart_under_load_leak_nothing", crash_under_load),
    Trial::new("control_another_roles_credentials_after_a_crash_would_be_detected", another_role),
    Trial::new("a_daemon_that_is_stopped_leaves_the_node_guarded", told_to_end),
    Trial::new("a_second_daemon_takes_over", second_daemon),
    Trial::new("pods_are_served_with_a_real_api_server", real_api_server),
    Trial::new("routes_to_pods_do_not_change", routes),
    Trial::new("cleanup_removes_everything_and_says_what_it_opens", cleanup),
];

fn tokens_survive() -> Result<()> {
    let mut rig = ready()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    let agent = pod.agent("app")?;
    let token = agent.v4().token()?;
    ensure!(ask_role(agent.v4(), &token)?.status == 200);
    rig.daemon_mut()?.kill9()?;
    rig.restart()?;
    for client in [agent.v4(), agent.v6()] {
        let answer = ask_role(client, &token)?;
        ensure!(answer.status == 200 && answer.text() == "web-role", "{answer:?}");
    }
    served_both(&rig, &agent, "web-role")?;
    no_leak(&rig)
}

fn tokens_lost() -> Result<()> {
    let mut rig = ready()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    let agent = pod.agent("app")?;
    let token = agent.v4().token()?;
    rig.daemon_mut()?.kill9()?;
    std::fs::remove_dir_all(scratch().join("state"))?;
    rig.restart()?;
    let answer = ask_role(agent.v4(), &token)?;
    // On this status SDKs request a new token.
    ensure!(answer.status == 401, "{answer:?}");
    served_both(&rig, &agent, "web-role")
}

fn crash_under_load() -> Result<()> {
    let mut rig = ready()?;
    let roles = ["first-role", "second-role"];
    let pods = [
        rig.pod_with_role(TEAM, "first", roles[0])?,
        rig.pod(PodSpec::new(TEAM, "second").shape(Shape::PointToPoint).annotation(ROLE, roles[1]))?,
    ];
    let agents: Vec<_> = pods.iter().map(|pod| pod.agent("app")).collect::<Result<_>>()?;
    let others: Vec<_> = pods.iter().map(|pod| pod.agent("app")).collect::<Result<_>>()?;
    thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = [Target::v4(), Target::v6()]
            .into_iter()
            .zip(&agents)
            .map(|(target, agent)| {
                let target = target.timeout(Duration::from_millis(500));
                let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
                let request = agent.to(target).render("PUT", "/latest/api/token", &ttl);
                let load = Load::new(target, &request).workers(2).duration(Duration::from_millis(2500));
                scope.spawn(move || agent.load(&load))
            })
            .collect();
        let fetching = [Target::v4(), Target::v6()]
            .into_iter()
            .zip(others.iter().zip(roles))
            .map(|(target, (agent, role))| {
                let token = agent.to(target).token()?;
                let target = target.timeout(Duration::from_millis(500));
                let path = format!("/latest/meta-data/iam/security-credentials/{role}");
                let request = agent.to(target).render("GET", &path, &[("X-aws-ec2-metadata-token", &token)]);
                let load = Load::new(target, &request).workers(2).duration(Duration::from_millis(2500));
                Ok((role, scope.spawn(move || agent.load(&load))))
            })
            .collect::<Result<Vec<_>>>()?;
        answered(&rig, 100)?;
        rig.daemon_mut()?.kill9()?;
        thread::sleep(Duration::from_millis(300));
        rig.restart()?;
        for thread in running {
            let report = thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
            // Any other answer would come from the real metadata service.
            ensure!(report.answered() == report.with_status(200) && report.answered() > 0, "{report:?}");
            ensure!(report.failed() > 0, "the load did not see the crash: {report:?}");
        }
        for (role, thread) in fetching {
            let report = thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
            only_credentials_of(&rig, role, &report)?;
            ensure!(report.failed() > 0, "the load did not see the crash: {report:?}");
        }
        Ok(())
    })?;
    for (agent, role) in agents.iter().zip(roles) {
        served_both(&rig, agent, role)?;
    }
    no_leak(&rig)
}

/// Asserts that every answer was credentials that STS issued for this role, or asked the client to retry.
fn only_credentials_of(rig: &Rig, role: &str, report: &LoadReport) -> Result<()> {
    let (mut lives, mut served) = (0, 0);
    for (hash, body) in &report.samples {
        let Some(key) = access_key(body) else { continue };
        ensure!(rig.role_of_key(&key).as_deref() == Some(role), "{role} was asked for: {body}");
        lives += 1;
        served += report.bodies.get(hash).copied().unwrap_or_default();
    }
    // Each of the two processes gets its credentials once.
    ensure!((1..=2).contains(&lives), "{lives} different credentials: {report:?}");
    ensure!(served > 0 && served == report.with_status(200), "a 200 without credentials: {report:?}");
    let told = [200, 401, 503].map(|status| report.with_status(status));
    ensure!(report.answered() == told.iter().sum::<u64>(), "{report:?}");
    Ok(())
}

/// The control: the judge must reject credentials of another role, a third set of credentials, a 200 without credentials, and another
/// status.
fn another_role() -> Result<()> {
    let rig = ready()?;
    let ask = |name: &str, role: &str, path: &str| -> Result<LoadReport> {
        let pod = rig.pod_with_role(TEAM, name, role)?;
        let agent = pod.agent("app")?;
        let token = agent.v4().token()?;
        let path = format!("/latest/meta-data/iam/security-credentials/{path}");
        let request = agent.v4().render("GET", &path, &[("X-aws-ec2-metadata-token", &token)]);
        Ok(agent.load(&Load::new(Target::v4(), &request).workers(2).requests(50))?)
    };
    let own = ask("own", "own-role", "own-role")?;
    only_credentials_of(&rig, "own-role", &own).context("the judge rejects a correct result")?;
    let complaint = |report: &LoadReport| {
        let said = only_credentials_of(&rig, "own-role", report).err().map(|error| error.to_string());
        said.context("the judge does not detect it")
    };
    let others = ask("others", "other-role", "other-role")?;
    let said = complaint(&others)?;
    ensure!(said.starts_with("own-role was asked for"), "{said}");
    // One such answer among many is detected.
    let mut mixed = own.clone();
    mixed.samples.extend(others.samples.clone());
    mixed.bodies.extend(others.bodies.keys().map(|hash| (hash.clone(), 1)));
    let said = complaint(&mixed)?;
    ensure!(said.starts_with("own-role was asked for"), "{said}");
    let mut lives = own.clone();
    for name in ["second", "third"] {
        lives.samples.extend(ask(name, "own-role", "own-role")?.samples);
    }
    let said = complaint(&lives)?;
    ensure!(said.starts_with("3 different credentials"), "{said}");
    let mut bare = own.clone();
    *bare.statuses.entry(200).or_default() += 1;
    let said = complaint(&bare)?;
    ensure!(said.starts_with("a 200 without credentials"), "{said}");
    let mut strange = own.clone();
    strange.statuses.extend(ask("missing", "own-role", "other-role")?.statuses.split_off(&404));
    ensure!(strange.with_status(404) == 50, "{strange:?}");
    complaint(&strange).map(drop)
}

/// The access key in an answer, if it has one.
fn access_key(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body.get("AccessKeyId")?.as_str().map(str::to_owned)
}

fn told_to_end() -> Result<()> {
    let mut rig = ready()?;
    let pods = pods(&rig)?;
    let status = rig.daemon_mut()?.terminate()?;
    ensure!(status.success(), "{status}: {}", rig.daemon()?.logs());
    for pod in &pods {
        let agent = pod.agent("app")?;
        for address in METADATA {
            ensure!(!connects(&agent, address, 80), "{}: {address} answers", pod.name());
        }
    }
    no_leak(&rig)
}

/// A simple upgrade: the new daemon serves before the old one ends.
fn second_daemon() -> Result<()> {
    let mut rig = ready()?;
    let pods = pods(&rig)?;
    let agents: Vec<_> = pods.iter().map(|pod| pod.agent("app")).collect::<Result<_>>()?;
    let mut second = rig.beside("127.0.0.1:9442".parse()?, &[])?;
    second.wait_ready(Duration::from_secs(20))?;
    for agent in &agents {
        served_both(&rig, agent, "own-role").context("while both run")?;
    }
    ensure!(second.metric("podrole_http_requests_total", &[])? > 0.0, "the rules still redirect to the first daemon");
    ensure!(rig.daemon_mut()?.terminate()?.success());
    for agent in &agents {
        served_both(&rig, agent, "own-role").context("with the second daemon only")?;
    }
    no_leak(&rig)
}

/// Covers what the simulated API server cannot: the real one's UIDs, RBAC, field selectors and watch.
fn real_api_server() -> Result<()> {
    if let Err(missing) = Assets::find() {
        return skip(&format!("{missing:#}"));
    }
    let binary = Some(env!("CARGO_BIN_EXE_podrole").into());
    let mut rig = Rig::real(RigOptions { binary, ..RigOptions::default() })?;
    rig.namespace(TEAM, &["own-*"])?;
    let before = rig.pod_with_role(TEAM, "before", "own-role")?;
    rig.start(&[])?;
    let after = rig.pod_with_role(TEAM, "after", "own-other")?;
    for (pod, role) in [(&before, "own-role"), (&after, "own-other")] {
        let agent = pod.agent("app")?;
        served(&rig, agent.v4(), role)?;
        served(&rig, agent.v6(), role)?;
    }
    let denied = rig.pod_with_role(TEAM, "denied", "admin")?;
    ensure!(refused(&rig, denied.agent("app")?.v4())?.status() == Some(404));
    rig.delete(after)?;
    let leaked = rig.imds.leaked_packets()?;
    ensure!(leaked == 0, "{leaked} packets leaked");
    Ok(())
}

/// The node's traffic to pods, above all the kubelet's probes, keeps its route and its source address.
fn routes() -> Result<()> {
    let mut rig = rig()?;
    let pods = pods(&rig)?;
    let ways = |rig: &Rig| -> Result<String> {
        let mut all = String::new();
        for pod in &pods {
            all += &on_node(rig, &format!("ip route get {}", pod.v4()))?;
            all += &on_node(rig, &format!("ip -6 route get {}", pod.v6()))?;
        }
        all += &on_node(rig, "ip route get 10.0.0.1")?;
        all += &on_node(rig, "ip -6 route get 2001:db8::1")?;
        all += &on_node(rig, "ip route get 169.254.169.254")?;
        Ok(all)
    };
    let before = ways(&rig)?;
    rig.start(&[])?;
    let after = ways(&rig)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

fn cleanup() -> Result<()> {
    let mut rig = rig()?;
    let state = |rig: &Rig| -> Result<String> {
        let parts = ["nft list ruleset", "ip -4 rule show", "ip -6 rule show", "ip addr show dev lo"];
        let mut all: String = parts.iter().map(|line| on_node(rig, line)).collect::<Result<_>>()?;
        for family in ["-4", "-6"] {
            all += &on_node(rig, &format!("ip {family} route show table all dev lo"))?;
        }
        Ok(all)
    };
    let before = state(&rig)?;
    rig.start(&[])?;
    let pods = pods(&rig)?;
    for pod in &pods {
        served_both(&rig, &pod.agent("app")?, "own-role")?;
    }
    rig.daemon_mut()?.terminate()?;
    for pod in pods {
        rig.delete(pod)?;
    }
    no_leak(&rig)?;
    let output = rig.podrole(&["cleanup"])?;
    let words = said(&output);
    ensure!(output.status.success(), "{words}");
    for part in ["nftables table", "routing rule", "local route", "listen address", "metadata service"] {
        ensure!(words.contains(part), "{part} is not in {words}");
    }
    let after = state(&rig)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    // The leak that cleanup announces is real.
    let pod = rig.pod(PodSpec::new(TEAM, "open"))?;
    ensure!(pod.agent("app")?.credentials()?.role == NODE_ROLE);
    leak(&rig)?;
    let again = rig.podrole(&["cleanup"])?;
    ensure!(again.status.success() && said(&again).contains("nothing to remove"), "{}", said(&again));
    Ok(())
}
