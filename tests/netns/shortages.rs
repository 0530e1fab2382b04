//! Something of the node is used up: podrole goes on with what it knows, and gives no definite answer that is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Agent, Target};
use podrole_lab::proc::{Process, until};
use podrole_lab::rig::Rig;
use podrole_lab::world::Trial;

use crate::support::{TEAM, ask_role, no_leak, on_node, ready, rig, served_both, timed};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("pods_are_served_while_inotify_instances_are_used_up", no_inotify),
    Trial::new("a_pod_that_starts_while_descriptors_are_used_up_gets_no_definite_answer", no_descriptors).alone(),
    Trial::new("a_new_caller_is_served_at_once_while_another_pod_causes_scans", || new_callers(true)).alone(),
    Trial::new("control_a_new_caller_is_served_at_once_on_a_quiet_node", || new_callers(false)).alone(),
];

/// Takes every inotify instance of a user until it ends.
const TAKE_INOTIFY: &str = r#"
import ctypes, os, signal, sys
os.setuid(int(sys.argv[1]))
libc = ctypes.CDLL(None)
taken = []
while (descriptor := libc.inotify_init1(0)) >= 0:
    taken.append(descriptor)
assert len(taken) > 10, taken
print("taken", flush=True)
signal.pause()
"#;
/// A user of its own, so that the instances of the machine's other users remain.
const USER: &str = "47110";

fn no_inotify() -> Result<()> {
    let mut rig = rig()?;
    let before = rig.pod_with_role(TEAM, "before", "before-role")?;
    let capabilities = "+net_admin,+sys_admin,+net_bind_service";
    let wrapper =
        ["setpriv", "--reuid", USER, "--clear-groups", "--inh-caps", capabilities, "--ambient-caps", capabilities];
    rig.options_mut().wrapper = wrapper.map(str::to_owned).to_vec();
    let mut command = rig.node.command();
    command.args(["python3", "-c", TAKE_INOTIFY, USER]);
    let mut taker = Process::start("inotify", &mut command)?;
    taker.wait_for_log("taken", Duration::from_secs(10))?;
    rig.start(&[])?;
    served_both(&rig, &before.agent("app")?, "before-role")?;
    let (status, shown) = rig.daemon()?.admin("/readyz")?;
    ensure!(status == 200 && shown.contains("[!] netns_watch") && shown.contains("[!] cgroup_watch"), "{shown}");
    for fault in ["netns_watch", "cgroup_watch"] {
        ensure!(rig.daemon()?.metric("podrole_faults_total", &[("fault", fault)])? > 0.0, "{fault} is not counted");
    }
    // Pods come, go, and restart meanwhile.
    for name in ["one", "two"] {
        let role = format!("{name}-role");
        let pod = rig.pod_with_role(TEAM, name, &role)?;
        served_both(&rig, &pod.agent("app")?, &role)?;
        pod.restart_container("app")?;
        podrole_lab::rig::ControlPlane::update_pod(&rig.kube, &pod)?;
        served_both(&rig, &pod.agent("app")?, &role)?;
        rig.delete(pod)?;
    }
    drop(taker);
    until("the end of the shortage", Duration::from_secs(5), || {
        Ok((!rig.daemon()?.admin("/readyz")?.1.contains("[!]")).then_some(()))
    })?;
    let after = rig.pod_with_role(TEAM, "after", "after-role")?;
    served_both(&rig, &after.agent("app")?, "after-role")?;
    no_leak(&rig)
}

fn no_descriptors() -> Result<()> {
    let rig = ready()?;
    let before = rig.pod_with_role(TEAM, "before", "before-role")?;
    let old = before.agent("app")?;
    served_both(&rig, &old, "before-role")?;
    let normal = limit(&rig)?;
    leave_free(&rig, 2)?;
    let pod = rig.pod_with_role(TEAM, "new", "new-role")?;
    let agent = pod.agent("app")?;
    let begin = Instant::now();
    let mut held = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        // Any answer must tell the client to come again. A connection that is not accepted is no answer.
        if let Ok(answer) = agent.v4().put_token(60) {
            ensure!([200, 503].contains(&answer.status), "a definite answer: {answer:?}");
            held += u32::from(answer.status == 503);
        }
        // A pod that is known is still served whenever a connection is accepted.
        if let Ok(answer) = old.v4().put_token(60) {
            ensure!(answer.status == 200, "{answer:?}");
        }
    }
    ensure!(held > 0, "the shortage did not keep the pod from being found, so the trial proves nothing");
    set_limit(&rig, normal)?;
    let ended = Instant::now();
    until("the new pod to be served", Duration::from_secs(5), || Ok(got_role(&agent, "new-role").then_some(())))?;
    ensure!(ended.elapsed() < Duration::from_secs(1), "served only {:?} after the end", ended.elapsed());
    ensure!(rig.daemon()?.metric("podrole_faults_total", &[("fault", "netns_scan")])? > 0.0, "not counted");
    served_both(&rig, &agent, "new-role")?;
    no_leak(&rig)
}

fn got_role(agent: &Agent, role: &str) -> bool {
    let token = agent.v4().token();
    token.is_ok_and(|token| {
        ask_role(agent.v4(), &token).is_ok_and(|answer| answer.status == 200 && answer.text() == role)
    })
}

/// Sends requests from sockets that are closed at once: each is a lookup that finds nobody.
const CAUSE_SCANS: &str = r#"
import socket, time
print("begun", flush=True)
while True:
    time.sleep(0.005)
    try:
        with socket.create_connection(("169.254.169.254", 80)) as client:
            client.sendall(b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    except OSError:
        pass  # The pod has as many connections as it may.
"#;

/// Requests from new pods and from addresses that only a full scan finds, with or without a pod that causes scans while names of
/// network namespaces come and go.
fn new_callers(noisy: bool) -> Result<()> {
    let rig = ready()?;
    let noise = rig.pod_with_role(TEAM, "noise", "noise-role")?;
    let quiet = rig.pod_with_role(TEAM, "quiet", "quiet-role")?;
    served_both(&rig, &noise.agent("app")?, "noise-role")?;
    let mut loud = Vec::new();
    if noisy {
        for _ in 0..2 {
            let mut process = Process::start("noise", noise.command("app")?.args(["python3", "-c", CAUSE_SCANS]))?;
            process.wait_for_log("begun", Duration::from_secs(10))?;
            loud.push(process);
        }
    }
    let begin = Instant::now();
    while noisy && begin.elapsed() < Duration::from_secs(3) {
        fs::write("/run/netns/churn", "")?;
        fs::remove_file("/run/netns/churn")?;
        std::thread::sleep(Duration::from_millis(5));
    }
    for number in 0..4 {
        let pod = rig.pod_with_role(TEAM, &format!("new-{number}"), "new-role")?;
        at_once(&pod.agent("app")?, Target::v4())?;
        let address = format!("10.88.1.{}", 240 + number);
        quiet.configure(&["ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"])?;
        at_once(&quiet.agent("app")?, Target::v4().from_address(address.parse::<IpAddr>()?)).context(address)?;
    }
    for process in &mut loud {
        ensure!(process.is_running()?, "the noise ended: {}", process.log()?);
    }
    let unowned = rig.daemon()?.metric("podrole_http_requests_total", &[("outcome", "socket_unowned")])?;
    ensure!((unowned > 10.0) == noisy, "{unowned} requests of closed sockets");
    no_leak(&rig)
}

fn at_once(agent: &Agent, target: Target) -> Result<()> {
    let (answer, took) = timed(|| agent.to(target).put_token(60));
    let answer = answer?;
    ensure!(answer.status == 200 && took < Duration::from_millis(800), "after {took:?}: {answer:?}");
    Ok(())
}

/// Leaves the daemon this many descriptors: enough for a few connections, and fewer than a new netns needs. The limit is on a
/// descriptor's number, and there may be free numbers between those in use.
fn leave_free(rig: &Rig, free: u64) -> Result<()> {
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", rig.daemon()?.pid()))? {
        used.extend(entry?.file_name().to_str().and_then(|number| number.parse::<u64>().ok()));
    }
    let last = (0..).filter(|number| !used.contains(number)).take(usize::try_from(free)?).last();
    set_limit(rig, last.map_or(0, |last| last + 1))
}

/// The daemon's limit of open files.
fn limit(rig: &Rig) -> Result<u64> {
    let pid = rig.daemon()?.pid();
    let shown = on_node(rig, &format!("prlimit --pid {pid} --nofile --noheadings --output SOFT"))?;
    shown.trim().parse().with_context(|| shown.clone())
}

fn set_limit(rig: &Rig, files: u64) -> Result<()> {
    let pid = rig.daemon()?.pid();
    on_node(rig, &format!("prlimit --pid {pid} --nofile={files}:")).map(drop)
}
