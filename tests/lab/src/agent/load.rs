//! Load: many requests, each on a new connection, as metadata clients make them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http::{split, status_code};
use super::{BASE64, Failure, Target, decode, serve};

/// How many distinct bodies are kept as samples.
const SAMPLES: usize = 32;

/// A load plan. The loop is closed: each worker sends its next request only after the answer to the previous one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[must_use]
pub struct Load {
    target: Target,
    request: String,
    workers: usize,
    requests: u64,
    duration_ms: u64,
}

impl Load {
    /// A plan of one request by one worker, with a limit of one minute.
    pub fn new(target: Target, request: &[u8]) -> Self {
        Self { target, request: BASE64.encode(request), workers: 1, requests: 1, duration_ms: 60_000 }
    }

    /// The number of concurrent workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The total number of requests.
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// The duration of the load, without a limit on the number of requests.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.requests = u64::MAX;
        self.at_most(duration)
    }

    /// Starts no new request after this time.
    pub fn at_most(mut self, duration: Duration) -> Self {
        self.duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// The result of a load plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Number of answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Number of requests without an answer, by [`Failure::kind`].
    pub failures: BTreeMap<String, u64>,
    /// Number of answers by hash of the body.
    pub bodies: BTreeMap<String, u64>,
    /// Samples of bodies, by hash.
    pub samples: BTreeMap<String, String>,
    /// Time from the first request to the last answer, in microseconds.
    pub elapsed_us: u64,
    /// Latencies of answered requests, from connect to the end of the answer, in microseconds.
    pub latency: Latency,
}

/// Quantiles of latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl LoadReport {
    /// Number of requests with an answer of any status.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Number of requests without an answer.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Number of answers with this status.
    pub fn with_status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// Number of answers per second.
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / Duration::from_micros(self.elapsed_us.max(1)).as_secs_f64()
    }
}

/// Executes a plan.
pub(super) async fn make(load: Load) -> Result<LoadReport, Failure> {
    let request: Arc<[u8]> = decode(&load.request)?.into();
    let left = Arc::new(AtomicU64::new(load.requests));
    let begin = Instant::now();
    let end = begin + Duration::from_millis(load.duration_ms);
    let mut workers = JoinSet::new();
    for _ in 0..load.workers {
        workers.spawn(work(load.target, Arc::clone(&request), Arc::clone(&left), end));
    }
    let mut tally = Tally::default();
    while let Some(one) = workers.join_next().await {
        tally.merge(one.map_err(Failure::agent)?);
    }
    Ok(tally.report(begin.elapsed()))
}

async fn work(target: Target, request: Arc<[u8]>, left: Arc<AtomicU64>, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut buffer = Vec::with_capacity(8 * 1024);
    while Instant::now() < end {
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if taken.is_err() {
            break;
        }
        let begin = Instant::now();
        buffer.clear();
        let result = once(&target, &request, &mut buffer).await;
        tally.count(result, &buffer, begin.elapsed());
    }
    tally
}

async fn once(target: &Target, request: &[u8], buffer: &mut Vec<u8>) -> Result<(), Failure> {
    let mut stream = serve::connect(target).await?;
    serve::send(target, &mut stream, request).await?;
    timeout(target.patience(), stream.read_to_end(buffer)).await.map_err(|_| Failure::TimedOut)??;
    Ok(())
}

#[derive(Default)]
struct Tally {
    report: LoadReport,
    latencies: Vec<u64>,
}

impl Tally {
    fn count(&mut self, result: Result<(), Failure>, answer: &[u8], took: Duration) {
        let parsed = result.and_then(|()| {
            if answer.is_empty() {
                return Err(Failure::NoAnswer);
            }
            let (head, body) = split(answer).ok_or_else(|| Failure::Garbled("no end of headers".into()))?;
            let line = String::from_utf8_lossy(head);
            let status = line.lines().next().and_then(status_code);
            Ok((status.ok_or_else(|| Failure::Garbled("no status line".into()))?, body))
        });
        match parsed {
            Ok((status, body)) => {
                *self.report.statuses.entry(status).or_default() += 1;
                self.latencies.push(micros(took));
                let mut hasher = DefaultHasher::new();
                body.hash(&mut hasher);
                let hash = format!("{:016x}", hasher.finish());
                if self.report.samples.len() < SAMPLES && !self.report.samples.contains_key(&hash) {
                    self.report.samples.insert(hash.clone(), String::from_utf8_lossy(body).into_owned());
                }
                *self.report.bodies.entry(hash).or_default() += 1;
            }
            Err(failure) => *self.report.failures.entry(failure.kind().to_owned()).or_default() += 1,
        }
    }

    fn merge(&mut self, other: Self) {
        add(&mut self.report.statuses, other.report.statuses);
        add(&mut self.report.failures, other.report.failures);
        add(&mut self.report.bodies, other.report.bodies);
        for (hash, body) in other.report.samples {
            if self.report.samples.len() < SAMPLES {
                self.report.samples.insert(hash, body);
            }
        }
        self.latencies.extend(other.latencies);
    }

    fn report(mut self, elapsed: Duration) -> LoadReport {
        self.latencies.sort_unstable();
        let count = self.latencies.len();
        // The smallest value that at least so many per mille of the samples do not exceed.
        let rank = |permille: usize| {
            let index = (count * permille).div_ceil(1000).saturating_sub(1);
            self.latencies.get(index).copied().unwrap_or_default()
        };
        let latency = Latency {
            mean: self.latencies.iter().sum::<u64>() / (count.max(1) as u64),
            p50: rank(500),
            p90: rank(900),
            p99: rank(990),
            p999: rank(999),
            max: rank(1000),
        };
        LoadReport { elapsed_us: micros(elapsed), latency, ..self.report }
    }
}

fn add<K: Ord>(sum: &mut BTreeMap<K, u64>, more: BTreeMap<K, u64>) {
    for (key, count) in more {
        *sum.entry(key).or_default() += count;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut tally = Tally::default();
        for millis in 1..=100 {
            tally.count(Ok(()), b"HTTP/1.1 200 OK\r\n\r\nx", Duration::from_millis(millis));
        }
        tally.count(Err(Failure::Refused), b"", Duration::ZERO);
        let report = tally.report(Duration::from_secs(1));
        assert_eq!((report.latency.p50, report.latency.p99, report.latency.max), (50_000, 99_000, 100_000));
        assert_eq!((report.with_status(200), report.failed(), report.bodies.len()), (100, 1, 1));
    }
}
