//! The daemon's log: it never contains a pod's environment, and a log that is not read does not block the daemon.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::pod::PodSpec;
use podrole_lab::proc;
use podrole_lab::secrets::{self, Planted};
use podrole_lab::world::{self, Trial};
use serde_json::json;

use crate::support::{SOON, TEAM, TOKEN, WEB, path_of, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_list_that_cannot_be_parsed_is_not_logged", unparsable_list),
    Trial::new("a_log_that_is_not_read_blocks_nothing", full_pipe),
];

const PASSWORD: &str = "correct-horse-battery-staple";
/// More debug lines than a pipe (64 KiB) and the queue before it (4,096 lines) hold.
const REQUESTS: usize = 6_000;

/// kube's client logs a response that it cannot parse. The control, which shows what would be logged without the
/// filter, is a unit test of `telemetry`.
fn unparsable_list() -> Result<()> {
    let mut rig = rig()?;
    let pod = web(&rig)?;
    let environment =
        json!({"spec": {"containers": [{"name": "app", "env": [{"name": "PASSWORD", "value": PASSWORD}]}]}});
    rig.kube.merge("pods", TEAM, "web", &environment)?;
    // The truncation removes the filler, so the pod with the password arrives complete.
    rig.pod(PodSpec::new(TEAM, "zz-filler").annotation("example.org/filler", &"x".repeat(20_000)))?;
    rig.kube.short_lists(true);
    rig.launch(&["--log", "trace"])?;
    proc::until("a list of pods that cannot be parsed", SOON, || {
        let log = rig.daemon()?.logs();
        Ok(log.lines().any(|line| line.contains("Watch interrupted") && line.contains("pods")).then_some(()))
    })?;
    rig.kube.short_lists(false);
    rig.daemon_mut()?.wait_ready(Duration::from_secs(20))?;
    let agent = pod.agent("app")?;
    ensure!(agent.credentials().is_ok(), "the pod is served once the list is whole");
    secrets::none_got_out(&rig, &[Planted::new("a pod's environment", PASSWORD)?])
}

/// Standard error is a pipe that stays open and is never read. The control, a writer without a queue, is in the unit
/// test of `line_writer`.
fn full_pipe() -> Result<()> {
    let mut rig = rig()?;
    let pipe = world::scratch().join("nobody-reads");
    let script = format!("mkfifo '{0}'; exec 3<>'{0}'; exec \"$0\" \"$@\" 2>&3", pipe.display());
    rig.options_mut().wrapper = vec!["sh".to_owned(), "-c".to_owned(), script];
    rig.start(&["--log", "debug"])?;
    let pod = web(&rig)?;
    let agent = pod.agent("app")?;
    let token = agent.v4().token()?;
    let mut served = 0;
    for _ in 0..REQUESTS {
        let answer = agent.v4().get(&path_of(WEB), &[(TOKEN, &token)])?;
        served += usize::from(answer.status == 200);
    }
    ensure!(served == REQUESTS, "{served} of {REQUESTS} requests were served");
    proc::until("lost lines to be counted", Duration::from_secs(15), || {
        Ok((rig.daemon()?.metric("podrole_faults_total", &[("fault", "log_lost")])? > 0.0).then_some(()))
    })
}
