//! The daemon's metrics. Only this module knows the `prometheus` crate.
//!
//! Label values come from closed sets. No label value is a pod, a role, a namespace, an address or the text of an error. Each
//! area declares its families through [`Families`], which registers them and keeps the list that the documentation is tested
//! against.

mod credentials;
mod daemon;
mod families;
mod reports;
mod requests;
mod watches;

pub use credentials::CacheLookup;
pub use daemon::{Fault, IdentityMode};
pub use families::{Family, Label};
pub use reports::{AuditRecord, EventResult};
pub use requests::{ConnectionRefused, ImdsV1Reason};
pub use watches::Watch;

use prometheus::{Encoder as _, Registry, TextEncoder};

use credentials::CredentialMetrics;
use daemon::DaemonMetrics;
use families::Families;
use reports::ReportMetrics;
use requests::RequestMetrics;
use watches::WatchMetrics;

/// The daemon's metrics, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    requests: RequestMetrics,
    credentials: CredentialMetrics,
    watches: WatchMetrics,
    reports: ReportMetrics,
    daemon: DaemonMetrics,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let mut families = Families::default();
        let requests = RequestMetrics::new(&mut families);
        let credentials = CredentialMetrics::new(&mut families);
        let watches = WatchMetrics::new(&mut families);
        let reports = ReportMetrics::new(&mut families);
        let daemon = DaemonMetrics::new(&mut families);
        let (registry, families) = families.finish();
        Self { registry, families, requests, credentials, watches, reports, daemon }
    }

    /// Every family, with the labels that it was registered with.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The text exposition and its content type.
    pub fn render(&self) -> (&'static str, Vec<u8>) {
        let mut text = Vec::new();
        // Writing to memory does not fail. If writing did fail, an empty page would be better than half a page.
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

#[cfg(test)]
mod tests;
