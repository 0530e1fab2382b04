//! Measures the warm path: credentials that are in the cache, with a new connection for each request, through the real DNAT.
//!
//! The server is pinned to one core, the load generator to the other. The important figure is the server's CPU per request, including
//! kernel time; the load generator limits the rate. Slices of podrole and of the bare server alternate, so that a machine whose speed
//! drifts affects both alike.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use podrole_lab::agent::{Agent, Load, Target};
use podrole_lab::diag::SockDiag;
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::proc::{self, Process};
use podrole_lab::rig::Rig;
use podrole_lab::world;

use super::bare;
use super::report::{Bound, Report, median};

const ROUNDS: usize = 5;
/// A round has this many slices of each server, in turn, so that other load on the machine affects both alike.
const SLICES: u32 = 6;
const SLICE: Duration = Duration::from_millis(700);
/// The number of lookups in the kernel.
const LOOK_UPS: u32 = 100_000;
/// The number of simultaneous connections.
const WORKERS: usize = 12;
/// The address on which podrole listens.
pub(crate) const LISTENER: &str = "169.254.170.77";
/// The bare server's address: the same IP address, with a port outside podrole's port range.
const BARE: &str = "169.254.170.77:18200";
/// The path of every request: credentials that are in the cache.
pub(crate) const PATH: &str = "/latest/meta-data/iam/security-credentials/web";

/// The mean of a round's slices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    pub(crate) cpu_us: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Round {
    fn add(&mut self, slice: Self) {
        let part = f64::from(SLICES);
        self.cpu_us += slice.cpu_us / part;
        self.rate += slice.rate / part;
        self.p50_us += slice.p50_us / part;
        self.p99_us += slice.p99_us / part;
    }
}

pub(crate) fn run(report: &mut Report, rig: &Rig) -> Result<()> {
    let pod =
        rig.pod(PodSpec::new("shop", "web").annotation("iam.amazonaws.com/role", "web").shape(Shape::PointToPoint))?;
    let agent = pod.agent("app")?;
    pin(agent.pid(), "1")?;

    let token = agent.v4().token().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let request = agent.v4().render("GET", PATH, &headers);
    let answer = agent.raw(&request).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    ensure!(answer.status == 200, "podrole answered {}", answer.status);
    let file = world::scratch().join("answer");
    std::fs::write(&file, &answer.raw)?;
    let bare = start_bare(&file)?;

    let daemon = rig.daemon()?.pid();
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    let before = proof(rig)?;
    for round in 0..=ROUNDS {
        let (mut mine, mut other) = (Round::default(), Round::default());
        for _ in 0..SLICES {
            mine.add(measure(&agent, &request, daemon)?);
            divert(Some(BARE))?;
            other.add(measure(&agent, &request, bare.pid())?);
            divert(None)?;
        }
        // The first round warms caches and does not count.
        if round > 0 {
            ours.push(mine);
            bares.push(other);
        }
    }
    let after = proof(rig)?;

    let of = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let ratio =
        |figure: fn(&Round) -> f64| median(ours.iter().zip(&bares).map(|(a, b)| figure(a) / figure(b)).collect());
    report.add("bare hyper: CPU per request", of(&bares, |r| r.cpu_us), "us", Bound::None);
    report.add("podrole: CPU per request", of(&ours, |r| r.cpu_us), "us", Bound::None);
    report.add("CPU per request, podrole / bare (median of 5 pairs)", ratio(|r| r.cpu_us), "x", Bound::AtMost(1.3));
    report.add("bare hyper: requests", of(&bares, |r| r.rate), "/s", Bound::None);
    report.add("podrole: requests", of(&ours, |r| r.rate), "/s", Bound::None);
    report.add("requests per second, podrole / bare", ratio(|r| r.rate), "x", Bound::AtLeast(0.95));
    report.add("bare hyper: p50", of(&bares, |r| r.p50_us), "us", Bound::None);
    report.add("podrole: p50", of(&ours, |r| r.p50_us), "us", Bound::None);
    report.add("bare hyper: p99", of(&bares, |r| r.p99_us), "us", Bound::None);
    report.add("podrole: p99", of(&ours, |r| r.p99_us), "us", Bound::None);
    let mean = (after.0 - before.0) / (after.1 - before.1) * 1e6;
    report.add("proof of identity, mean", mean, "us", Bound::None);
    let share = mean / of(&bares, |r| r.cpu_us) * 100.0;
    report.add("    as a share of a bare request's CPU", share, "%", Bound::AtMost(15.0));
    let kernel = look_up(&pod, &agent)?.as_secs_f64() * 1e6;
    report.add("    the kernel's own part: one exact look-up, back to back", kernel, "us", Bound::None);
    Ok(())
}

/// Repeats the kernel lookup of the identity proof on the daemon's core while the daemon is idle. This is the least that a proof can
/// take on this machine; between requests the caches are colder.
fn look_up(pod: &Pod, agent: &Agent) -> Result<Duration> {
    let connection = agent.open(&Target::v4()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let mut diag = SockDiag::open(pod.netns().context("a pod has a network of its own")?)?;
    let (local, remote) = (connection.local(), Target::v4().address());
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut core = CpuSet::new();
            core.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &core)?;
            diag.time(local, remote, LOOK_UPS)
        });
        asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))?
    })
}

pub(crate) fn measure(agent: &Agent, request: &[u8], server: u32) -> Result<Round> {
    let before = proc::usage(server)?.cpu;
    let load = Load::new(Target::v4(), request).workers(WORKERS).duration(SLICE);
    let done = agent.load(&load).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let used = proc::usage(server)?.cpu - before;
    ensure!(done.failed() == 0 && done.with_status(200) == done.answered(), "not every answer was good: {done:?}");
    let micros = |us: u64| us as f64;
    Ok(Round {
        cpu_us: used.as_secs_f64() * 1e6 / done.answered() as f64,
        rate: done.rate(),
        p50_us: micros(done.latency.p50),
        p99_us: micros(done.latency.p99),
    })
}

fn start_bare(answer: &std::path::Path) -> Result<Process> {
    let me: PathBuf = std::env::current_exe()?;
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(me).args([bare::ARGUMENT, BARE]).arg(answer);
    let process = Process::start("bare", &mut command)?;
    // The table guard drops connections that were not redirected, so a test connection is impossible. Read the kernel's list of
    // listeners instead.
    let listening = |text: String| text.lines().any(|line| line.contains("4DAAFEA9:4718") && line.contains(" 0A "));
    proc::until("the bare server", Duration::from_secs(5), || {
        Ok(listening(std::fs::read_to_string("/proc/net/tcp")?).then_some(()))
    })?;
    Ok(process)
}

/// Redirects the pods' metadata traffic to the server at `to`. The rule has the same hook and rewrite as podrole's rules and comes
/// just before them. `None` removes the rule.
pub(crate) fn divert(to: Option<&str>) -> Result<()> {
    let rules = if let Some(to) = to {
        format!(
            "table ip bench {{\n chain pre {{\n type nat hook prerouting priority -195; policy accept;\n \
             ip daddr 169.254.169.254 tcp dport 80 counter dnat to {to}\n }}\n}}\n"
        )
    } else {
        "delete table ip bench\n".to_owned()
    };
    proc::feed(Command::new("nft").args(["-f", "-"]), rules.as_bytes()).map(drop)
}

/// The total seconds and the number of identity proofs so far.
fn proof(rig: &Rig) -> Result<(f64, f64)> {
    let daemon = rig.daemon()?;
    Ok((
        daemon.metric("podrole_identity_proof_seconds_sum", &[])?,
        daemon.metric("podrole_identity_proof_seconds_count", &[])?,
    ))
}

pub(crate) fn pin(pid: u32, core: &str) -> Result<()> {
    proc::run(Command::new("taskset").args(["-a", "-c", "-p", core, &pid.to_string()])).map(drop)
}
