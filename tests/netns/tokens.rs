//! Session tokens are issued locally: a client gets one at once even if everything else is down.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::{Load, Target};
use podrole_lab::pod::PodSpec;
use podrole_lab::world::Trial;

use crate::support::{TEAM, ask_role, no_leak, ready, refused, rig, start_unready};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("tokens_need_neither_watch_nor_api_server_nor_sts", alone).alone(),
    Trial::new("control_without_them_there_are_no_credentials", credentials_need_them),
    Trial::new("tokens_are_bound_to_their_container", bound),
    Trial::new("daemon_started_without_an_api_server_gives_tokens", started_alone),
];

/// The limit at p99. SDKs wait one second for a token, but half of the clients with a timeout have a shorter one.
const P99: Duration = Duration::from_millis(50);

fn alone() -> Result<()> {
    let rig = ready()?;
    let known = rig.pod_with_role(TEAM, "known", "known-role")?;
    rig.kube.freeze(true);
    let unknown = rig.pod_with_role(TEAM, "unknown", "unknown-role")?;
    rig.kube.down(true)?;
    rig.sts.down(true)?;
    for pod in [&known, &unknown] {
        let agent = pod.agent("app")?;
        for (target, client) in [(Target::v4(), agent.v4()), (Target::v6(), agent.v6())] {
            let put = client.render("PUT", "/latest/api/token", &[("X-aws-ec2-metadata-token-ttl-seconds", "21600")]);
            let report = agent.load(&Load::new(target, &put).workers(2).requests(500))?;
            ensure!(report.with_status(200) == 500, "{}: {report:?}", pod.name());
            let p99 = Duration::from_micros(report.latency.p99);
            ensure!(p99 < P99, "{}: {p99:?}", pod.name());
        }
    }
    Ok(())
}

fn credentials_need_them() -> Result<()> {
    let rig = ready()?;
    rig.kube.freeze(true);
    let pod = rig.pod_with_role(TEAM, "unknown", "unknown-role")?;
    rig.kube.down(true)?;
    rig.sts.down(true)?;
    let error = refused(&rig, pod.agent("app")?.v4())?;
    ensure!(error.status() == Some(503), "{error}");
    Ok(())
}

fn bound() -> Result<()> {
    let rig = ready()?;
    let (a, b) = (rig.pod_with_role(TEAM, "a", "a-role")?, rig.pod(PodSpec::new(TEAM, "b"))?);
    let (a, b) = (a.agent("app")?, b.agent("app")?);
    let token = a.v4().token()?;
    ensure!(ask_role(a.v4(), &token)?.status == 200);
    // The token is valid for the same caller over the other address family.
    ensure!(ask_role(a.v6(), &token)?.status == 200);
    for answer in [ask_role(b.v4(), &token)?, ask_role(a.v4(), "forged")?, a.get("/latest/meta-data/iam/info", &[])?] {
        ensure!(answer.status == 401, "{answer:?}");
    }
    // A request that a proxy forwards is rejected.
    let headers = [("X-aws-ec2-metadata-token-ttl-seconds", "60"), ("X-Forwarded-For", "203.0.113.9")];
    let forwarded = a.v4().request("PUT", "/latest/api/token", &headers)?;
    ensure!(forwarded.status == 403, "{forwarded:?}");
    Ok(())
}

fn started_alone() -> Result<()> {
    let mut rig = rig()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.kube.down(true)?;
    start_unready(&mut rig)?;
    let agent = pod.agent("app")?;
    let token = agent.v4().token()?;
    let answer = ask_role(agent.v4(), &token)?;
    ensure!(answer.status == 503, "{answer:?}");
    no_leak(&rig)
}
