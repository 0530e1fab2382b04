//! What podrole requests from an API server, with which rights, and what happens while the API server is down.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::{User, is_status};
use podrole_lab::kube::Request;
use podrole_lab::proc::{self, Process};
use podrole_lab::rig::ROLE;
use podrole_lab::world::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::programs::{ALL, Programs};
use crate::support::{
    TEAM, becomes, becomes_refused, double, figure, no_leak, real, real_ready, served, session_arn, spec, with_role,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("lists_come_from_the_api_servers_cache_by_node_name_and_as_metadata", lists),
    Trial::new("the_limited_user_suffices", limited_user),
    Trial::new("pods_are_served_while_the_api_server_is_gone_and_after", gone_and_back),
    Trial::new("start_to_ready_with_250_pods", start_up),
];

const UP: Duration = Duration::from_secs(60);
const PODS: usize = 250;

fn lists() -> Result<()> {
    let mut rig = double()?;
    rig.kube.clear();
    rig.start(&["--service-account-roles", "true"])?;
    ensure!(rig.kube.wait(UP, |_, watchers| watchers >= 3), "{} watches are open", rig.kube.watchers());
    let requests = rig.kube.requests();
    for request in &requests {
        ensure!(request.method == "GET", "{request:?}");
        ensure!(request.user_agent.starts_with("podrole/"), "{request:?}");
    }
    let of = |plural: &str, watch: bool| -> Result<Vec<Request>> {
        let path = format!("/api/v1/{plural}?");
        let found: Vec<Request> =
            requests.iter().filter(|r| r.path.starts_with(&path) && r.is_watch() == watch).cloned().collect();
        ensure!(!found.is_empty(), "no request of {plural}, watch {watch}: {requests:#?}");
        Ok(found)
    };
    for plural in ["pods", "namespaces", "serviceaccounts"] {
        let lists = of(plural, false)?;
        ensure!(lists.len() == 1, "listed more than once: {lists:#?}");
        for list in &lists {
            // Without a version, or in pages, every node of a large cluster would read from etcd.
            ensure!(list.path.contains("resourceVersion=0&") || list.path.ends_with("resourceVersion=0"), "{list:?}");
            ensure!(!list.path.contains("limit=") && !list.path.contains("continue="), "{list:?}");
        }
        for request in lists.iter().chain(&of(plural, true)?) {
            let selected = request.path.contains("fieldSelector=spec.nodeName%3Dnode-1");
            ensure!(selected == (plural == "pods"), "{request:?}");
            let metadata_only = request.accept.contains("as=PartialObjectMetadata");
            ensure!(metadata_only == (plural != "pods"), "{request:?}");
        }
    }
    Ok(())
}

fn limited_user() -> Result<()> {
    let mut rig = real()?;
    rig.kube.service_account(
        TEAM,
        "deploy",
        json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/sa-role"}),
    )?;
    rig.start(&["--service-account-roles", "true"])?;
    let by_pod = with_role(&rig, TEAM, "web", "web-role")?;
    let by_account = rig.pod(spec(TEAM, "irsa").service_account("deploy"))?;
    becomes(&rig, by_pod.agent("app")?.v4(), "web-role", &[])?;
    becomes(&rig, by_account.agent("app")?.v4(), "sa-role", &[])?;
    // A pod without a role: writing its Event needs a right as well.
    becomes_refused(&rig, rig.pod(spec(TEAM, "plain"))?.agent("app")?.v4(), 404)?;
    proc::until("an Event", UP, || {
        let events = |labels: &[(&str, &str)]| rig.daemon()?.metric("podrole_events_total", labels);
        Ok((events(&[])? == 1.0 && events(&[("result", "published")])? == 1.0).then_some(()))
    })?;
    ensure!(rig.daemon()?.metric("podrole_watch_errors_total", &[])? == 0.0, "{}", rig.daemon()?.logs());
    // Control: the user has no other rights.
    for (kind, query) in [("Secret", ""), ("ConfigMap", ""), ("Node", ""), ("Event", "")] {
        match rig.kube.list(User::Podrole, kind, "", query) {
            Err(error) if is_status(&error, 403) => {}
            other => anyhow::bail!("podrole's user may list {kind}: {other:?}"),
        }
    }
    no_leak(&rig)
}

fn gone_and_back() -> Result<()> {
    let programs = Programs::find()?;
    let rig = real_ready()?;
    let warm = with_role(&rig, TEAM, "warm", "warm-role")?;
    // Known to the watch, but without cached credentials.
    let cold = with_role(&rig, TEAM, "cold", "cold-role")?;
    let (warm_agent, cold_agent) = (warm.agent("app")?, cold.agent("app")?);
    becomes(&rig, warm_agent.v4(), "warm-role", &[])?;
    let token = cold_agent.v4().token()?;
    proc::until("the watch to show both pods", UP, || {
        let role = cold_agent
            .get("/latest/meta-data/iam/security-credentials/", &[("X-aws-ec2-metadata-token", token.as_str())])?;
        Ok((role.status == 200).then_some(()))
    })?;

    let server = ApiServer::find()?;
    server.kill()?;
    ensure!(rig.kube.get(User::Admin, "Namespace", "", TEAM).is_err(), "the API server still answers");
    proc::until("the watch to break", UP, || {
        Ok((rig.daemon()?.metric("podrole_watch_errors_total", &[])? >= 2.0).then_some(()))
    })?;
    served(&rig, warm_agent.v4(), "warm-role")?;
    served(&rig, cold_agent.v6(), "cold-role")?;
    for sdk in ALL {
        programs.run(&rig, &warm, sdk)?.is(&session_arn(&warm, "warm-role")?)?;
    }
    ensure!(rig.daemon()?.is_ready(), "not ready, so a rollout would wait for the API server");

    let begin = Instant::now();
    let _again = server.start()?;
    proc::until("the API server to be back", UP, || Ok(rig.kube.raw("/readyz").ok()))?;
    figure("API server back after", format_args!("{:.1} s", begin.elapsed().as_secs_f64()));
    let late = with_role(&rig, TEAM, "late", "late-role")?;
    let back = Instant::now();
    let late_agent = late.agent("app")?;
    proc::until("a pod created after that to be served", UP, || Ok(late_agent.credentials().ok()))?;
    figure("a new pod is served after", format_args!("{:.1} s", back.elapsed().as_secs_f64()));
    served(&rig, late_agent.v4(), "late-role")?;
    rig.kube.annotate("Pod", TEAM, "warm", ROLE, Some("other-role"))?;
    becomes(&rig, warm_agent.v4(), "other-role", &["warm-role"])?;
    no_leak(&rig)
}

fn start_up() -> Result<()> {
    let mut rig = double()?;
    for number in 0..PODS {
        // Only the object, which is all that a start reads. Network and cgroup are read when a pod sends a request.
        let spec = spec(TEAM, &format!("pod-{number}")).annotation(ROLE, "web-role");
        let mut object = spec.scheduled("node-1");
        let (high, low) = (number / 250, number % 250 + 2);
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012x}"));
        object["status"] = json!({
            "phase": "Running",
            "podIP": format!("10.99.{high}.{low}"),
            "podIPs": [{"ip": format!("10.99.{high}.{low}")}],
            "containerStatuses": [{"name": "app", "containerID": format!("containerd://{number:064x}")}],
        });
        rig.kube.apply(object)?;
    }
    let begin = Instant::now();
    rig.start(&[])?;
    let took = begin.elapsed();
    let profile = if cfg!(debug_assertions) { "debug" } else { "optimized" };
    figure("start to ready with 250 pods", format_args!("{} ms, {profile} build", took.as_millis()));
    let log = rig.daemon()?.logs();
    ensure!(log.contains("objects=250"), "the list was not complete when it was ready: {log}");
    Ok(())
}

/// The process of the API server, to be killed and restarted as in a rolling update of a control plane.
struct ApiServer {
    pid: i32,
    arguments: Vec<String>,
}

impl ApiServer {
    /// Finds the API server of this trial, by its network namespace: each trial has a separate one.
    fn find() -> Result<Self> {
        let netns = |dir: PathBuf| fs::metadata(dir.join("ns/net")).map(|namespace| namespace.ino()).ok();
        let own = netns("/proc/self".into());
        for process in fs::read_dir("/proc").context("list processes")? {
            let dir = process.context("list processes")?.path();
            let Some(pid) = dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
                continue;
            };
            // The process may have ended meanwhile.
            let Ok(line) = fs::read_to_string(dir.join("cmdline")) else { continue };
            let arguments: Vec<String> = line.split_terminator('\0').map(str::to_owned).collect();
            let is_server = arguments.iter().any(|argument| argument.starts_with("--etcd-servers="));
            if is_server && netns(dir) == own {
                return Ok(Self { pid, arguments });
            }
        }
        anyhow::bail!("no kube-apiserver runs here")
    }

    fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("a pid is not 0")?;
        kill_process(pid, Signal::KILL).context("kill the API server")
    }

    /// Starts the same program with the same arguments, and so on the same etcd.
    fn start(&self) -> Result<Process> {
        let (program, arguments) = self.arguments.split_first().context("a command line has a program")?;
        let mut command = std::process::Command::new(program);
        Process::start("kube-apiserver", command.env_clear().args(arguments))
    }
}
