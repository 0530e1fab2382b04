//! Metrics about audit lines and Kubernetes Events.

use prometheus::IntCounterVec;

use super::Metrics;
use super::families::{Families, Label};
use crate::types::closed_set;

closed_set! {
    /// The kinds of audit lines.
    pub enum AuditRecord {
        /// A call to STS.
        StsCall = "sts_call",
        /// The first delivery of credentials to a container.
        Delivery = "delivery",
        /// A denial, with the number of denials that the line stands for.
        Denial = "denial",
    }
}

closed_set! {
    /// The result of an attempt to report a denial to the pod's owner in an Event.
    pub enum EventResult {
        /// The Event was created, or the count of an earlier one was raised.
        Published = "published",
        /// The API server did not accept the Event; podrole tries again.
        Failed = "failed",
        /// podrole has no right to create Events; podrole tries again.
        Forbidden = "forbidden",
        /// The Event is never written: the queue was full, the pod was deleted first, or the API server rejected the Event.
        Dropped = "dropped",
    }
}

/// The families about audit lines and Events.
#[derive(Debug)]
pub(super) struct ReportMetrics {
    audit: IntCounterVec,
    events: IntCounterVec,
}

// === impl ReportMetrics ===

impl ReportMetrics {
    pub(super) fn new(families: &mut Families) -> Self {
        Self {
            audit: families.counters(
                "podrole_audit_records_total",
                "Audit lines written, by action.",
                &[Label::closed("action", &AuditRecord::NAMES)],
            ),
            events: families.counters(
                "podrole_events_total",
                "Kubernetes Events of denied pods, by result.",
                &[Label::closed("result", &EventResult::NAMES)],
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts an audit line that was handed to the writer.
    pub fn audit(&self, record: AuditRecord) {
        self.reports.audit.with_label_values(&[record.name()]).inc();
    }

    /// Counts the result of an Event.
    pub fn event(&self, result: EventResult) {
        self.reports.events.with_label_values(&[result.name()]).inc();
    }
}
