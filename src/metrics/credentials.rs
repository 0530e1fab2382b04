//! Metrics about credentials: calls to STS, the cache, and the daemon's base credentials.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use super::families::{Families, Label};
use crate::types::closed_set;

const STS_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

closed_set! {
    /// The result of a lookup in the credential cache.
    pub enum CacheLookup {
        /// The cache had valid credentials.
        Hit = "hit",
        /// The caller waited for STS.
        Wait = "wait",
        /// The cache had a recent denial by STS.
        Denied = "denied",
    }
}

/// The families about credentials.
#[derive(Debug)]
pub(super) struct CredentialMetrics {
    sts_requests: IntCounterVec,
    sts_seconds: Histogram,
    /// One counter for each [`CacheLookup`], in the same order. Every request for credentials increments one, so the counters are
    /// resolved only once.
    lookups: [IntCounter; CacheLookup::ALL.len()],
    entries: IntGauge,
    base_remaining: Gauge,
}

// === impl CredentialMetrics ===

impl CredentialMetrics {
    pub(super) fn new(families: &mut Families) -> Self {
        let lookups = families.counters(
            "podrole_credential_cache_lookups_total",
            "Lookups in the credential cache, by result.",
            &[Label::closed("result", &CacheLookup::NAMES)],
        );
        Self {
            sts_requests: families.counters(
                "podrole_sts_requests_total",
                "Calls to STS, by outcome.",
                &[Label::open("code")],
            ),
            sts_seconds: families.histogram(
                "podrole_sts_request_duration_seconds",
                "Duration of calls to STS.",
                STS_BUCKETS,
            ),
            lookups: CacheLookup::ALL.map(|result| lookups.with_label_values(&[result.name()])),
            entries: families.gauge("podrole_credential_cache_entries", "Identities in the credential cache."),
            base_remaining: families.seconds(
                "podrole_base_credentials_remaining_seconds",
                "Remaining life of the daemon's base credentials.",
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a call to STS. `code` is a name of the issuer's closed list of codes, or `Success`.
    pub fn sts(&self, code: &'static str, took: Duration) {
        self.credentials.sts_requests.with_label_values(&[code]).inc();
        self.credentials.sts_seconds.observe(took.as_secs_f64());
    }

    /// Counts a lookup in the credential cache.
    pub fn cache_lookup(&self, result: CacheLookup) {
        self.credentials.lookups[result as usize].inc();
    }

    /// Sets the number of identities in the cache.
    pub fn cache_entries(&self, entries: usize) {
        self.credentials.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// Sets the remaining life of the daemon's base credentials.
    pub fn base_remaining(&self, left: Duration) {
        self.credentials.base_remaining.set(left.as_secs_f64());
    }
}
