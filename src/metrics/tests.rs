use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[test]
fn renders_what_was_counted() {
    let metrics = Metrics::new();
    metrics.request("token", "ok", Duration::from_millis(1));
    let text = String::from_utf8(metrics.render().1).unwrap();
    assert!(text.contains("podrole_http_requests_total{outcome=\"ok\",route=\"token\"} 1"), "{text}");
    assert!(text.contains("podrole_build_info"));
}

/// All there are, counted or not: what each family was made with. A pod, a role or a namespace would be a label without end.
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
    let collectors = Metrics::new().collectors();
    let families: Vec<_> = collectors.iter().flat_map(|collector| collector.desc()).collect();
    let found: BTreeMap<&str, Vec<&str>> = families
        .iter()
        .map(|family| {
            let constant = family.const_label_pairs.iter().map(|pair| pair.name());
            (family.fq_name.as_str(), family.variable_labels.iter().map(String::as_str).chain(constant).collect())
        })
        .collect();
    let expected: BTreeMap<&str, Vec<&str>> =
        expected.into_iter().map(|(name, labels)| (name, labels.to_vec())).collect();
    assert_eq!(found, expected);
    assert_eq!(families.len(), expected.len());
}

#[test]
fn what_is_served_has_no_label_besides() {
    let metrics = Metrics::new();
    let took = Duration::from_millis(1);
    metrics.request("token", "ok", took);
    metrics.denial(Denial::NoRole);
    metrics.identity(took);
    metrics.imds_v1("no_token");
    metrics.connection_refused("too_many");
    metrics.sts("AccessDenied", took);
    metrics.cache_lookup(CacheLookup::Hit);
    metrics.cache_entries(1);
    metrics.watch_event(Watch::Pods, took);
    metrics.watch_error(Watch::Pods);
    metrics.audit("delivery");
    metrics.event(EventResult::Published);
    metrics.fault(Fault::KeyRing);
    metrics.redirect_applied();
    metrics.identity_mode("kernel");
    metrics.base_remaining(took);
    let families = metrics.registry.gather();
    assert_eq!(families.len(), metrics.collectors().len(), "every family was counted into");
    let labels: BTreeSet<&str> = families
        .iter()
        .flat_map(|family| family.get_metric())
        .flat_map(|metric| metric.get_label())
        .map(|label| label.name())
        .collect();
    let all = ["action", "code", "fault", "mode", "outcome", "reason", "result", "route", "version", "watch"];
    assert_eq!(labels, BTreeSet::from(all));
}
