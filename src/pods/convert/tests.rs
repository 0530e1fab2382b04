use serde_json::{Value, json};

use super::*;

const ROLE: &str = AnnotationKey::Role.name();
const EXTERNAL_ID: &str = AnnotationKey::ExternalId.name();
const SESSION_NAME: &str = AnnotationKey::SessionName.name();

fn entry(object: Value) -> PodEntry {
    pod_entry(&serde_json::from_value(object).unwrap()).unwrap()
}

fn minimal(annotations: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u-1", "annotations": annotations}})
}

#[test]
fn keeps_what_a_decision_needs() {
    let pod = entry(json!({
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "u-1", "managedFields": [{"x": 1}], "labels": {"a": "b"},
            "annotations": {ROLE: "web", "podrole.dev/role.side": "", "podrole.dev/role.log": "log", "foreign/x": "y"}
        },
        "spec": {
            "serviceAccountName": "sa",
            "containers": [{"name": "app", "image": "i", "securityContext": {"capabilities": {"drop": ["ALL"]}}}]
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd88::1"}],
            "containerStatuses": [{"name": "app", "containerID": "containerd://abc"}, {"name": "side"}],
            "ephemeralContainerStatuses": [{"name": "dbg", "containerID": "cri-o://def"}]
        }
    }));
    assert_eq!(pod.service_account.as_ref(), "sa");
    assert_eq!(pod.ips.len(), 2);
    assert!(!pod.siblings_may_read && !pod.finished && !pod.host_network);
    assert_eq!(pod.role, Some(Ok(RoleRef::Name("web".into()))));
    assert_eq!(pod.container_roles.len(), 2);
    assert_eq!(pod.container_roles[1].role, Ok(None));
    let named = |id: &str| pod.container_name(&ContainerId::parse(id).unwrap()).map(|n| n.to_string());
    assert_eq!((named("abc"), named("def"), named("x")), (Some("app".into()), Some("dbg".into()), None));
}

#[test]
fn foreign_annotations_are_not_kept() {
    let pod: SlimPod = serde_json::from_value(minimal(json!({"a/b": "x".repeat(2_000_000), ROLE: "web"}))).unwrap();
    assert_eq!(pod.metadata.annotations.unwrap().len(), 1);
}

#[test]
fn bad_annotations_hurt_one_field() {
    let pod = entry(minimal(json!({ROLE: "a b", EXTERNAL_ID: "x y", SESSION_NAME: "s".repeat(2000)})));
    assert!(matches!(pod.role, Some(Err(BadAnnotation::Role { .. }))));
    assert!(matches!(pod.external_id, Some(Err(BadAnnotation::Session { .. }))));
    assert!(matches!(pod.session_name, Some(Err(BadAnnotation::Session { .. }))));
}

#[test]
fn a_container_may_sniff_unless_told_otherwise() {
    for (context, expected) in [
        (json!(null), true),
        (json!({}), true),
        (json!({"capabilities": {}}), true),
        (json!({"capabilities": {"drop": ["NET_RAW"]}}), false),
        (json!({"capabilities": {"drop": ["net_raw"]}}), false),
        (json!({"capabilities": {"drop": ["Net_Raw", "SYS_TIME"]}}), false),
        (json!({"capabilities": {"drop": ["ALL"]}}), false),
        (json!({"capabilities": {"drop": ["all"]}}), false),
        // containerd turns this name into CAP_CAP_NET_RAW, and drops nothing.
        (json!({"capabilities": {"drop": ["CAP_NET_RAW"]}}), true),
        (json!({"capabilities": {"drop": ["cap_net_raw"]}}), true),
        (json!({"capabilities": {"drop": ["CAP_ALL"]}}), true),
        (json!({"capabilities": {"drop": ["SYS_TIME"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["net_raw"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["CAP_NET_RAW"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["cap_net_raw"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["Cap_Net_Admin"]}}), true),
        (json!({"capabilities": {"drop": ["NET_RAW"], "add": ["all"]}}), true),
        (json!({"capabilities": {"drop": ["NET_RAW"], "add": ["CAP_ALL"]}}), true),
        (json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CAP_", "c\u{e4}p", ""]}}), false),
        (json!({"capabilities": {"drop": ["ALL"]}, "privileged": true}), true),
    ] {
        let mut object = minimal(json!({}));
        object["spec"] = json!({"containers": [{"securityContext": context}]});
        assert_eq!(entry(object).siblings_may_read, expected, "{context}");
    }
}

#[test]
fn containers_that_share_a_process_namespace_may_read_each_other() {
    let quiet = json!({"securityContext": {"capabilities": {"drop": ["ALL"]}}});
    let debug = |target: Value| {
        let mut container = quiet.clone();
        container["targetContainerName"] = target;
        json!({"ephemeralContainers": [container]})
    };
    for (fields, expected) in [
        (json!({}), false),
        (json!({"shareProcessNamespace": false, "hostPID": false}), false),
        (json!({"shareProcessNamespace": null, "hostPID": null}), false),
        (json!({"shareProcessNamespace": true}), true),
        (json!({"hostPID": true}), true),
        (debug(json!(null)), false),
        (debug(json!("app")), true),
    ] {
        let mut object = minimal(json!({}));
        object["spec"] = fields.clone();
        object["spec"]["containers"] = json!([quiet, quiet]);
        assert_eq!(entry(object).siblings_may_read, expected, "{fields}");
    }
}

#[test]
fn only_a_hash_is_an_alias() {
    let alias = |text: &str| entry(minimal(json!({"kubernetes.io/config.mirror": text}))).cgroup_uid;
    assert!(alias("0123456789abcdef0123456789abcdef").is_some());
    assert_eq!(alias("3f0c9a52-1111-2222-3333-444455556666"), None);
    assert_eq!(alias("../../x"), None);
}

#[test]
fn null_and_missing_fields_are_fine() {
    let pod = entry(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u-1", "annotations": null},
        "spec": {"containers": null}, "status": {"podIPs": null}
    }));
    assert_eq!((pod.service_account.as_ref(), pod.ips.len()), ("default", 0));
    assert!(pod_entry(&serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap()).is_none());
}
