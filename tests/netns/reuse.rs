//! A new pod gets the address of one that is gone, while the watch still shows the old one: a thousand times, at random.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{TEAM, no_leak, rig};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_reused_address_never_gives_the_last_pods_role", never_wrong).alone(),
    Trial::new("control_by_address_a_reused_address_gives_the_last_pods_role", by_address),
];

/// How long after the watch has shown the pod it must have been served.
const PATIENCE: Duration = Duration::from_millis(800);
/// Addresses that change hands at the same time.
const WIDTH: usize = 40;
/// Enough that, with every fifth wave's watch moving, [`FROZEN`] are left.
const ROUNDS: usize = 1250;
/// Rounds of these in which all of the watch must have stood still.
const FROZEN: usize = 1000;

fn never_wrong() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&[])?;
    let tally = play(&rig, ROUNDS)?;
    println!("{tally:?}");
    ensure!(tally.served + tally.late == ROUNDS && tally.frozen >= FROZEN, "{tally:?}");
    ensure!(tally.wrong == 0 && tally.strange.is_empty(), "{tally:?}");
    // 99.9 per cent in time.
    ensure!(tally.late * 1000 <= ROUNDS, "{tally:?}");
    no_leak(&rig)
}

fn by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let tally = play(&rig, 2 * WIDTH)?;
    println!("{tally:?}");
    ensure!(tally.wrong > 0, "the weaker mode is never wrong either, so the trial shows nothing: {tally:?}");
    Ok(())
}

/// What became of the rounds.
#[derive(Debug, Default)]
struct Tally {
    /// While these were played the watch stood still.
    frozen: usize,
    /// Their own role, in time.
    served: usize,
    /// Their own role, too late.
    late: usize,
    /// Another role.
    wrong: usize,
    /// An answer that is neither credentials nor "come again".
    strange: Vec<String>,
    /// The longest time to the credentials.
    slowest: Duration,
}

/// Plays so many rounds, in waves.
fn play(rig: &Rig, rounds: usize) -> Result<Tally> {
    let mut random = Random::new();
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
        // Every change is late by itself; in most waves all of the watch stands still besides.
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
            // Both must have come: the change's own time, and the end of the standstill.
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

/// Asks as an SDK does, again after each "come again", until there are credentials. The time counts from when the watch has shown
/// the pod, or from the first question where that came later; `shown` says when, as soon as it is known.
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

/// Chance enough for delays (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = now.subsec_nanos().max(1);
        println!("seed {seed}");
        Self(seed.into())
    }

    fn up_to(&mut self, millis: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % millis)
    }
}
