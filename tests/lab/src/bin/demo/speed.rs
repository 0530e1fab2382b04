//! Part 4: how long a pod waits for its credentials, the first time and later.

use anyhow::{Context as _, Result};
use podrole_lab::agent::{Load, LoadReport, Target};
use serde_json::Value;

use crate::cast::{ROLES, Stage, TOKEN};
use crate::identities::session_of;

const ROLE: &str = "web";
/// The number of repeated requests.
const AGAIN: u64 = 1_000;

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    stage.screen.heading("LATENCY", "GET of the credentials by a pod that just started, each on a new connection");
    let pod = stage.rig.pod_with_role("shop", "new", ROLE)?;
    let agent = pod.agent("app")?;
    let client = agent.v4();
    let token = client.token().context("a session token for a new pod")?;
    let request = client.render("GET", &format!("{ROLES}{ROLE}"), &[(TOKEN, &token)]);
    let first = agent.load(&Load::new(Target::v4(), &request))?;
    let later = agent.load(&Load::new(Target::v4(), &request).requests(AGAIN))?;

    stage.checks.same("first answers to a new pod with status 200", first.with_status(200), 1);
    stage.checks.same("later answers to a new pod with status 200", later.with_status(200), AGAIN);
    let session = format!("shop.default.{}", session_of(&pod).rsplit('.').next().unwrap_or_default());
    let calls = stage.rig.sts.assume_calls();
    let calls: Vec<_> = calls.iter().filter(|call| call.session_name.as_deref() == Some(&session)).collect();
    stage.checks.same("STS calls for a new pod", calls.len(), 1);
    let issued: Vec<&str> = calls.iter().filter_map(|call| call.issued()).collect();
    for report in [&first, &later] {
        stage.checks.same(
            "access keys that a new pod got",
            keys(report)?,
            issued.clone().into_iter().map(str::to_owned).collect(),
        );
    }

    let line = stage.audit_line("AssumeRole", |line| line["session_name"] == session.as_str())?;
    let took = line["latency_ms"].as_u64().context("audit line of the STS call has no latency")?;
    let milliseconds = |micros: u64| micros as f64 / 1e3;
    let resident = stage.rig.daemon()?.rss_kib()? / 1024;
    stage.screen.line(&format!(
        "   first  {:6.2} ms          includes 1 STS call ({took} ms here; tens of ms with the real STS)",
        milliseconds(first.latency.p50)
    ));
    stage.screen.line(&format!(
        "   later  {:6.2} ms median   {:.2} ms p99, over {AGAIN} requests without another STS call",
        milliseconds(later.latency.p50),
        milliseconds(later.latency.p99)
    ));
    let build = if cfg!(debug_assertions) { " (debug build; `make bench` measures a release build)" } else { "" };
    stage.screen.line(&stage.screen.dim(&format!("   podrole uses {resident} MiB of memory{build}")));
    drop(agent);
    stage.rig.delete(pod)
}

/// The distinct access keys in the answers.
fn keys(report: &LoadReport) -> Result<Vec<String>> {
    let key = |body: &String| {
        let body: Value = serde_json::from_str(body).context("parse credentials as JSON")?;
        body["AccessKeyId"].as_str().map(str::to_owned).context("credentials have no access key")
    };
    report.samples.values().map(key).collect()
}
