//! Metrics of the request path: connections, requests, callers, denials.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec};

use super::Metrics;
use super::families::{Families, Label};
use crate::types::{Denial, closed_set};

/// The buckets of request durations. One second is a boundary, because common SDKs time out after one second.
const REQUEST_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5];
const IDENTITY_BUCKETS: &[f64] = &[2e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0];

closed_set! {
    /// Why a request without a valid session token was served.
    pub enum ImdsV1Reason {
        /// The request had no token.
        NoToken = "no_token",
        /// The request's token was invalid, and the request would have been served without one.
        BadToken = "bad_token",
    }
}

closed_set! {
    /// Why a connection was reset before its first request.
    pub enum ConnectionRefused {
        /// The connection did not come through the redirect rules.
        NotRedirected = "not_redirected",
        /// There are too many connections, either from the caller's address or in total.
        TooMany = "too_many",
    }
}

/// The families of the request path.
#[derive(Debug)]
pub(super) struct RequestMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    identity_seconds: Histogram,
    denials: IntCounterVec,
    imds_v1: IntCounterVec,
    connections_refused: IntCounterVec,
}

// === impl RequestMetrics ===

impl RequestMetrics {
    pub(super) fn new(families: &mut Families) -> Self {
        Self {
            requests: families.counters(
                "podrole_http_requests_total",
                "Metadata requests by route and outcome.",
                &[Label::open("route"), Label::open("outcome")],
            ),
            seconds: families.histograms(
                "podrole_http_request_duration_seconds",
                "Time to the answer, by route.",
                REQUEST_BUCKETS,
                &[Label::open("route")],
            ),
            identity_seconds: families.histogram(
                "podrole_identity_proof_seconds",
                "Time to prove who is calling.",
                IDENTITY_BUCKETS,
            ),
            denials: families.counters(
                "podrole_denials_total",
                "Requests from known pods that were denied, by reason.",
                &[Label::closed("reason", &Denial::NAMES)],
            ),
            imds_v1: families.counters(
                "podrole_imds_v1_requests_total",
                "Requests served without a valid session token.",
                &[Label::closed("reason", &ImdsV1Reason::NAMES)],
            ),
            connections_refused: families.counters(
                "podrole_connections_refused_total",
                "Connections reset before a request, by reason.",
                &[Label::closed("reason", &ConnectionRefused::NAMES)],
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts an answered request. `route` and `outcome` are names of the service's closed lists.
    pub fn request(&self, route: &'static str, outcome: &'static str, took: Duration) {
        self.requests.requests.with_label_values(&[route, outcome]).inc();
        self.requests.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Records how long it took to prove the caller's identity.
    pub fn identity(&self, took: Duration) {
        self.requests.identity_seconds.observe(took.as_secs_f64());
    }

    /// Counts a denial.
    pub fn denial(&self, reason: Denial) {
        self.requests.denials.with_label_values(&[reason.name()]).inc();
    }

    /// Counts a request that was served as IMDSv1.
    pub fn imds_v1(&self, reason: ImdsV1Reason) {
        self.requests.imds_v1.with_label_values(&[reason.name()]).inc();
    }

    /// Counts a connection that was reset before its first request.
    pub fn connection_refused(&self, reason: ConnectionRefused) {
        self.requests.connections_refused.with_label_values(&[reason.name()]).inc();
    }
}
