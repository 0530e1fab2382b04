//! Metrics about the watches on the API server.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Metrics;
use super::families::{Families, Label};
use crate::types::closed_set;

closed_set! {
    /// The watches, named after what they watch.
    pub enum Watch {
        /// Pods of this node.
        Pods = "pods",
        /// Namespaces.
        Namespaces = "namespaces",
        /// Service accounts.
        ServiceAccounts = "service_accounts",
    }
}

/// The families about watches.
#[derive(Debug)]
pub(super) struct WatchMetrics {
    events: IntCounterVec,
    errors: IntCounterVec,
    last_event: IntGaugeVec,
}

// === impl WatchMetrics ===

impl WatchMetrics {
    pub(super) fn new(families: &mut Families) -> Self {
        let watch = Label::closed("watch", &Watch::NAMES);
        Self {
            events: families.counters("podrole_watch_events_total", "Events received, by watch.", &[watch]),
            errors: families.counters("podrole_watch_errors_total", "Interruptions, by watch.", &[watch]),
            last_event: families.gauges(
                "podrole_watch_last_event_boot_seconds",
                "Time of the last event of a watch, in seconds since boot.",
                &[watch],
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts an event of a watch, received at `boot` since boot.
    pub fn watch_event(&self, watch: Watch, boot: Duration) {
        let seconds = i64::try_from(boot.as_secs()).unwrap_or(i64::MAX);
        self.watches.events.with_label_values(&[watch.name()]).inc();
        self.watches.last_event.with_label_values(&[watch.name()]).set(seconds);
    }

    /// Counts an interruption of a watch.
    pub fn watch_error(&self, watch: Watch) {
        self.watches.errors.with_label_values(&[watch.name()]).inc();
    }
}
