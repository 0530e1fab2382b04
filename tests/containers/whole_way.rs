//! From `kubectl apply -k` to boto3 in a container with the role of its pod.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::real::RealNode;
use podrole_lab::rig::ROLE;
use podrole_lab::runtime::Network;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{PYTHON, SYSTEM, TEAM, create, daemonset, delete, installed, leaks, no_leak, node, python_image};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("whole_way::from_apply_to_boto3_with_its_role", from_apply_to_boto3).timeout(LIMIT),
    Trial::new("whole_way::on_a_bridge_too", on_a_bridge).timeout(LIMIT),
    Trial::new("whole_way::without_podrole_boto3_is_the_node", without_podrole).timeout(LIMIT),
];

/// The timeout of a trial.
const LIMIT: Duration = Duration::from_secs(180);
/// The time that controllers may take to react to a change.
const SOON: Duration = Duration::from_secs(10);
/// The time for Python, boto3 and three answers.
const ANSWER: Duration = Duration::from_secs(60);

fn from_apply_to_boto3() -> Result<()> {
    let begin = Instant::now();
    let site = node(Network::PointToPoint)?;
    println!("figure: node ready after {:?}", begin.elapsed());
    let podrole = installed(&site)?;
    println!("figure: podrole ready after {:?}", begin.elapsed());
    // The controller learns of the ready pod at the same time as this trial, so its status may follow later.
    proc::until("the DaemonSet to know", SOON, || Ok((daemonset(&site)?["status"]["numberReady"] == 1).then_some(())))?;
    let guard = RealNode::container_state(&podrole, "guard")?;
    ensure!(guard["state"]["terminated"]["exitCode"] == 0, "the guard ran first: {guard:#}");
    // The kernel confirms a read-only root, only the named capabilities, and the runtime's seccomp profile.
    hardened(&site, &podrole)?;

    asks_and_is(&site, "web")?;
    println!("figure: boto3 has its role after {:?}", begin.elapsed());
    no_leak(&site)?;
    delete(&site, "web")
}

fn on_a_bridge() -> Result<()> {
    let site = node(Network::Bridge)?;
    installed(&site)?;
    asks_and_is(&site, "web")?;
    no_leak(&site)
}

/// The control of both: without podrole boto3 gets the node's role.
fn without_podrole() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    let answers = ask(&site, "web")?;
    let leaked = site.imds.credentials().access_key_id;
    ensure!(answers.iter().all(|answer| answer["access_key_id"] == leaked), "not the node's: {answers:?}");
    leaks(&site)
}

/// A pod with two containers, one of which has its own role: each gets the right role.
fn asks_and_is(site: &RealNode, name: &str) -> Result<()> {
    let answers = ask(site, name)?;
    let uid = site.pod(TEAM, name)?["metadata"]["uid"].as_str().context("a pod has a UID")?.to_owned();
    for (answer, role) in answers.iter().zip(["web-role", "side-role"]) {
        let session = format!("{TEAM}.default.{}", &uid[..8]);
        let arn = answer["arn"].as_str().unwrap_or_default();
        ensure!(arn.contains(&format!(":assumed-role/{role}/")) && arn.contains(&session), "not {role}: {answer:#}");
    }
    Ok(())
}

/// Creates the pod and returns what boto3 found in its containers `app` and `side`.
fn ask(site: &RealNode, name: &str) -> Result<Vec<Value>> {
    python_image(site)?;
    site.namespace(TEAM, &["web-role", "side-role"])?;
    let container = |name: &str| {
        json!({
            "name": name, "image": PYTHON, "args": ["/opt/probe.py"],
            "env": [{"name": "AWS_ENDPOINT_URL_STS", "value": site.sts_endpoint()}],
        })
    };
    let annotations = json!({ROLE: "web-role", "podrole.dev/role.side": "side-role"});
    create(site, name, annotations, json!([container("app"), container("side")]))?;
    let pods = site.until_pods("boto3 to answer", TEAM, ANSWER, |pods| pods.iter().all(RealNode::is_finished))?;
    let pod = pods.first().context("there is a pod")?;
    ["app", "side"]
        .iter()
        .map(|container| {
            let log = site.container_log(pod, container)?;
            let answer = log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
            answer.with_context(|| format!("{container} said {log:?}\n{}\n{}", site.report(TEAM), site.report(SYSTEM)))
        })
        .collect()
}

/// The status of podrole's process in the kernel.
fn hardened(site: &RealNode, pod: &Value) -> Result<()> {
    let id = RealNode::container_state(pod, "podrole")?["containerID"].as_str().unwrap_or_default().to_owned();
    let id = id.trim_start_matches("containerd://");
    let cgroup =
        format!("/sys/fs/cgroup/kubepods/burstable/pod{}/{id}", pod["metadata"]["uid"].as_str().unwrap_or_default());
    let pids = std::fs::read_to_string(format!("{cgroup}/cgroup.procs"))
        .with_context(|| format!("{cgroup}\n{}", site.report(SYSTEM)))?;
    let pid = pids.lines().next().context("podrole runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    // CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21.
    let wanted = format!("{:016x}", (1_u64 << 10) | (1 << 12) | (1 << 21));
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        ensure!(field(set) == wanted, "{set} {} is not {wanted}", field(set));
    }
    ensure!(field("Seccomp:") == "2" && field("NoNewPrivs:") == "1", "seccomp and no new privileges: {status}");
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("it has a root")?;
    ensure!(root.split(' ').nth(5).is_some_and(|flags| flags.split(',').any(|f| f == "ro")), "the root: {root}");
    Ok(())
}
