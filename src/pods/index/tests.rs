use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry, service_account_entry};

fn pod(name: &str, uid: &str, mirror: Option<&str>) -> PodEntry {
    let object: SlimPod = serde_json::from_value(json!({"metadata": {
        "name": name, "namespace": "n", "uid": uid,
        "annotations": mirror.map_or_else(|| json!({}), |hash| json!({"kubernetes.io/config.mirror": hash}))
    }}))
    .unwrap();
    pod_entry(&object).unwrap()
}

/// A pod of the service account `web`.
fn of_web(uid: &str, phase: &str, role: &str) -> PodEntry {
    let object: SlimPod = serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "n", "uid": uid, "annotations": {"iam.amazonaws.com/role": role}},
        "spec": {"serviceAccountName": "web"},
        "status": {"phase": phase}
    }))
    .unwrap();
    pod_entry(&object).unwrap()
}

fn namespace(name: &str, allowed: &str) -> NamespaceEntry {
    let annotations = json!({"iam.amazonaws.com/allowed-roles": allowed});
    let object: SlimMeta =
        serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}})).unwrap();
    namespace_entry(&object).unwrap()
}

fn account(name: &str, role: &str) -> ServiceAccountEntry {
    let annotations = json!({"eks.amazonaws.com/role-arn": format!("arn:aws:iam::111122223333:role/{role}")});
    let object: SlimMeta =
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "annotations": annotations}}))
            .unwrap();
    service_account_entry(&object).unwrap()
}

fn sorted(mut changes: Vec<PodChange>) -> Vec<PodChange> {
    changes.sort();
    changes
}

fn added(id: &str) -> PodChange {
    PodChange { uid: uid(id), kind: ChangeKind::Added }
}

fn changed(id: &str) -> PodChange {
    PodChange { uid: uid(id), kind: ChangeKind::Changed }
}

fn gone(id: &str) -> PodChange {
    PodChange { uid: uid(id), kind: ChangeKind::Gone }
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn found(index: &Index, id: &str) -> Result<String, &'static str> {
    match index.pod(&uid(id)) {
        Lookup::Found(pod) => Ok(pod.name.to_string()),
        Lookup::Unknown => Err("unknown"),
        Lookup::Ambiguous(_) => Err("ambiguous"),
    }
}

const HASH: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_recreated_pod_ends_its_predecessor() {
    let mut index = Index::default();
    assert_eq!(index.apply_pod(pod("web-0", "u-1", None)), [added("u-1")]);
    assert_eq!(index.apply_pod(pod("web-0", "u-1", None)), [], "the same again changes nothing");
    assert_eq!(index.apply_pod(pod("web-0", "u-2", None)), [gone("u-1"), added("u-2")]);
    assert_eq!(found(&index, "u-1"), Err("unknown"));
    assert_eq!(found(&index, "u-2"), Ok("web-0".into()));
    assert_eq!(index.delete_pod(&uid("u-1")), [], "a late delete of the old one leaves the new one");
    assert_eq!(found(&index, "u-2"), Ok("web-0".into()));
    assert_eq!(index.delete_pod(&uid("u-2")), [gone("u-2")]);
}

#[test]
fn relist_without_a_pod_removes_it() {
    let mut index = Index::default();
    index.apply_pod(pod("a", "u-1", None));
    assert_eq!(index.reset_pods(vec![pod("b", "u-2", None)]), [added("u-2"), gone("u-1")]);
    assert_eq!((found(&index, "u-1"), found(&index, "u-2")), (Err("unknown"), Ok("b".into())));
}

#[test]
fn relist_ends_what_a_pod_asks_for_no_more() {
    let mut index = Index::default();
    let list = |phase: &str, role: &str| {
        vec![of_web("u-1", "Running", "one"), of_web("u-2", phase, "two"), of_web("u-3", "Running", role)]
    };
    assert_eq!(index.reset_pods(list("Running", "three")), [added("u-1"), added("u-2"), added("u-3")]);
    assert_eq!(index.reset_pods(list("Running", "three")), [], "the same again changes nothing");
    assert_eq!(sorted(index.reset_pods(list("Succeeded", "other"))), [changed("u-2"), changed("u-3")]);
}

#[test]
fn what_is_said_of_a_pod_elsewhere_ends_what_it_was_given() {
    let mut index = Index::default();
    index.reset_pods(vec![pod("default", "u-1", None), of_web("u-2", "Running", "two"), of_web("u-3", "Running", "x")]);
    let (all, of_web): (&[_], &[_]) =
        (&[changed("u-1"), changed("u-2"), changed("u-3")], &[changed("u-2"), changed("u-3")]);
    let none: &[PodChange] = &[];

    assert_eq!(index.apply_namespace(namespace("n", "[\"a\"]")), none, "nothing was given before it was known");
    assert_eq!(index.apply_namespace(namespace("n", "[\"a\"]")), none, "it says the same");
    assert_eq!(sorted(index.apply_namespace(namespace("n", "[\"b\"]"))), all);
    assert_eq!(index.reset_namespaces(vec![namespace("n", "[\"b\"]"), namespace("other", "[]")]), none);
    assert_eq!(index.apply_namespace(namespace("other", "[\"a\"]")), none, "no pod of ours is in it");
    assert_eq!(sorted(index.reset_namespaces(vec![namespace("n", "[\"c\"]")])), all);
    assert_eq!(sorted(index.delete_namespace("n")), all);

    assert_eq!(index.apply_service_account(account("web", "a")), none);
    assert_eq!(index.apply_service_account(account("web", "a")), none);
    assert_eq!(sorted(index.apply_service_account(account("web", "b"))), of_web);
    assert_eq!(index.reset_service_accounts(vec![account("web", "b"), account("unused", "b")]), none);
    assert_eq!(index.apply_service_account(account("unused", "c")), none);
    assert_eq!(sorted(index.reset_service_accounts(vec![account("web", "c")])), of_web);
    assert_eq!(sorted(index.delete_service_account("n", "web")), of_web);
}

#[test]
fn aliases() {
    let mut index = Index::default();
    index.apply_pod(pod("etcd", "u-1", Some(HASH)));
    assert_eq!(found(&index, HASH), Ok("etcd".into()));
    index.apply_pod(pod("liar", "u-2", Some(HASH)));
    assert_eq!(found(&index, HASH), Err("ambiguous"), "two claimants: neither");
    index.delete_pod(&uid("u-2"));
    assert_eq!(found(&index, HASH), Ok("etcd".into()));
    index.apply_pod(pod("real", HASH, None));
    assert_eq!(found(&index, HASH), Ok("real".into()), "a real UID is never shadowed");
}

proptest! {
    /// Compares the index with the simplest possible model: a set of (name, uid).
    #[test]
    fn agrees_with_a_set(steps in proptest::collection::vec((0u8..3, 0usize..4, 0usize..6), 0..60)) {
        let names = ["a", "b", "c", "d"];
        let mut index = Index::default();
        let mut model: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (what, name, id) in steps {
            // A UID never moves to another name.
            let name = if what == 0 { id % names.len() } else { name };
            match what {
                0 => {
                    index.apply_pod(pod(names[name], &format!("u-{id}"), None));
                    model.retain(|(n, _)| *n != name);
                    model.insert((name, id));
                }
                1 => {
                    index.delete_pod(&uid(&format!("u-{id}")));
                    model.retain(|(_, i)| *i != id);
                }
                _ => {
                    index.reset_pods(vec![pod(names[id % names.len()], &format!("u-{id}"), None)]);
                    model = BTreeSet::from([(id % names.len(), id)]);
                }
            }
            for id in 0..6 {
                let expected = model.iter().find(|(_, i)| *i == id).map(|(n, _)| names[*n].to_owned());
                prop_assert_eq!(found(&index, &format!("u-{id}")).ok(), expected);
            }
        }
    }
}
