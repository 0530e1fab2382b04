//! Everything that is counted. The only module that knows the `prometheus` crate.
//!
//! Labels come from closed sets (`&'static str` of our own enums): never a pod, a role, a namespace, an address or an error's text.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::types::Denial;

/// One second is a boundary: it is the whole patience of the common SDKs.
const REQUEST_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5];
const STS_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The daemon's metrics, registered on a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    denials: IntCounterVec,
    identity_seconds: Histogram,
    imds_v1: IntCounterVec,
    connections_refused: IntCounterVec,
    sts_requests: IntCounterVec,
    sts_seconds: Histogram,
    cache_lookups: CacheLookups,
    cache_entries: IntGauge,
    watch_events: IntCounterVec,
    watch_errors: IntCounterVec,
    watch_last_event: IntGaugeVec,
    audit: IntCounterVec,
    events: IntCounterVec,
    faults: IntCounterVec,
    redirect_applied: IntCounter,
    identity_mode: IntGaugeVec,
    base_remaining: Gauge,
}

/// Looked into at every request: each counter is found once.
#[derive(Debug)]
struct CacheLookups {
    family: IntCounterVec,
    hit: IntCounter,
    wait: IntCounter,
    refused: IntCounter,
}

/// The watches, by what they watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Pods of this node.
    Pods,
    /// Namespaces.
    Namespaces,
    /// Service accounts.
    ServiceAccounts,
}

/// What became of a look into the credential cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLookup {
    /// Valid credentials were there.
    Hit,
    /// The caller waited for STS.
    Wait,
    /// A recent refusal was there.
    Refused,
}

/// What became of an attempt to tell a pod's owner something by an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// Written, or an earlier one counted on.
    Published,
    /// Not written; it is tried again.
    Failed,
    /// The same, for want of a right.
    Forbidden,
    /// Never written: there was no room, the pod went first, or the API server will not have it.
    Dropped,
}

/// Faults of the daemon's own that an operator should see, though nobody was refused for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The persisted key ring could not be read or written: tokens do not survive a restart.
    KeyRing,
    /// An audit line was lost.
    AuditLost,
    /// A log line was lost.
    LogLost,
    /// A metadata listener could not be bound.
    MetadataListener,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            requests: counters(
                "podrole_http_requests_total",
                "Metadata requests by route and outcome.",
                &["route", "outcome"],
            ),
            request_seconds: HistogramVec::new(
                HistogramOpts::new("podrole_http_request_duration_seconds", "Time to the answer, by route.")
                    .buckets(REQUEST_BUCKETS.to_vec()),
                &["route"],
            )
            .expect("a valid name"),
            denials: counters(
                "podrole_denials_total",
                "Requests of known pods that were denied, by reason.",
                &["reason"],
            ),
            identity_seconds: Histogram::with_opts(
                HistogramOpts::new("podrole_identity_proof_seconds", "Time to prove who is calling.")
                    .buckets(vec![2e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]),
            )
            .expect("a valid name"),
            imds_v1: counters(
                "podrole_imds_v1_requests_total",
                "Requests served without a good session token.",
                &["reason"],
            ),
            connections_refused: counters(
                "podrole_connections_refused_total",
                "Connections reset before a request, by reason.",
                &["reason"],
            ),
            sts_requests: counters("podrole_sts_requests_total", "Calls to STS by outcome.", &["code"]),
            sts_seconds: Histogram::with_opts(
                HistogramOpts::new("podrole_sts_request_duration_seconds", "Duration of calls to STS.")
                    .buckets(STS_BUCKETS.to_vec()),
            )
            .expect("a valid name"),
            cache_lookups: CacheLookups::new(),
            cache_entries: gauge("podrole_credential_cache_entries", "Identities in the credential cache."),
            watch_events: counters("podrole_watch_events_total", "Events received, by watch.", &["watch"]),
            watch_errors: counters("podrole_watch_errors_total", "Interruptions, by watch.", &["watch"]),
            watch_last_event: IntGaugeVec::new(
                Opts::new(
                    "podrole_watch_last_event_boot_seconds",
                    "When a watch last said something, in seconds since boot.",
                ),
                &["watch"],
            )
            .expect("a valid name"),
            audit: counters("podrole_audit_records_total", "Audit lines written, by action.", &["action"]),
            events: counters(
                "podrole_events_total",
                "Kubernetes Events of denied pods, by what became of each.",
                &["result"],
            ),
            faults: counters(
                "podrole_faults_total",
                "Faults that degrade the daemon without refusing anybody.",
                &["fault"],
            ),
            redirect_applied: IntCounter::new("podrole_redirect_applied_total", "Rulesets applied.")
                .expect("a valid name"),
            identity_mode: IntGaugeVec::new(
                Opts::new("podrole_identity_mode", "1 for the mode in force: kernel, or the weaker ip."),
                &["mode"],
            )
            .expect("a valid name"),
            base_remaining: Gauge::new(
                "podrole_base_credentials_remaining_seconds",
                "Life left in the daemon's own credentials.",
            )
            .expect("a valid name"),
            registry,
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        for collector in self.collectors() {
            self.registry.register(collector).expect("every name is registered once");
        }
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let build = IntGaugeVec::new(Opts::new("podrole_build_info", "1, labelled with the version."), &["version"])
            .expect("a valid name");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        vec![
            Box::new(build),
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.denials.clone()),
            Box::new(self.identity_seconds.clone()),
            Box::new(self.imds_v1.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.sts_requests.clone()),
            Box::new(self.sts_seconds.clone()),
            Box::new(self.cache_lookups.family.clone()),
            Box::new(self.cache_entries.clone()),
            Box::new(self.watch_events.clone()),
            Box::new(self.watch_errors.clone()),
            Box::new(self.watch_last_event.clone()),
            Box::new(self.audit.clone()),
            Box::new(self.events.clone()),
            Box::new(self.faults.clone()),
            Box::new(self.redirect_applied.clone()),
            Box::new(self.identity_mode.clone()),
            Box::new(self.base_remaining.clone()),
        ]
    }

    /// One answered request.
    pub fn request(&self, route: &'static str, outcome: &'static str, took: Duration) {
        self.requests.with_label_values(&[route, outcome]).inc();
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// One denial.
    pub fn denial(&self, reason: Denial) {
        self.denials.with_label_values(&[reason.name()]).inc();
    }

    /// One proof of identity.
    pub fn identity(&self, took: Duration) {
        self.identity_seconds.observe(took.as_secs_f64());
    }

    /// One request that was served as IMDSv1.
    pub fn imds_v1(&self, reason: &'static str) {
        self.imds_v1.with_label_values(&[reason]).inc();
    }

    /// One connection reset before it could ask.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// One call to STS.
    pub fn sts(&self, code: &'static str, took: Duration) {
        self.sts_requests.with_label_values(&[code]).inc();
        self.sts_seconds.observe(took.as_secs_f64());
    }

    /// One look into the credential cache.
    pub fn cache_lookup(&self, result: CacheLookup) {
        let counter = match result {
            CacheLookup::Hit => &self.cache_lookups.hit,
            CacheLookup::Wait => &self.cache_lookups.wait,
            CacheLookup::Refused => &self.cache_lookups.refused,
        };
        counter.inc();
    }

    /// How many identities the cache holds.
    pub fn cache_entries(&self, entries: usize) {
        self.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// A watch delivered something, at this time since boot.
    pub fn watch_event(&self, watch: Watch, boot: Duration) {
        self.watch_events.with_label_values(&[watch.name()]).inc();
        self.watch_last_event.with_label_values(&[watch.name()]).set(i64::try_from(boot.as_secs()).unwrap_or(i64::MAX));
    }

    /// A watch was interrupted.
    pub fn watch_error(&self, watch: Watch) {
        self.watch_errors.with_label_values(&[watch.name()]).inc();
    }

    /// An audit line was written.
    pub fn audit(&self, action: &'static str) {
        self.audit.with_label_values(&[action]).inc();
    }

    /// What became of an Event.
    pub fn event(&self, result: EventResult) {
        let label = match result {
            EventResult::Published => "published",
            EventResult::Failed => "failed",
            EventResult::Forbidden => "forbidden",
            EventResult::Dropped => "dropped",
        };
        self.events.with_label_values(&[label]).inc();
    }

    /// Something of our own went wrong.
    pub fn fault(&self, fault: Fault) {
        let label = match fault {
            Fault::KeyRing => "key_ring",
            Fault::AuditLost => "audit_lost",
            Fault::LogLost => "log_lost",
            Fault::MetadataListener => "metadata_listener",
        };
        self.faults.with_label_values(&[label]).inc();
    }

    /// A ruleset was applied.
    pub fn redirect_applied(&self) {
        self.redirect_applied.inc();
    }

    /// The identity mode in force.
    pub fn identity_mode(&self, mode: &'static str) {
        self.identity_mode.with_label_values(&[mode]).set(1);
    }

    /// What is left of the daemon's own credentials.
    pub fn base_remaining(&self, left: Duration) {
        self.base_remaining.set(left.as_secs_f64());
    }

    /// The text exposition and its content type.
    pub fn render(&self) -> (&'static str, Vec<u8>) {
        let mut text = Vec::new();
        // Writing to memory does not fail, and half a page would be worse than none.
        if TextEncoder::new().encode(&self.registry.gather(), &mut text).is_err() {
            text.clear();
        }
        ("text/plain; version=0.0.4; charset=utf-8", text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl CacheLookups {
    fn new() -> Self {
        let family =
            counters("podrole_credential_cache_lookups_total", "Looks into the credential cache.", &["result"]);
        let counter = |result| family.with_label_values(&[result]);
        Self { hit: counter("hit"), wait: counter("wait"), refused: counter("refused"), family }
    }
}

impl Watch {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::ServiceAccounts => "service_accounts",
        }
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}

#[cfg(test)]
mod tests;
