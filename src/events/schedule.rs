//! Decides which denials become Events, and when. Pure: the time is an argument.
//!
//! The first denial of a pod for a reason is written immediately; repetitions are written after a minute, then at growing
//! intervals. All Events of a node share one token bucket, so the API server gets only a few writes per minute from a node, even
//! if its pods cause many denials. The schedule serves pods without any Event first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::sink::{Report, Series};
use crate::backoff::Backoff;
use crate::token_bucket::{Rate, TokenBucket};
use crate::types::{Denial, PodEntry, PodUid};

/// The longest note that the API server accepts, in bytes.
pub const NOTE: usize = 1024;
/// The schedule forgets an entry that has had no denial for this time, because most clusters delete Events after an hour. A later
/// denial then counts as new.
const QUIET: Duration = Duration::from_secs(3600);
/// Time between two searches for entries to forget.
const TIDY: Duration = Duration::from_secs(600);

/// Limits on the number of Events.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The rate of writes of the whole node.
    pub writes: Rate,
    /// The time between two writes for the same pod and reason.
    pub repeat: Backoff,
    /// The time for which the whole node pauses after failed writes.
    pub retry: Backoff,
    /// The largest number of remembered pairs of pod and reason, far more than a node has in practice. The schedule drops further
    /// pairs.
    pub entries: usize,
}

/// The denials of each pod and the state of their Events.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    pods: HashMap<PodUid, Pod>,
    entries: usize,
    /// Limits the writes of the whole node.
    bucket: TokenBucket,
    /// The schedule permits no write before this time.
    resume: Duration,
    /// The number of failed writes in a row.
    failures: u32,
    tidied: Duration,
}

#[derive(Debug)]
struct Pod {
    shown_uid: PodUid,
    namespace: Arc<str>,
    name: Arc<str>,
    /// Whether an Event has been written for this pod.
    has_event: bool,
    /// The entries, at most one per reason.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    reason: Denial,
    state: State,
    /// The note of the last denial that was explained.
    note: Arc<str>,
    /// While the entry waits, its note is not updated before this time.
    note_until: Duration,
    /// A quiet entry is not queued for another write before this time.
    due: Duration,
    /// The number of successful writes.
    writes: u32,
    /// The number of denials that the entry's Event stands for.
    count: u32,
    /// The time of the last denial.
    last: Duration,
    /// Whether the last write of this entry failed and no other write has succeeded since.
    failed: bool,
    written: Option<Written>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is nothing to write.
    Quiet,
    /// The entry has been waiting for a write since this time.
    Waiting(Duration),
    /// The entry is being written.
    Writing,
}

/// An Event that was written for an entry.
#[derive(Debug)]
struct Written {
    event: Arc<str>,
    note: Arc<str>,
}

/// What [`Schedule::deny`] did with a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// An Event is to be written: call [`Schedule::next`].
    Queued,
    /// The denial only increases the count of an Event that is already written or queued.
    Counted,
    /// The denial is dropped, because [`Limits::entries`] is reached.
    Dropped,
}

/// The kinds of failed writes that the schedule distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The Event whose count was to be updated is gone; a new one must be created.
    Gone,
    /// The write may succeed later; the whole node backs off.
    Retry,
    /// The API server will never accept this Event, so the schedule drops it.
    Rejected,
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
    /// An empty schedule.
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

    /// Records a denial of `pod`. Calls `explain` only if its result may be written: at most once per minute and reason.
    pub fn deny(&mut self, now: Duration, pod: &PodEntry, reason: Denial, explain: impl FnOnce() -> String) -> Noted {
        let limits = self.limits;
        if let Some(entry) = self.entry(&pod.uid, reason) {
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            let (quiet, silent_until) = match entry.state {
                State::Quiet => (true, entry.due),
                // The note of an entry that waits for a long time must explain a recent denial, not the denial that queued the
                // entry.
                State::Waiting(_) | State::Writing => (false, entry.note_until),
            };
            if now < silent_until {
                return Noted::Counted;
            }
            entry.note_until = now + limits.repeat.first;
            entry.note = note(reason, &explain());
            if !quiet {
                return Noted::Counted;
            }
            entry.state = State::Waiting(now);
            return Noted::Queued;
        }
        if self.entries >= limits.entries {
            return Noted::Dropped;
        }
        self.entries += 1;
        let known = self.pods.entry(pod.uid.clone()).or_insert_with(|| Pod {
            shown_uid: pod.cgroup_uid.clone().unwrap_or_else(|| pod.uid.clone()),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            has_event: false,
            entries: Vec::new(),
        });
        known.entries.push(Entry {
            reason,
            state: State::Waiting(now),
            note: note(reason, &explain()),
            note_until: now + limits.repeat.first,
            due: now,
            writes: 0,
            count: 1,
            last: now,
            failed: false,
            written: None,
        });
        Noted::Queued
    }

    /// The next Event to write. The caller must report the result to [`written`](Self::written) or [`failed`](Self::failed). `Err`
    /// is the time to wait before the next call, unless a denial is [`Noted::Queued`] in the meantime.
    pub fn next(&mut self, now: Duration) -> Result<Report, Duration> {
        if now < self.resume {
            return Err(self.resume - now);
        }
        let token_at = self.bucket.next_at(now);
        if token_at > now {
            return Err(token_at - now);
        }
        // This search runs last, because it visits all entries.
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

    /// Records that `report` was written, as the Event named `event`.
    pub fn written(&mut self, now: Duration, report: &Report, event: Arc<str>) {
        let repeat = self.limits.repeat;
        self.failures = 0;
        self.resume = now;
        // The API server may have caused the earlier failures. It works again now, so all entries lose their failure mark.
        self.pods.values_mut().flat_map(|pod| &mut pod.entries).for_each(|entry| entry.failed = false);
        if let Some(pod) = self.pods.get_mut(&report.pod) {
            pod.has_event = true;
        }
        let Some(entry) = self.entry(&report.pod, report.reason) else { return };
        entry.state = State::Quiet;
        entry.written = Some(Written { event, note: report.note.clone() });
        entry.writes = entry.writes.saturating_add(1);
        entry.due = now + repeat.pause(entry.writes);
    }

    /// Records that `report` was not written. `jitter`, in `0..1`, spreads the next attempts of many nodes.
    pub fn failed(&mut self, now: Duration, report: &Report, failure: Failure, jitter: f64) {
        if failure == Failure::Retry {
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
            Failure::Retry => {
                entry.state = State::Waiting(now);
                entry.failed = true;
            }
            Failure::Rejected => {
                entry.state = State::Quiet;
                entry.due = now + longest;
            }
        }
    }

    /// Forgets a pod that is gone. Returns the number of its entries that were still waiting for a write.
    pub fn forget(&mut self, pod: &PodUid) -> usize {
        let Some(pod) = self.pods.remove(pod) else { return 0 };
        self.entries -= pod.entries.len();
        pod.entries.iter().filter(|entry| matches!(entry.state, State::Waiting(_))).count()
    }

    /// Every ten minutes, forgets entries that have had no denials for so long that their Events are gone. Returns how many of them
    /// were still waiting for a write.
    pub fn tidy(&mut self, now: Duration) -> usize {
        if now.saturating_sub(self.tidied) < TIDY {
            return 0;
        }
        self.tidied = now;
        let mut waiting = 0;
        self.pods.retain(|_, pod| {
            pod.entries.retain(|entry| {
                let keep = entry.state == State::Writing || now.saturating_sub(entry.last) < QUIET;
                waiting += usize::from(!keep && entry.state != State::Quiet);
                keep
            });
            !pod.entries.is_empty()
        });
        self.entries = self.pods.values().map(|pod| pod.entries.len()).sum();
        waiting
    }

    fn entry(&mut self, pod: &PodUid, reason: Denial) -> Option<&mut Entry> {
        self.pods.get_mut(pod)?.entries.iter_mut().find(|entry| entry.reason == reason)
    }

    /// The entry to write next. The order is: pods without any Event, other new Events, repetitions, entries whose write failed.
    /// Within each group, the entry that has waited longest comes first.
    fn first_waiting(&self) -> Option<(PodUid, usize)> {
        let waiting = self.pods.iter().flat_map(|(uid, pod)| {
            pod.entries.iter().enumerate().filter_map(move |(at, entry)| match entry.state {
                State::Quiet | State::Writing => None,
                State::Waiting(since) => {
                    let class = (entry.failed, entry.written.is_some(), pod.has_event);
                    Some(((class, since), uid, at))
                }
            })
        });
        // The UID breaks ties, so that the same history gives the same Events.
        let first = waiting.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        first.map(|(_, uid, at)| (uid.clone(), at))
    }
}

/// The note of an Event: the reason's name, the explanation for this pod, and the fix. If it is too long, the end of the explanation
/// is cut.
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
