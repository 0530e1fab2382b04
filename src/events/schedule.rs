//! Which denial becomes an Event, and when. Pure: the time is handed in.
//!
//! A denial is told at once; the same pod and reason again after a minute, then ever more rarely. All of a node's Events share one
//! bucket, so whatever its pods do, the API server gets a few writes a minute. Who was never told anything comes first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::sink::{Report, Series};
use crate::backoff::Backoff;
use crate::token_bucket::{Rate, TokenBucket};
use crate::types::{Denial, PodEntry, PodUid};

/// What the API server takes of a note, in bytes.
pub const NOTE: usize = 1024;
/// Events live as long in most clusters: what has been quiet for this is new when it comes back.
const QUIET: Duration = Duration::from_secs(3600);
/// Between looks for what has been quiet.
const TIDY: Duration = Duration::from_secs(600);

/// How often is often.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes of the whole node.
    pub writes: Rate,
    /// Between Events of the same pod and reason.
    pub repeat: Backoff,
    /// After failed writes, for the whole node.
    pub retry: Backoff,
    /// Pairs of pod and reason that are remembered. Far above what a node has; beyond it new ones are dropped.
    pub entries: usize,
}

/// What is known of every denied pod.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    pods: HashMap<PodUid, Pod>,
    entries: usize,
    /// For the writes of the whole node.
    bucket: TokenBucket,
    /// Nothing is written before this.
    resume: Duration,
    /// Failed writes in a row.
    failures: u32,
    tidied: Duration,
}

#[derive(Debug)]
struct Pod {
    shown_uid: PodUid,
    namespace: Arc<str>,
    name: Arc<str>,
    /// Something was told about it.
    told: bool,
    /// One a reason at most.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    reason: Denial,
    state: State,
    /// Of the last denial that was looked at.
    note: Arc<str>,
    /// While it waits, the note is left as it is until then.
    look: Duration,
    /// Nothing more is told before this.
    due: Duration,
    /// How often it was written.
    writes: u32,
    /// Denials that its Event stands for.
    count: u32,
    last: Duration,
    /// Its last write failed, and none of another has succeeded since.
    failed: bool,
    written: Option<Written>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    /// For a write, since then.
    Waiting(Duration),
    Writing,
}

/// An Event that is there.
#[derive(Debug)]
struct Written {
    event: Arc<str>,
    note: Arc<str>,
}

/// What a denial led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is to be written: look at [`Schedule::next`].
    Waiting,
    /// It is counted.
    Counted,
    /// There is no room to remember it.
    Dropped,
}

/// How a write failed, as far as it matters to what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The earlier Event is gone; a new one takes its place.
    Gone,
    /// The whole node waits a while.
    Later,
    /// This one is given up.
    Never,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            writes: Rate { burst: 3, every: Duration::from_secs(10) },
            repeat: Backoff::new(Duration::from_secs(60), Duration::from_secs(15 * 60)),
            retry: Backoff::new(Duration::from_secs(10), Duration::from_secs(10 * 60)),
            entries: 4096,
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// Nothing is known yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pods: HashMap::new(),
            entries: 0,
            bucket: TokenBucket::full(limits.writes),
            resume: Duration::ZERO,
            failures: 0,
            tidied: Duration::ZERO,
        }
    }

    /// `pod` was denied. `explain` is asked only where somebody may read it: once in a minute for each reason.
    pub fn deny(&mut self, now: Duration, pod: &PodEntry, reason: Denial, explain: impl FnOnce() -> String) -> Told {
        let limits = self.limits;
        if let Some(entry) = self.entry(&pod.uid, reason) {
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            let (quiet, silent_until) = match entry.state {
                State::Quiet => (true, entry.due),
                // What waits long is to say what is wrong now.
                State::Waiting(_) | State::Writing => (false, entry.look),
            };
            if now < silent_until {
                return Told::Counted;
            }
            entry.look = now + limits.repeat.first;
            entry.note = note(reason, &explain());
            if !quiet {
                return Told::Counted;
            }
            entry.state = State::Waiting(now);
            return Told::Waiting;
        }
        if self.entries >= limits.entries {
            return Told::Dropped;
        }
        self.entries += 1;
        let known = self.pods.entry(pod.uid.clone()).or_insert_with(|| Pod {
            shown_uid: pod.cgroup_uid.clone().unwrap_or_else(|| pod.uid.clone()),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            told: false,
            entries: Vec::new(),
        });
        known.entries.push(Entry {
            reason,
            state: State::Waiting(now),
            note: note(reason, &explain()),
            look: now + limits.repeat.first,
            due: now,
            writes: 0,
            count: 1,
            last: now,
            failed: false,
            written: None,
        });
        Told::Waiting
    }

    /// What to write now; its outcome is to be told to [`written`](Self::written) or [`failed`](Self::failed). `Err`: how long
    /// to wait before asking again, unless something is [`Told::Waiting`] meanwhile.
    pub fn next(&mut self, now: Duration) -> Result<Report, Duration> {
        if now < self.resume {
            return Err(self.resume - now);
        }
        let token_at = self.bucket.next_at(now);
        if token_at > now {
            return Err(token_at - now);
        }
        // Only now: it looks through everything.
        let Some((uid, at)) = self.first_waiting() else { return Err(TIDY) };
        let Some(pod) = self.pods.get_mut(&uid) else { return Err(TIDY) };
        self.bucket.take(now);
        let entry = &mut pod.entries[at];
        entry.state = State::Writing;
        let series = entry.written.as_ref().filter(|written| written.note == entry.note);
        let series = series.map(|written| Series { event: written.event.clone(), count: entry.count.max(2) });
        if series.is_none() {
            // A new Event counts from one.
            entry.count = 1;
        }
        Ok(Report {
            shown_uid: pod.shown_uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            reason: entry.reason,
            note: entry.note.clone(),
            series,
            pod: uid,
        })
    }

    /// The Event was written and has this name.
    pub fn written(&mut self, now: Duration, report: &Report, event: Arc<str>) {
        let repeat = self.limits.repeat;
        self.failures = 0;
        self.resume = now;
        // Whatever failed before may have been the API server's trouble, which is over.
        self.pods.values_mut().flat_map(|pod| &mut pod.entries).for_each(|entry| entry.failed = false);
        if let Some(pod) = self.pods.get_mut(&report.pod) {
            pod.told = true;
        }
        let Some(entry) = self.entry(&report.pod, report.reason) else { return };
        entry.state = State::Quiet;
        entry.written = Some(Written { event, note: report.note.clone() });
        entry.writes = entry.writes.saturating_add(1);
        entry.due = now + repeat.pause(entry.writes);
    }

    /// The Event was not written. `jitter` in `0..1` spreads the next attempts of many nodes.
    pub fn failed(&mut self, now: Duration, report: &Report, failure: Failure, jitter: f64) {
        if failure == Failure::Later {
            self.failures = self.failures.saturating_add(1);
            self.resume = now + self.limits.retry.spread(self.failures, jitter);
        }
        let longest = self.limits.repeat.max;
        let Some(entry) = self.entry(&report.pod, report.reason) else { return };
        match failure {
            Failure::Gone => {
                entry.state = State::Waiting(now);
                entry.written = None;
                entry.count = 1;
            }
            Failure::Later => {
                entry.state = State::Waiting(now);
                entry.failed = true;
            }
            Failure::Never => {
                entry.state = State::Quiet;
                entry.due = now + longest;
            }
        }
    }

    /// The pod is gone; how many of its reasons nobody was told.
    pub fn forget(&mut self, pod: &PodUid) -> usize {
        let Some(pod) = self.pods.remove(pod) else { return 0 };
        self.entries -= pod.entries.len();
        pod.entries.iter().filter(|entry| matches!(entry.state, State::Waiting(_))).count()
    }

    /// Now and then: forgets what has been quiet so long that its Event is gone. How many of these nobody was told.
    pub fn tidy(&mut self, now: Duration) -> usize {
        if now.saturating_sub(self.tidied) < TIDY {
            return 0;
        }
        self.tidied = now;
        let mut untold = 0;
        self.pods.retain(|_, pod| {
            pod.entries.retain(|entry| {
                let keep = entry.state == State::Writing || now.saturating_sub(entry.last) < QUIET;
                untold += usize::from(!keep && entry.state != State::Quiet);
                keep
            });
            !pod.entries.is_empty()
        });
        self.entries = self.pods.values().map(|pod| pod.entries.len()).sum();
        untold
    }

    fn entry(&mut self, pod: &PodUid, reason: Denial) -> Option<&mut Entry> {
        self.pods.get_mut(pod)?.entries.iter_mut().find(|entry| entry.reason == reason)
    }

    /// Pods of which nobody knows anything, then other news, then repetitions, then what failed; of each what waits longest.
    fn first_waiting(&self) -> Option<(PodUid, usize)> {
        let waiting = self.pods.iter().flat_map(|(uid, pod)| {
            pod.entries.iter().enumerate().filter_map(move |(at, entry)| match entry.state {
                State::Quiet | State::Writing => None,
                State::Waiting(since) => {
                    let class = (entry.failed, entry.written.is_some(), pod.told);
                    Some(((class, since), uid, at))
                }
            })
        });
        // The UID decides between equals: the same history gives the same Events.
        let first = waiting.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        first.map(|(_, uid, at)| (uid.clone(), at))
    }
}

/// The text of an Event: the reason's name, what it is here, and what to do. What is too long loses the middle part's end.
fn note(reason: Denial, why: &str) -> Arc<str> {
    let (head, tail) = (format!("{reason}: "), format!(". Fix: {}", reason.fix()));
    let room = NOTE.saturating_sub(head.len() + tail.len());
    let mut why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if why.len() > room {
        let end = why.floor_char_boundary(room.saturating_sub('…'.len_utf8()));
        why.truncate(end);
        why.push('…');
    }
    format!("{head}{why}{tail}").into()
}

#[cfg(test)]
mod tests;
