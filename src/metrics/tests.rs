use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::types::Denial;

#[test]
fn renders_what_was_counted() {
    let metrics = Metrics::new();
    metrics.request("token", "ok", Duration::from_millis(1));
    let text = String::from_utf8(metrics.render().1).unwrap();
    assert!(text.contains("podrole_http_requests_total{outcome=\"ok\",route=\"token\"} 1"), "{text}");
    assert!(text.contains("podrole_build_info"));
}

/// Metrics with at least one value in every family.
fn counted() -> Metrics {
    let metrics = Metrics::new();
    let took = Duration::from_millis(1);
    metrics.request("token", "ok", took);
    metrics.identity(took);
    metrics.sts("AccessDenied", took);
    metrics.cache_entries(1);
    metrics.redirect_applied();
    metrics.base_remaining(took);
    Denial::ALL.into_iter().for_each(|reason| metrics.denial(reason));
    ImdsV1Reason::ALL.into_iter().for_each(|reason| metrics.imds_v1(reason));
    ConnectionRefused::ALL.into_iter().for_each(|reason| metrics.connection_refused(reason));
    CacheLookup::ALL.into_iter().for_each(|result| metrics.cache_lookup(result));
    AuditRecord::ALL.into_iter().for_each(|record| metrics.audit(record));
    EventResult::ALL.into_iter().for_each(|result| metrics.event(result));
    Fault::ALL.into_iter().for_each(|fault| metrics.fault(fault));
    IdentityMode::ALL.into_iter().for_each(|mode| metrics.identity_mode(mode));
    for watch in Watch::ALL {
        metrics.watch_event(watch, took);
        metrics.watch_error(watch);
    }
    metrics
}

/// Compares the labels of all families, including families without values. A label with the names of pods, roles or namespaces
/// would have an unlimited number of values.
#[test]
fn labels_are_these_and_no_others() {
    let expected: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("podrole_audit_records_total", &["action"] as &[&str]),
        ("podrole_base_credentials_remaining_seconds", &[]),
        ("podrole_build_info", &["version"]),
        ("podrole_connections_refused_total", &["reason"]),
        ("podrole_credential_cache_entries", &[]),
        ("podrole_credential_cache_lookups_total", &["result"]),
        ("podrole_denials_total", &["reason"]),
        ("podrole_events_total", &["result"]),
        ("podrole_faults_total", &["fault"]),
        ("podrole_http_request_duration_seconds", &["route"]),
        ("podrole_http_requests_total", &["route", "outcome"]),
        ("podrole_identity_mode", &["mode"]),
        ("podrole_identity_proof_seconds", &[]),
        ("podrole_imds_v1_requests_total", &["reason"]),
        ("podrole_redirect_applied_total", &[]),
        ("podrole_sts_request_duration_seconds", &[]),
        ("podrole_sts_requests_total", &["code"]),
        ("podrole_watch_errors_total", &["watch"]),
        ("podrole_watch_events_total", &["watch"]),
        ("podrole_watch_last_event_boot_seconds", &["watch"]),
    ]);
    let metrics = Metrics::new();
    let labels = |family: &Family| family.labels.iter().map(|label| label.name).collect();
    let found: BTreeMap<&str, Vec<&str>> =
        metrics.families().iter().map(|family| (family.name, labels(family))).collect();
    let expected: BTreeMap<&str, Vec<&str>> =
        expected.into_iter().map(|(name, labels)| (name, labels.to_vec())).collect();
    assert_eq!(found, expected);
    assert_eq!(metrics.families().len(), expected.len());
}

/// The registry serves the families, labels and values that `families` lists.
#[test]
fn what_is_served_is_what_is_listed() {
    let metrics = counted();
    let served = metrics.registry.gather();
    assert_eq!(served.len(), metrics.families().len(), "every family was counted into");
    for family in metrics.families() {
        let found = served.iter().find(|found| found.name() == family.name).expect("a listed family is served");
        for label in &family.labels {
            let values: BTreeSet<&str> = found
                .get_metric()
                .iter()
                .flat_map(|metric| metric.get_label())
                .filter(|pair| pair.name() == label.name)
                .map(|pair| pair.value())
                .collect();
            if !label.values.is_empty() {
                assert_eq!(values, label.values.iter().copied().collect(), "{}", family.name);
            }
        }
        for pair in found.get_metric().iter().flat_map(|metric| metric.get_label()) {
            assert!(family.labels.iter().any(|label| label.name == pair.name()), "{}: {}", family.name, pair.name());
        }
    }
}
