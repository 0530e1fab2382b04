//! Compares two binaries on one node, in alternating slices: `make bench BASE=<commit>`.
//!
//! Both daemons run at the same time, as in a rolling update. A rule that comes before theirs redirects the pod's traffic to one or
//! the other. Every round starts both anew, because the addresses of code and memory differ from start to start, and with a single
//! start that would look like a difference between the binaries.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podrole_lab::agent::Agent;
use podrole_lab::daemon::{Daemon, DaemonOptions};
use podrole_lab::pod::{PodSpec, Shape};
use podrole_lab::rig::{Rig, RigOptions};
use podrole_lab::world;

use super::report::{Bound, Report, median, show};
use super::scale::{self, PODS};
use super::warm::{self, PATH, divert, measure, pin};

const ROUNDS: usize = 5;
/// The slices of each binary in half a round.
const SLICES: usize = 6;
/// The largest ratio, new divided by base, that counts as no worse.
const AT_MOST: f64 = 1.03;

/// One of the two binaries, and where its daemon listens.
struct Side {
    name: &'static str,
    binary: PathBuf,
    port: u16,
    admin: SocketAddr,
}

/// The results of one round for one binary.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    cpu_us: f64,
    anonymous_kib: f64,
}

pub(crate) fn run(report: &mut Report, base: &Path) -> Result<()> {
    let mut rig = Rig::new(RigOptions::default())?;
    rig.options_mut().wrapper = ["taskset", "-c", "0"].map(str::to_owned).into();
    rig.namespace("shop", &["*"])?;
    let pods = scale::pods(&rig)?;
    let agents: Vec<Agent> = pods.iter().map(|pod| pod.agent("app")).collect::<Result<_>>()?;
    let web =
        rig.pod(PodSpec::new("shop", "web").annotation("iam.amazonaws.com/role", "web").shape(Shape::PointToPoint))?;
    let asking = web.agent("app")?;
    pin(asking.pid(), "1")?;

    let own = std::env::current_exe()?.with_file_name("podrole");
    let side = |name: &'static str, binary: &Path, port: u16, admin: &str| -> Result<Side> {
        // Both binaries run from fresh copies in memory. How a file was written determines how the page cache holds it, how large its
        // mappings are, and so the CPU per request: a binary from the linker and its copy differ by about 2 percent.
        let copy = world::scratch().join(format!("podrole-of-{name}"));
        fs::copy(binary, &copy).with_context(|| format!("copy {}", binary.display()))?;
        Ok(Side { name, binary: copy, port, admin: admin.parse()? })
    };
    let sides = [side("base", base, 18181, "127.0.0.1:9441")?, side("new", &own, 18182, "127.0.0.1:9442")?];
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // The daemon that starts last owns the table, which makes its requests a little cheaper: each is last once in a round.
        let [base, new] = &sides;
        let [base_first, new_last] = play(&rig, &agents, &asking, [base, new], round)?;
        let [new_first, base_last] = play(&rig, &agents, &asking, [new, base], round)?;
        let (base, new) = (mean(base_first, base_last), mean(new_first, new_last));
        show(&format!(
            "  round {}: base {:.2} us, {:.0} KiB; new {:.2} us, {:.0} KiB; new / base {:.3} and {:.3}",
            round + 1,
            base.cpu_us,
            base.anonymous_kib,
            new.cpu_us,
            new.anonymous_kib,
            new.cpu_us / base.cpu_us,
            new.anonymous_kib / base.anonymous_kib
        ));
        rounds.push([base, new]);
    }
    let of =
        |side: usize, figure: fn(&Figures) -> f64| median(rounds.iter().map(|round| figure(&round[side])).collect());
    let ratio =
        |figure: fn(&Figures) -> f64| median(rounds.iter().map(|[base, new]| figure(new) / figure(base)).collect());
    report.add("base: CPU per request", of(0, |f| f.cpu_us), "us", Bound::None);
    report.add("new: CPU per request", of(1, |f| f.cpu_us), "us", Bound::None);
    report.add("CPU per request, new / base (median of 5)", ratio(|f| f.cpu_us), "x", Bound::AtMost(AT_MOST));
    report.add(format!("base: anonymous memory, {PODS} pods"), of(0, |f| f.anonymous_kib), "KiB", Bound::None);
    report.add(format!("new: anonymous memory, {PODS} pods"), of(1, |f| f.anonymous_kib), "KiB", Bound::None);
    report.add("anonymous memory, new / base (median of 5)", ratio(|f| f.anonymous_kib), "x", Bound::AtMost(AT_MOST));
    Ok(())
}

/// Starts both daemons, has every pod fetch credentials from each, measures them in turn, and stops them.
fn play(rig: &Rig, agents: &[Agent], asking: &Agent, sides: [&Side; 2], round: usize) -> Result<[Figures; 2]> {
    let mut running = Vec::new();
    for side in sides {
        let daemon = start(rig, side, round).with_context(|| format!("the daemon of {}", side.name))?;
        divert(Some(&to(side)))?;
        for agent in agents.iter().chain([asking]) {
            agent.credentials().map_err(|error| anyhow::anyhow!("{}: {error:?}", side.name))?;
        }
        let token = asking.v4().token().map_err(|error| anyhow::anyhow!("{}: {error:?}", side.name))?;
        let request = asking.v4().render("GET", PATH, &[("X-aws-ec2-metadata-token", token.as_str())]);
        // This measurement warms the caches and does not count.
        measure(asking, &request, daemon.pid())?;
        divert(None)?;
        running.push((side, daemon, request));
    }
    let mut figures = [Figures::default(); 2];
    for slice in 0..SLICES {
        for turn in 0..2 {
            // The order is first, second, second, first, so that a steady drift of the machine's speed affects both alike.
            let at = (slice + turn) % 2;
            let (side, daemon, request) = &running[at];
            divert(Some(&to(side)))?;
            figures[at].cpu_us += measure(asking, request, daemon.pid())?.cpu_us / SLICES as f64;
            divert(None)?;
        }
    }
    for (figures, (_, daemon, _)) in figures.iter_mut().zip(&running) {
        figures.anonymous_kib = daemon.usage()?.anonymous as f64 / 1024.0;
    }
    for (_, mut daemon, _) in running {
        daemon.terminate()?;
    }
    Ok(figures)
}

fn mean(a: Figures, b: Figures) -> Figures {
    Figures { cpu_us: (a.cpu_us + b.cpu_us) / 2.0, anonymous_kib: (a.anonymous_kib + b.anonymous_kib) / 2.0 }
}

fn start(rig: &Rig, side: &Side, round: usize) -> Result<Daemon> {
    // Each daemon has its own state directory, so that the daemons do not share token keys.
    let state = world::scratch().join(format!("state-{}-{round}", side.name));
    let flags = [
        "--log",
        "info",
        "--admin-addr",
        &side.admin.to_string(),
        "--state-dir",
        &state.display().to_string(),
        "--port-range",
        &format!("{0}-{0}", side.port),
    ];
    let options = rig.options().with(&flags);
    let binary = Some(side.binary.clone());
    let mut daemon = Daemon::start(&rig.node, DaemonOptions { binary, admin: side.admin, ..options })?;
    daemon.wait_ready(Duration::from_secs(20))?;
    Ok(daemon)
}

fn to(side: &Side) -> String {
    format!("{}:{}", warm::LISTENER, side.port)
}
