//! How often a loop runs and how much of a matrix is tried: the sizes of all tests, in one place.
//!
//! `PODROLE_EFFORT=full` runs every loop and matrix at full size (`make soak`); the default is the small size (`make test`,
//! `.ci/run`). The small size has fewer repetitions and fewer combinations; every kind of case still runs, every bound scales with
//! the count it belongs to, and controls always run. `PODROLE_SEED` selects the random numbers and the shard of a matrix. `.ci/run`
//! derives it from the commit, so that successive commits try different combinations.
//!
//! Each use prints its size and seed. If `PODROLE_EFFORT_LOG` names a file, each use also appends a line to it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

/// `small` (the default) or `full`.
const EFFORT: &str = "PODROLE_EFFORT";
/// A decimal number of up to 64 bits.
const SEED: &str = "PODROLE_SEED";
/// A file that collects a line for each size used: name, size, full size, seed, separated by tabs.
const LOG: &str = "PODROLE_EFFORT_LOG";
/// The seed of `make test`, so that a failure at a desk repeats.
const DEFAULT_SEED: u64 = 20_261_121;

/// Rounds in which a new pod gets the address of a deleted one. Four of five waves run while the watch is frozen.
pub const REUSE_ROUNDS: Size = Size::new("rounds of a reused address", 250, 1250);
/// Flushes of all firewall rules while pods are being served.
pub const FLUSHES: Size = Size::new("flushes of all rules", 2, 5);
/// Requests by each of a pod's two containers, for its own role and for the other's.
pub const CONTAINER_REQUESTS: Size = Size::new("requests of each container", 50, 250);
/// Times that two containers of a pod take turns.
pub const CONTAINER_TURNS: Size = Size::new("turns of two containers", 10, 50);
/// Seconds for which denied pods send requests as fast as they can.
pub const DENIAL_FLOOD_SECONDS: Size = Size::new("seconds of denials on a node", 30, 60);
/// Denials per second of the same flood within one process, in paused time.
pub const DENIALS_A_SECOND: Size = Size::new("denials a second in one process", 4_000, 20_000);
/// Orderly restarts that must not lose any audit line.
pub const AUDITED_RESTARTS: Size = Size::new("restarts without a lost audit line", 2, 5);
/// Random objects on which `podrole explain` and the daemon are compared.
pub const EXPLAIN_CASES: Size = Size::new("objects explained and decided", 400, 1000);
/// How many of these also run through the binary.
pub const EXPLAINED_BY_BINARY: Size = Size::new("objects explained by the binary", 8, 24);
/// Random values of each annotation on which the admission policies and the daemon's parsers are compared.
pub const ADMISSION_VALUES: Size = Size::new("values of each annotation", 60, 300);
/// Pods that start at the same moment on a node that runs containerd.
pub const PODS_AT_ONCE: Size = Size::new("pods started at once", 20, 50);
/// Repetitions with annotations of 2 MB, after which the daemon's memory must not have grown.
pub const HUGE_ANNOTATIONS: Size = Size::new("repetitions of huge annotations", 1, 3);
/// Unusual texts in every annotation and list that holds text.
pub const ODD_TEXTS: Matrix = Matrix::new("odd texts in annotations", 3);

/// How much of each loop and matrix runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Each kind of case once, few repetitions.
    Small,
    /// All cases, all repetitions.
    Full,
}

impl Effort {
    /// The effort that `PODROLE_EFFORT` selects.
    ///
    /// # Panics
    ///
    /// Panics on any other value, so that a typo does not pass as a full run.
    pub fn from_env() -> Self {
        match env::var_os(EFFORT) {
            None => Self::Small,
            Some(value) if value == "small" => Self::Small,
            Some(value) if value == "full" => Self::Full,
            Some(value) => panic!("{EFFORT}={} is neither small nor full", value.display()),
        }
    }
}

/// The seed of this run: `PODROLE_SEED`, or a fixed one.
///
/// # Panics
///
/// Panics if the variable is not a number: any fallback would silently run a different seed than the requested one.
pub fn seed() -> u64 {
    match env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is not a decimal number of up to 64 bits")),
        Err(_) => DEFAULT_SEED,
    }
}

/// A random number generator for this run's seed and this use. Different uses get different numbers.
pub fn random(what: &str) -> Random {
    let seed = seed();
    println!("seed of {what}: {seed}");
    Random(mix(seed, what))
}

/// Random numbers that repeat for a seed (splitmix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random pause shorter than `millis` milliseconds; `millis` must not be 0.
    pub fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.number() % millis)
    }
}

/// The number of repetitions of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    name: &'static str,
    small: usize,
    full: usize,
}

impl Size {
    const fn new(name: &'static str, small: usize, full: usize) -> Self {
        Self { name, small, full }
    }

    /// How often the loop runs. Logs the size.
    pub fn count(&self) -> usize {
        let count = self.at(Effort::from_env());
        note(self.name, count, self.full);
        count
    }

    /// Scales a lower bound: `full` at full size, otherwise in proportion to the count and rounded up.
    pub fn at_least(&self, full: usize) -> usize {
        self.share(Effort::from_env(), full)
    }

    fn at(&self, effort: Effort) -> usize {
        match effort {
            Effort::Small => self.small,
            Effort::Full => self.full,
        }
    }

    fn share(&self, effort: Effort, full: usize) -> usize {
        (full * self.at(effort)).div_ceil(self.full)
    }
}

/// A matrix of test cases: every combination of several properties.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    name: &'static str,
    /// At small size, one of this many combinations runs.
    one_of: usize,
}

impl Matrix {
    const fn new(name: &'static str, one_of: usize) -> Self {
        Self { name, one_of }
    }

    /// The cases to run, in their original order. Logs their number. `kinds` lists the kinds that a case is an example
    /// of; every kind stays in the shard.
    pub fn shard<T, K: Ord>(&self, cases: Vec<T>, kinds: impl Fn(&T) -> Vec<K>) -> Vec<T> {
        let full = cases.len();
        let chosen = match Effort::from_env() {
            Effort::Full => cases,
            Effort::Small => self.part(seed(), cases, kinds),
        };
        note(self.name, chosen.len(), full);
        chosen
    }

    fn part<T, K: Ord>(&self, seed: u64, cases: Vec<T>, kinds: impl Fn(&T) -> Vec<K>) -> Vec<T> {
        // Rank the cases at random: the shard consists of the lowest ranks, plus the lowest rank of each kind.
        let mut random = Random(mix(seed, self.name));
        let mut ranks: Vec<(u64, usize)> = (0..cases.len()).map(|at| (random.number(), at)).collect();
        ranks.sort_unstable();
        let mut chosen: BTreeSet<usize> =
            ranks.iter().take(cases.len().div_ceil(self.one_of)).map(|(_, at)| *at).collect();
        let mut examples: BTreeMap<K, usize> = BTreeMap::new();
        for (_, at) in &ranks {
            for kind in cases.get(*at).map(&kinds).unwrap_or_default() {
                examples.entry(kind).or_insert(*at);
            }
        }
        chosen.extend(examples.into_values());
        let in_shard = |(at, case)| chosen.contains(&at).then_some(case);
        cases.into_iter().enumerate().filter_map(in_shard).collect()
    }
}

/// Mixes the name of a use into the seed (FNV-1a).
fn mix(seed: u64, what: &str) -> u64 {
    what.bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Prints the size that was used, for the report of a failure and for the summary of `make soak`.
fn note(name: &str, count: usize, full: usize) {
    let seed = seed();
    println!("size: {name}: {count} of {full}, seed {seed}");
    let Some(path) = env::var_os(LOG) else { return };
    let line = format!("{name}\t{count}\t{full}\t{seed}\n");
    let written =
        File::options().create(true).append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot append to {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of texts and places.
    fn cases() -> Vec<(u8, char)> {
        (0..12).flat_map(|text| ('a'..='f').map(move |place| (text, place))).collect()
    }

    fn shard(seed: u64) -> Vec<(u8, char)> {
        ODD_TEXTS.part(seed, cases(), |(text, place)| vec![text.to_string(), place.to_string()])
    }

    #[test]
    fn a_shard_has_each_kind_and_little_more_than_its_part() {
        for seed in 0..100 {
            let shard = shard(seed);
            assert!((24..=36).contains(&shard.len()), "{} cases", shard.len());
            for text in 0..12 {
                assert!(shard.iter().any(|case| case.0 == text), "no text {text} for seed {seed}");
            }
            for place in 'a'..='f' {
                assert!(shard.iter().any(|case| case.1 == place), "no place {place} for seed {seed}");
            }
            assert!(shard.is_sorted());
        }
    }

    #[test]
    fn shards_repeat_for_a_seed_and_soon_cover_everything() {
        assert_eq!(shard(7), shard(7));
        assert_ne!(shard(7), shard(8));
        let seen: BTreeSet<(u8, char)> = (0..20).flat_map(shard).collect();
        assert_eq!(seen.len(), cases().len());
    }

    #[test]
    fn bounds_scale_with_the_count_and_are_rounded_up() {
        assert_eq!((REUSE_ROUNDS.at(Effort::Small), REUSE_ROUNDS.share(Effort::Small, 1000)), (250, 200));
        assert_eq!((REUSE_ROUNDS.at(Effort::Full), REUSE_ROUNDS.share(Effort::Full, 1000)), (1250, 1000));
        assert_eq!(EXPLAIN_CASES.share(Effort::Small, 5), 2);
    }

    #[test]
    fn uses_of_a_seed_differ() {
        assert_ne!(Random(mix(1, "a")).number(), Random(mix(1, "b")).number());
        assert_ne!(Random(mix(1, "a")).number(), Random(mix(2, "a")).number());
    }
}
