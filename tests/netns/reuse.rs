//! A new pod gets the address of a deleted one while the watch still shows the old pod, hundreds of times with random delays.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::effort::{self, REUSE_ROUNDS};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{TEAM, no_leak, rig};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_reused_address_never_gives_the_last_pods_role", never_wrong).alone(),
    Trial::new("control_by_address_a_reused_address_gives_the_last_pods_role", by_address),
];

/// How long after the watch has shown the pod it must be served.
const PATIENCE: Duration = Duration::from_millis(800);
/// Addresses that are reused at the same time.
const WIDTH: usize = 40;
/// The number of rounds of a full run in which the whole watch must have been frozen. It is not in every fifth wave.
const FROZEN: usize = 1000;

fn never_wrong() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&[])?;
    let rounds = REUSE_ROUNDS.count();
    let tally = play(&rig, rounds)?;
    println!("{tally:?}");
    ensure!(tally.served + tally.late == rounds && tally.frozen >= REUSE_ROUNDS.at_least(FROZEN), "{tally:?}");
    ensure!(tally.wrong == 0 && tally.strange.is_empty(), "{tally:?}");
    // 99.9 % in time.
    ensure!(tally.late * 1000 <= rounds, "{tally:?}");
    no_leak(&rig)
}

fn by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let tally = play(&rig, 2 * WIDTH)?;
    println!("{tally:?}");
    ensure!(tally.wrong > 0, "the weaker mode is never wrong either, so the trial proves nothing: {tally:?}");
    Ok(())
}

/// The results of the rounds.
#[derive(Debug, Default)]
struct Tally {
    /// Rounds during which the watch was frozen.
    frozen: usize,
    /// Pods that got their own role in time.
    served: usize,
    /// Pods that got their own role too late.
    late: usize,
    /// Pods that got another role.
    wrong: usize,
    /// Answers other than credentials and 503.
    strange: Vec<String>,
    /// The longest time until credentials.
    slowest: Duration,
}

/// Runs this many rounds, in waves.
fn play(rig: &Rig, rounds: usize) -> Result<Tally> {
    let mut random = effort::random("delays of the watch");
    let mut tally = Tally::default();
    let mut pods: Vec<Pod> = (0..WIDTH).map(|i| pod(rig, None, i, 0)).collect::<Result<_>>()?;
    for pod in &pods {
        rig.kube.apply(pod.object())?;
    }
    let settled = |pods: &[Pod]| -> Result<()> {
        pods.iter().try_for_each(|pod| pod.agent("app")?.credentials().map(drop).context("the first holder"))
    };
    settled(&pods)?;
    for wave in 1..=rounds.div_ceil(WIDTH) {
        let width = WIDTH.min(rounds - (wave - 1) * WIDTH);
        // Each change is delayed by itself; in most waves the whole watch is frozen as well.
        let frozen = !wave.is_multiple_of(5);
        if frozen {
            rig.kube.freeze(true);
            tally.frozen += width;
        }
        let gone: Vec<Pod> = pods.drain(..width).collect();
        let addresses: Vec<_> = gone.iter().map(|pod| (pod.v4(), pod.v6())).collect();
        for pod in &gone {
            rig.kube.delay_object(pod.uid(), random.up_to(1000));
            rig.kube.delete("Pod", TEAM, pod.name())?;
        }
        Pod::delete_all(gone)?;
        let mut new = Vec::new();
        for (i, address) in addresses.into_iter().enumerate() {
            new.push(pod(rig, Some(address), i, wave)?);
        }
        let mut shown = Vec::new();
        for pod in &new {
            let delay = random.up_to(500);
            rig.kube.delay_object(pod.uid(), delay);
            rig.kube.apply(pod.object())?;
            shown.push(Instant::now() + delay);
        }
        let thawed = OnceLock::new();
        if !frozen {
            thawed.set(Instant::now()).ok();
        }
        thread::scope(|scope| -> Result<()> {
            // The change is shown when both its own delay and the freeze are over.
            let shown = |i: usize| thawed.get().and_then(|thawed| Some(*shown.get(i)?.max(thawed)));
            let asking: Vec<_> =
                new.iter().enumerate().map(|(i, pod)| scope.spawn(move || ask(rig, pod, || shown(i)))).collect();
            if frozen {
                thread::sleep(random.up_to(500));
                rig.kube.freeze(false);
                thawed.set(Instant::now()).ok();
            }
            for thread in asking {
                tally.count(thread.join().map_err(|_| anyhow::anyhow!("an asking thread panicked"))??);
            }
            Ok(())
        })?;
        pods.extend(new);
    }
    Ok(tally)
}

enum Round {
    Served(Duration),
    Wrong,
    Strange(String),
}

impl Tally {
    fn count(&mut self, round: Round) {
        match round {
            Round::Served(after) if after <= PATIENCE => self.served += 1,
            Round::Served(_) => self.late += 1,
            Round::Wrong => self.wrong += 1,
            Round::Strange(ref what) => self.strange.push(what.clone()),
        }
        if let Round::Served(after) = round {
            self.slowest = self.slowest.max(after);
        }
    }
}

/// Requests credentials as an SDK does, and retries after each 503. The time counts from when the watch has shown the pod, or from the
/// first request if that was later; `shown` returns that time once it is known.
fn ask(rig: &Rig, pod: &Pod, shown: impl Fn() -> Option<Instant>) -> Result<Round> {
    let agent = pod.agent("app")?;
    let own = pod.spec().scheduled("")["metadata"]["annotations"][ROLE].clone();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        match agent.credentials() {
            Ok(credentials) => {
                let right = rig.role_of(&credentials).is_some_and(|role| own == role);
                let since = shown().map_or_else(Instant::now, |shown| shown.max(start));
                return Ok(if right { Round::Served(since.elapsed()) } else { Round::Wrong });
            }
            Err(error) if error.status() == Some(503) => {}
            Err(error) => return Ok(Round::Strange(error.to_string())),
        }
    }
    Ok(Round::Strange("never served".to_owned()))
}

fn pod(rig: &Rig, address: Option<(std::net::Ipv4Addr, std::net::Ipv6Addr)>, i: usize, wave: usize) -> Result<Pod> {
    let name = format!("p{i}-{wave}");
    let spec = PodSpec::new(TEAM, &name).shape(Shape::PointToPoint).annotation(ROLE, &format!("role-{name}"));
    let spec = match address {
        Some((v4, v6)) => spec.v4(v4).v6(v6),
        None => spec,
    };
    rig.node.pod(spec)
}
