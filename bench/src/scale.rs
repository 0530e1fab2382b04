//! A node with 250 pods: time to ready, memory, idle cost, and many simultaneous requests for one identity.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use podrole_lab::agent::{Load, Target};
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc;
use podrole_lab::rig::{Rig, RigOptions};
use serde_json::{Value, json};

use super::report::{Bound, Report};

/// The number of pods on a full node.
pub(crate) const PODS: usize = 250;
const HERD: u64 = 500;
const IDLE: Duration = Duration::from_secs(10);

/// Starts a node with its pods and the daemon, and fetches credentials in every pod.
pub(crate) fn start(report: &mut Report) -> Result<Rig> {
    let mut rig = Rig::new(RigOptions::default())?;
    rig.options_mut().wrapper = ["taskset", "-c", "0"].map(str::to_owned).into();
    rig.namespace("shop", &["*"])?;
    let pods = pods(&rig)?;
    let begin = Instant::now();
    rig.launch(&["--log", "info"])?;
    rig.daemon_mut()?.wait_ready(Duration::from_secs(20))?;
    let ready = begin.elapsed().as_secs_f64() * 1000.0;
    report.add(format!("start to ready, {PODS} pods"), ready, "ms", Bound::AtMost(1000.0));

    for pod in &pods {
        let agent = pod.agent("app")?;
        agent.credentials().map_err(|error| anyhow::anyhow!("{}: {error:?}", pod.name()))?;
    }
    ensure!(rig.sts.assume_calls().len() == PODS, "{} calls for {PODS} pods", rig.sts.assume_calls().len());
    let daemon = rig.daemon()?;
    // nft runs only for milliseconds at a time, but a container's memory limit counts its peak.
    let (own, nft) = (mib(daemon.rss_kib()?), mib(nft_peak()? / 1024));
    report.add(format!("resident, {PODS} pods with credentials"), own, "MiB", Bound::None);
    report.add("    and with its nft child at its peak", own + nft, "MiB", Bound::AtMost(32.0));

    let before = daemon.usage()?.cpu;
    // This is the measured time without requests.
    thread::sleep(IDLE);
    let idle = (daemon.usage()?.cpu - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    report.add(format!("idle, {PODS} pods: share of a core"), idle, "%", Bound::AtMost(0.1));
    // The pods stay until the node in a box is removed.
    std::mem::forget(pods);
    Ok(rig)
}

/// [`PODS`] pods in the namespace `shop`, each with its own role.
pub(crate) fn pods(rig: &Rig) -> Result<Vec<Pod>> {
    let spec =
        |n: usize| PodSpec::new("shop", &format!("web-{n}")).annotation("iam.amazonaws.com/role", &format!("role-{n}"));
    (0..PODS).map(|n| rig.pod(spec(n))).collect()
}

/// Many simultaneous cold requests for one identity from four containers of a pod result in one call to STS.
pub(crate) fn herd(report: &mut Report, rig: &Rig) -> Result<()> {
    let spec =
        PodSpec::new("shop", "herd").annotation("iam.amazonaws.com/role", "herd").containers(&["a", "b", "c", "d"]);
    let pod = rig.pod(spec)?;
    rig.sts.set_delay(Duration::from_millis(300));
    rig.sts.clear();
    let agents = ["a", "b", "c", "d"].map(|name| pod.agent(name));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    let mut running = Vec::new();
    for agent in &agents {
        let token = agent.v4().token().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let request = agent.v4().render(
            "GET",
            "/latest/meta-data/iam/security-credentials/herd",
            &[("X-aws-ec2-metadata-token", token.as_str())],
        );
        let each = HERD / agents.len() as u64;
        let load = Load::new(Target::v4(), &request).workers(usize::try_from(each)?).requests(each);
        running.push((agent, load));
    }
    let running: Vec<_> = running
        .iter()
        .map(|(agent, load)| agent.start_load(load))
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let mut good = 0;
    for load in running {
        good += load.wait().map_err(|error| anyhow::anyhow!("{error:?}"))?.with_status(200);
    }
    rig.sts.set_delay(Duration::ZERO);
    report.add(
        format!("{HERD} concurrent cold requests of one identity: answered"),
        good as f64,
        "",
        Bound::AtLeast(HERD as f64),
    );
    let calls = rig.sts.assume_calls().len();
    report.add("    calls to STS for them", calls as f64, "", Bound::AtMost(1.0));
    Ok(())
}

/// The peak memory of nft over everything that the daemon runs it for: reading the table, and applying it with and without an existing
/// one. This runs in a separate network namespace, so that the node's table does not change.
fn nft_peak() -> Result<u64> {
    let listed = proc::run(Command::new("nft").args(["-j", "list", "table", "inet", "podrole"]))?;
    let transaction = transaction(&listed)?;
    let list = json!({"nftables": [{"list": {"table": {"family": "inet", "name": "podrole"}}}]});
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| -> Result<u64> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut peak = 0;
            for input in [&transaction, &transaction, &list] {
                peak = peak.max(nft(&input.to_string())?);
            }
            Ok(peak)
        });
        elsewhere.join().map_err(|_| anyhow::anyhow!("the thread that runs nft panicked"))?
    })
}

/// Runs `nft -j -f -` and returns its peak memory in bytes. The kernel stops nft just before it exits, while its counters still exist.
/// The peak that `wait4` reports afterwards would include the parent's memory from before the exec.
fn nft(input: &str) -> Result<u64> {
    let mut command = Command::new("nft");
    let mut child = command.args(["-j", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT)?;
    // The temporary is dropped, which closes the pipe; otherwise nft would wait for more input.
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let mut peak = None;
    loop {
        let status = waitpid(pid, None)?;
        if let WaitStatus::PtraceEvent(..) = status {
            peak = Some(proc::usage(child.id())?.peak);
            ptrace::cont(pid, None)?;
        } else if let WaitStatus::Stopped(_, signal) = status {
            ptrace::cont(pid, signal)?;
        } else {
            ensure!(status == WaitStatus::Exited(pid, 0), "nft ended with {status:?}");
            return peak.context("nft ended without being seen");
        }
    }
}

/// The transaction that replaces any existing table with the listed one: add, delete, add again, then all its contents.
fn transaction(listed: &str) -> Result<Value> {
    let mut listed: Value = serde_json::from_str(listed)?;
    let objects = listed["nftables"].as_array_mut().context("a list of objects")?;
    objects.retain(|object| object.get("metainfo").is_none());
    for fields in objects.iter_mut().filter_map(Value::as_object_mut).flat_map(|object| object.values_mut()) {
        fields.as_object_mut().context("an object has fields")?.remove("handle");
    }
    let (table, rest) = objects.split_first().context("a table")?;
    ensure!(table.get("table").is_some() && !rest.is_empty(), "not a table: {table}");
    let mut batch = vec![json!({"add": table}), json!({"delete": table}), json!({"add": table})];
    batch.extend(rest.iter().map(|object| json!({"add": object})));
    Ok(json!({"nftables": batch}))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
