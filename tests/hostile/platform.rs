//! Nodes outside EC2: without a metadata service, or with another cloud's at the same address.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::imds::Mode;
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::Trial;

use crate::support::{ACCOUNT, TEAM, WEB, get, ready, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("without_a_platform_facts_come_from_sts_and_flags", none),
    Trial::new("without_a_platform_a_region_must_be_given", none_without_region),
    Trial::new("on_another_cloud_nothing_is_applied", another_cloud),
    Trial::new("control_on_ec2_the_guard_is_applied", guard_on_ec2),
];

/// A daemon that rejects its settings ends at once.
const SOON: Duration = Duration::from_secs(10);
/// `EX_USAGE`
const USAGE: i32 = 64;

fn none() -> Result<()> {
    let rig = ready(&["--platform", "none", "--region", "eu-central-1"])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    for (path, told) in [
        ("meta-data/placement/region", Some("eu-central-1")),
        ("meta-data/services/partition", Some("aws")),
        ("meta-data/placement/availability-zone", None),
        ("meta-data/placement/availability-zone-id", None),
        ("meta-data/instance-type", None),
        ("meta-data/services/domain", None),
    ] {
        let answer = get(app.v4(), &token, &format!("/latest/{path}"))?;
        match told {
            Some(fact) => ensure!(answer.status == 200 && answer.text() == fact, "{path}: {answer:?}"),
            None => ensure!(answer.status == 404, "{path}: {answer:?}"),
        }
    }
    let document = get(app.v4(), &token, "/latest/dynamic/instance-identity/document")?.json()?;
    ensure!(document == serde_json::json!({"accountId": ACCOUNT, "region": "eu-central-1"}), "{document}");
    // Roles work in the account that STS reported, and calls go to STS in the configured region.
    let credentials = app.credentials()?;
    ensure!(rig.role_of(&credentials).as_deref() == Some(WEB), "{credentials:?}");
    ensure!(rig.sts.assume_calls().iter().all(|call| call.region.as_deref() == Some("eu-central-1")));
    // The daemon's own role, which only STS could report.
    let greedy = rig.pod_with_role(TEAM, "greedy", "node-role")?;
    let error = greedy.agent("app")?.credentials().err().context("a pod got the daemon's own role")?;
    ensure!(error.status() == Some(404), "{error}");
    // The metadata service was not queried for facts: the SDK's credential chain requests only credentials.
    let seen = rig.imds.seen();
    ensure!(!seen.is_empty(), "it got no request, so the daemon's credentials have another source");
    for seen in seen {
        let text = seen.text();
        let wanted =
            text.contains("/api/token") || text.contains("/iam/security-credentials") || text.starts_with("GET / ");
        ensure!(wanted, "{text}");
    }
    Ok(())
}

fn none_without_region() -> Result<()> {
    let mut rig = rig()?;
    rig.launch(&["--platform", "none"])?;
    let status = rig.daemon_mut()?.wait(SOON)?;
    let logs = rig.daemon()?.logs();
    ensure!(status.code() == Some(USAGE) && logs.contains("--region"), "{status}: {logs}");
    // The daemon refuses to start and leaves the guard in place.
    ensure!(applied(&rig)?.0, "the guard is missing");
    Ok(())
}

/// Whether podrole's nftables table exists, and whether routing rules for the metadata addresses exist.
fn applied(rig: &Rig) -> Result<(bool, bool)> {
    let run = |line: &str| proc::run(rig.node.command().args(line.split(' ')));
    let tables = run("nft list tables")?;
    let rules = run("ip -4 rule show")? + &run("ip -6 rule show")?;
    let routing_guard = rules.contains("169.254.169.254") || rules.contains("fd00:ec2::254");
    Ok((tables.contains("podrole"), routing_guard))
}

fn another_cloud() -> Result<()> {
    let mut rig = rig()?;
    rig.imds.set_mode(Mode::Google)?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    google(&app)?;
    let guard = rig.podrole(&["guard"])?;
    let said = String::from_utf8_lossy(&guard.stderr).into_owned();
    ensure!(!guard.status.success() && said.contains("Google"), "{guard:?}");
    ensure!(applied(&rig)? == (false, false), "guard has changed the node");
    rig.launch(&[])?;
    let status = rig.daemon_mut()?.wait(SOON)?;
    ensure!(!status.success(), "run on another cloud: {status}");
    let logs = rig.daemon()?.logs();
    ensure!(logs.contains("Google"), "{logs}");
    ensure!(applied(&rig)? == (false, false), "run has changed the node");
    // The pod's access is unchanged.
    google(&app)
}

fn google(app: &Agent) -> Result<()> {
    let answer = app.get("/", &[])?;
    ensure!(answer.status == 200 && answer.header("Metadata-Flavor") == Some("Google"), "{answer:?}");
    Ok(())
}

fn guard_on_ec2() -> Result<()> {
    let rig = rig()?;
    ensure!(applied(&rig)? == (false, false));
    let guard = rig.podrole(&["guard"])?;
    ensure!(guard.status.success() && applied(&rig)? == (true, true), "{guard:?}");
    Ok(())
}
