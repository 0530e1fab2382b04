//! Events: a denied pod's owner is told in Kubernetes, where they look.
//!
//! The way of a request only notes a denial in memory. Whether and when it becomes an Event is the [`schedule`]'s word; one task,
//! away from pods' requests, writes one after the other.

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

use schedule::{Failure, Limits, Schedule, Told};
use sink::{Report, Sink, SinkError};

/// For one write. What takes longer counts as failed.
const WRITE: Duration = Duration::from_secs(10);

/// Denials on their way to Events.
pub struct Events {
    schedule: Mutex<Schedule>,
    waiting: Notify,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

// === impl Events ===

impl Events {
    /// Nothing has been denied yet.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { schedule: Mutex::new(Schedule::new(limits)), waiting: Notify::new(), clock, metrics }
    }

    /// A pod was denied. Never waits for anybody outside.
    pub fn denied(&self, pod: &PodEntry, reason: Denial, explanation: impl FnOnce() -> String) {
        let now = self.clock.boot();
        let told = self.schedule().deny(now, pod, reason, explanation);
        match told {
            Told::Waiting => self.waiting.notify_one(),
            Told::Counted => {}
            Told::Dropped => self.metrics.event(EventResult::Dropped),
        }
    }

    /// The pod is gone, or other than it was: what was still to be told about it may be wrong.
    pub fn forget(&self, pod: &PodUid) {
        self.dropped(self.schedule().forget(pod));
    }

    /// Writes Events to `sink`, one at a time, for ever. `jitter` gives numbers in `0..1`.
    pub async fn publish(self: Arc<Self>, sink: impl Sink, jitter: fn() -> f64) {
        let mut trouble = false;
        loop {
            let now = self.clock.boot();
            self.dropped(self.schedule().tidy(now));
            let next = self.schedule().next(now);
            match next {
                // Either way there is something to look at.
                Err(wait) => drop(timeout(wait, self.waiting.notified()).await),
                Ok(report) => self.write(&sink, &report, jitter(), &mut trouble).await,
            }
        }
    }

    /// One attempt. `trouble`: the log was told of an earlier failure, and that is enough until it is over.
    async fn write(&self, sink: &impl Sink, report: &Report, jitter: f64, trouble: &mut bool) {
        let written = timeout(WRITE, sink.write(report, self.clock.wall())).await;
        let written = written.unwrap_or_else(|_| Err(SinkError::Later(format!("no answer in {WRITE:?}"))));
        let now = self.clock.boot();
        let error = match written {
            Ok(event) => {
                self.metrics.event(EventResult::Published);
                self.schedule().written(now, report, event);
                if std::mem::take(trouble) {
                    info!("Events can be written again");
                }
                return;
            }
            Err(error) => error,
        };
        let (result, failure) = match &error {
            SinkError::Gone => (EventResult::Failed, Failure::Gone),
            SinkError::Forbidden(_) => (EventResult::Forbidden, Failure::Later),
            SinkError::Later(_) => (EventResult::Failed, Failure::Later),
            SinkError::Never(_) => (EventResult::Dropped, Failure::Never),
        };
        self.metrics.event(result);
        self.schedule().failed(now, report, failure, jitter);
        match &error {
            SinkError::Gone => debug!(pod = %report.name, namespace = %report.namespace, "An Event is written anew"),
            SinkError::Never(_) => {
                warn!(pod = %report.name, namespace = %report.namespace, %error, "An Event is given up");
            }
            SinkError::Forbidden(_) | SinkError::Later(_) if *trouble => debug!(%error, "Event not written yet"),
            SinkError::Forbidden(_) => error!(
                %error,
                "Events of denied pods cannot be written; pods are served all the same. Give podrole's service account the verbs \
                 create and patch on events in the API group events.k8s.io, or set --events=false"
            ),
            SinkError::Later(_) => {
                warn!(%error, "Events of denied pods cannot be written yet; trying again ever more rarely")
            }
        }
        *trouble |= failure == Failure::Later;
    }

    fn dropped(&self, untold: usize) {
        for _ in 0..untold {
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
