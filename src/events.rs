//! Kubernetes Events for denied pods, so that a pod's owner sees the reason with `kubectl describe`.
//!
//! The request path only records a denial in memory. The [`schedule`] decides whether and when it becomes an Event. One background
//! task writes the Events, one at a time.

pub mod api;
pub mod schedule;
pub mod sink;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::metrics::{EventResult, Metrics};
use crate::types::{Denial, PodEntry, PodUid};

use schedule::{Failure, Limits, Noted, Schedule};
use sink::{Report, Sink, SinkError};

/// Time limit of one write. A slower write counts as failed.
const WRITE: Duration = Duration::from_secs(10);

/// Records denials and writes them as Events.
pub struct Events {
    schedule: Mutex<Schedule>,
    queued: Notify,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

// === impl Events ===

impl Events {
    /// Creates an empty record.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { schedule: Mutex::new(Schedule::new(limits)), queued: Notify::new(), clock, metrics }
    }

    /// Records a denial of `pod`. Does no I/O. `explanation` is called only if its result may be written.
    pub fn denied(&self, pod: &PodEntry, reason: Denial, explanation: impl FnOnce() -> String) {
        let now = self.clock.boot();
        let noted = self.schedule().deny(now, pod, reason, explanation);
        match noted {
            Noted::Queued => self.queued.notify_one(),
            Noted::Counted => {}
            Noted::Dropped => self.metrics.event(EventResult::Dropped),
        }
    }

    /// Drops the unwritten denials of a pod that is gone or has changed, because their explanations may no longer be correct.
    pub fn forget(&self, pod: &PodUid) {
        self.count_dropped(self.schedule().forget(pod));
    }

    /// Writes Events to `sink`, one at a time. `jitter` returns numbers in `0..1`. Never ends.
    pub async fn publish(self: Arc<Self>, sink: impl Sink, jitter: fn() -> f64) {
        let mut failing = false;
        loop {
            let now = self.clock.boot();
            self.count_dropped(self.schedule().tidy(now));
            let next = self.schedule().next(now);
            match next {
                // The loop asks the schedule again when the wait ends or a denial is queued.
                Err(wait) => drop(timeout(wait, self.queued.notified()).await),
                Ok(report) => self.write(&sink, &report, jitter(), &mut failing).await,
            }
        }
    }

    /// Makes one attempt to write `report`. `failing` is true if the current outage has already been logged, so that each outage
    /// causes only one warning.
    async fn write(&self, sink: &impl Sink, report: &Report, jitter: f64, failing: &mut bool) {
        let written = timeout(WRITE, sink.write(report, self.clock.wall())).await;
        let written = written.unwrap_or_else(|_| Err(SinkError::Retry(format!("no answer within {WRITE:?}"))));
        let now = self.clock.boot();
        let error = match written {
            Ok(event) => {
                self.metrics.event(EventResult::Published);
                self.schedule().written(now, report, event);
                if std::mem::take(failing) {
                    info!("Events can be written again");
                }
                return;
            }
            Err(error) => error,
        };
        let (result, failure) = match &error {
            SinkError::Gone => (EventResult::Failed, Failure::Gone),
            SinkError::Forbidden(_) => (EventResult::Forbidden, Failure::Retry),
            SinkError::Retry(_) => (EventResult::Failed, Failure::Retry),
            SinkError::Rejected(_) => (EventResult::Dropped, Failure::Rejected),
        };
        self.metrics.event(result);
        self.schedule().failed(now, report, failure, jitter);
        match &error {
            SinkError::Gone => {
                debug!(pod = %report.name, namespace = %report.namespace, "Event no longer exists; creating a new one")
            }
            SinkError::Rejected(_) => {
                warn!(pod = %report.name, namespace = %report.namespace, %error, "Event rejected; not retrying");
            }
            SinkError::Forbidden(_) | SinkError::Retry(_) if *failing => {
                debug!(%error, "Still cannot write Events; retrying with backoff")
            }
            SinkError::Forbidden(_) => error!(
                %error,
                "Cannot write Events of denied pods: no permission; retrying with backoff, pods are served regardless. Grant podrole's service account the verbs \
                 create and patch on events in the API group events.k8s.io, or set --events=false"
            ),
            SinkError::Retry(_) => {
                warn!(%error, "Cannot write Events of denied pods; retrying with backoff")
            }
        }
        *failing |= failure == Failure::Retry;
    }

    fn count_dropped(&self, dropped: usize) {
        for _ in 0..dropped {
            self.metrics.event(EventResult::Dropped);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
