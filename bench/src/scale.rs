//! Two hundred and fifty pods: time to ready, memory, idle cost; and the herd that asks for one identity at once.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use podrole_lab::agent::{Load, Target};
use podrole_lab::pod::PodSpec;
use podrole_lab::proc;
use podrole_lab::rig::{Rig, RigOptions};

use super::report::{Bound, Report};

const PODS: usize = 250;
const HERD: u64 = 500;
const IDLE: Duration = Duration::from_secs(10);

/// A node with its pods, the daemon on it, each pod with its credentials.
pub(crate) fn start(report: &mut Report) -> Result<Rig> {
    let mut rig = Rig::new(RigOptions::default())?;
    rig.options_mut().wrapper = ["taskset", "-c", "0"].map(str::to_owned).into();
    rig.namespace("shop", &["*"])?;
    let mut pods = Vec::with_capacity(PODS);
    for n in 0..PODS {
        let spec = PodSpec::new("shop", &format!("web-{n}")).annotation("iam.amazonaws.com/role", &format!("role-{n}"));
        pods.push(rig.pod(spec)?);
    }
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
    // nft runs for some milliseconds at a time; a container's memory limit counts it at its peak all the same.
    let (own, nft) = (mib(daemon.rss_kib()?), mib(nft_peak_kib()?));
    report.add(format!("resident, {PODS} pods with credentials"), own, "MiB", Bound::None);
    report.add("    and with its nft child at its peak", own + nft, "MiB", Bound::AtMost(32.0));

    let before = daemon.usage()?.cpu;
    std::thread::sleep(IDLE);
    let idle = (daemon.usage()?.cpu - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    report.add(format!("idle, {PODS} pods: share of a core"), idle, "%", Bound::AtMost(0.1));
    // The pods' namespaces outlive their handles: they end with the world.
    std::mem::forget(pods);
    Ok(rig)
}

/// Many cold requests for one identity, from four containers of a pod at once, are one call.
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

/// The first argument that makes this program run nft once and print the most memory it took, in KiB.
const NFT: &str = "--nft-peak";

/// Becomes that program if it is asked to.
pub(crate) fn main() -> Option<ExitCode> {
    if std::env::args().nth(1).as_deref() != Some(NFT) {
        return None;
    }
    let ran = proc::run(Command::new("nft").args(["-j", "list", "table", "inet", "podrole"]));
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.max_rss());
    Some(match (ran, peak) {
        (Ok(_), Ok(kib)) => {
            super::report::show(&kib.to_string());
            ExitCode::SUCCESS
        }
        (Err(_), _) | (_, Err(_)) => ExitCode::FAILURE,
    })
}

fn nft_peak_kib() -> Result<u64> {
    Ok(proc::run(Command::new(std::env::current_exe()?).arg(NFT))?.trim().parse()?)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
