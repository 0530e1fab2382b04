//! Starts that fail while a pod sends requests to the metadata service without a pause.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::{Agent, Load, LoadReport, Target};
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::{Trial, mount_cgroup1, scratch};

use crate::support::{TEAM, leak, no_leak, refused, rig, start_unready};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("starts_that_fail_after_guard_leak_nothing", after_guard),
    // A kernel with all controllers in cgroup2 has no v1 hierarchy, and a container cannot create one.
    Trial::new("a_start_on_cgroup_version_1_after_guard_leaks_nothing", cgroup1_after_guard).may_skip(),
    Trial::new("control_starts_that_fail_without_guard_leak", without_guard),
];

/// After `guard`, a pod sends requests without a pause while `run` fails to start: nothing leaks, and every answer is 401 or 503.
fn after_guard() -> Result<()> {
    let mut rig = rig()?;
    ensure!(rig.podrole(&["guard"])?.status.success());
    let families = knocked_while(&mut rig, |rig, agent| {
        ends(rig, &["--identity", "guess"], 64)?;
        ends(rig, &["--cgroup-root", "/run/netns"], 1)?;
        ends(rig, &["--kubeconfig", "/nonexistent"], 1)?;
        // This start does not end: the daemon waits for the API server and answers 503 until then.
        rig.kube.down(true)?;
        start_unready(rig)?;
        for client in [agent.v4(), agent.v6()] {
            let error = refused(rig, client)?;
            ensure!(error.status() == Some(503), "{error}");
        }
        Ok(())
    })?;
    only_401_and_503(&families)?;
    no_leak(&rig)
}

fn cgroup1_after_guard() -> Result<()> {
    let place = scratch().join("cgroup1");
    mount_cgroup1(&place)?;
    let mut rig = rig()?;
    ensure!(rig.podrole(&["guard"])?.status.success());
    let families = knocked_while(&mut rig, |rig, _| ends(rig, &["--cgroup-root", &place.display().to_string()], 1))?;
    only_401_and_503(&families)?;
    no_leak(&rig)
}

/// The control: a start that fails installs the guards too, but until it does, requests leak.
fn without_guard() -> Result<()> {
    let mut rig = rig()?;
    let families = knocked_while(&mut rig, |rig, _| {
        proc::until("answers over both families", Duration::from_secs(5), || {
            let seen = rig.imds.from_pods();
            let many = |of: fn(&IpAddr) -> bool| seen.iter().filter(|seen| of(&seen.local.ip())).count() > 4;
            Ok((many(IpAddr::is_ipv4) && many(IpAddr::is_ipv6)).then_some(()))
        })?;
        ends(rig, &["--identity", "guess"], 64)
    })?;
    let told = |family: &Vec<LoadReport>| family.iter().any(|report| report.with_status(200) > 0);
    ensure!(families.iter().all(told), "no request got the node's role: {families:?}");
    ensure!(only_401_and_503(&families).is_err(), "the check does not detect a leak: {families:?}");
    leak(&rig)
}

/// Asserts that `run` with these flags ends by itself with this exit code.
fn ends(rig: &mut Rig, flags: &[&str], code: i32) -> Result<()> {
    rig.launch(flags)?;
    let status = rig.daemon_mut()?.wait(Duration::from_secs(10))?;
    ensure!(status.code() == Some(code), "{flags:?}: {status}: {}", rig.daemon()?.logs());
    Ok(())
}

/// Asserts that over each family requests failed, and that every answer was 401 (no token) or 503 (not ready).
fn only_401_and_503(families: &[Vec<LoadReport>]) -> Result<()> {
    for family in families {
        for report in family {
            ensure!(report.answered() == report.with_status(401) + report.with_status(503), "{report:?}");
        }
        ensure!(family.iter().map(LoadReport::failed).sum::<u64>() > 10, "{family:?}");
    }
    Ok(())
}

/// Runs `work` while a pod sends requests to both metadata addresses without a pause, from before until after it.
fn knocked_while(rig: &mut Rig, work: impl FnOnce(&mut Rig, &Agent) -> Result<()>) -> Result<Vec<Vec<LoadReport>>> {
    const ROUND: Duration = Duration::from_millis(500);
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    let agents = [pod.agent("app")?, pod.agent("app")?];
    let third = pod.agent("app")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let knocking: Vec<_> = [Target::v4(), Target::v6()]
            .into_iter()
            .zip(&agents)
            .map(|(target, agent)| {
                let target = target.timeout(Duration::from_millis(50));
                let request = agent.to(target).render("GET", "/latest/meta-data/iam/security-credentials/", &[]);
                let load = Load::new(target, &request).workers(2).duration(ROUND);
                let done = &done;
                scope.spawn(move || {
                    let mut reports = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        reports.push(agent.load(&load)?);
                    }
                    anyhow::Ok(reports)
                })
            })
            .collect();
        let worked = work(rig, &third);
        done.store(true, Ordering::Relaxed);
        let mut families = Vec::new();
        for thread in knocking {
            families.push(thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??);
        }
        worked.map(|()| families)
    })
}
