//! Which pods, namespaces and service accounts exist, by the keys a request can be answered with. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{NamespaceEntry, PodEntry, PodUid, ServiceAccountEntry};

/// One consistent picture. A relist replaces it whole, so no reader ever sees a half-filled one.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pods: HashMap<PodUid, Arc<PodEntry>>,
    /// Static pods by the UID their cgroups carry. Where several claim one, some of them lie, so none is believed.
    aliases: HashMap<PodUid, Vec<PodUid>>,
    namespaces: HashMap<Arc<str>, Arc<NamespaceEntry>>,
    service_accounts: HashMap<(Arc<str>, Arc<str>), Arc<ServiceAccountEntry>>,
}

/// Whom a UID from a cgroup belongs to.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// This pod.
    Found(&'a Arc<PodEntry>),
    /// Nobody that the watch has shown yet.
    Unknown,
    /// More than one pod says so: these.
    Ambiguous(Vec<&'a Arc<PodEntry>>),
}

// === impl Index ===

impl Index {
    /// The pod whose cgroup carries `uid`. A real UID always wins over an alias.
    pub fn pod(&self, uid: &PodUid) -> Lookup<'_> {
        if let Some(pod) = self.pods.get(uid) {
            return Lookup::Found(pod);
        }
        let claimants = self.aliases.get(uid).map_or(&[][..], Vec::as_slice);
        let mut claimants: Vec<_> = claimants.iter().filter_map(|uid| self.pods.get(uid)).collect();
        match (claimants.pop(), claimants.is_empty()) {
            (None, _) => Lookup::Unknown,
            (Some(only), true) => Lookup::Found(only),
            (Some(last), false) => {
                claimants.push(last);
                Lookup::Ambiguous(claimants)
            }
        }
    }

    /// The namespace, once it has been seen.
    pub fn namespace(&self, name: &str) -> Option<&Arc<NamespaceEntry>> {
        self.namespaces.get(name)
    }

    /// The service account, once it has been seen.
    pub fn service_account(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<ServiceAccountEntry>> {
        self.service_accounts.get(&(namespace.clone(), name.clone()))
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodEntry>> {
        self.pods.values()
    }

    /// A pod was added or changed. Returns the UIDs whose credentials are no longer of use: a pod of the same name that this one
    /// replaces; this one, if it has ended or asks for something else than before.
    pub fn apply_pod(&mut self, pod: PodEntry) -> Vec<PodUid> {
        // Equal names and different UIDs are two pods, of which the first has ended without our being told.
        let same_name = |old: &PodEntry| old.name == pod.name && old.namespace == pod.namespace && old.uid != pod.uid;
        let mut gone: Vec<PodUid> =
            self.pods.values().filter(|old| same_name(old)).map(|old| old.uid.clone()).collect();
        for uid in &gone {
            self.pods.remove(uid);
        }
        let uid = pod.uid.clone();
        let ended = pod.finished;
        let old = self.pods.insert(uid.clone(), Arc::new(pod));
        if ended || old.is_some_and(|old| !old.asks_the_same(&self.pods[&uid])) {
            gone.push(uid);
        }
        self.index_aliases();
        gone
    }

    /// A pod was deleted. `false`: there was none with this UID.
    pub fn delete_pod(&mut self, uid: &PodUid) -> bool {
        let known = self.pods.remove(uid).is_some();
        self.index_aliases();
        known
    }

    /// A new first list: these pods and no others. Returns the UIDs that are gone.
    pub fn reset_pods(&mut self, pods: Vec<PodEntry>) -> Vec<PodUid> {
        let old = std::mem::take(&mut self.pods);
        self.pods = pods.into_iter().map(|pod| (pod.uid.clone(), Arc::new(pod))).collect();
        self.index_aliases();
        old.into_keys().filter(|uid| !self.pods.contains_key(uid)).collect()
    }

    /// A namespace was added or changed.
    pub fn apply_namespace(&mut self, namespace: NamespaceEntry) {
        self.namespaces.insert(namespace.name.clone(), Arc::new(namespace));
    }

    /// A namespace was deleted.
    pub fn delete_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// These namespaces and no others.
    pub fn reset_namespaces(&mut self, namespaces: Vec<NamespaceEntry>) {
        self.namespaces = namespaces.into_iter().map(|ns| (ns.name.clone(), Arc::new(ns))).collect();
    }

    /// A service account was added or changed.
    pub fn apply_service_account(&mut self, account: ServiceAccountEntry) {
        self.service_accounts.insert((account.namespace.clone(), account.name.clone()), Arc::new(account));
    }

    /// A service account was deleted.
    pub fn delete_service_account(&mut self, namespace: &str, name: &str) {
        self.service_accounts.remove(&(namespace.into(), name.into()));
    }

    /// These service accounts and no others.
    pub fn reset_service_accounts(&mut self, accounts: Vec<ServiceAccountEntry>) {
        self.service_accounts.clear();
        accounts.into_iter().for_each(|account| self.apply_service_account(account));
    }

    /// From scratch at every change: a handful of static pods a node is not worth bookkeeping that can drift.
    fn index_aliases(&mut self) {
        self.aliases.clear();
        for pod in self.pods.values() {
            if let Some(alias) = &pod.cgroup_uid {
                self.aliases.entry(alias.clone()).or_default().push(pod.uid.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::pods::convert::{SlimPod, pod_entry};

    fn pod(name: &str, uid: &str, mirror: Option<&str>) -> PodEntry {
        let object: SlimPod = serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "n", "uid": uid,
            "annotations": mirror.map_or_else(|| json!({}), |hash| json!({"kubernetes.io/config.mirror": hash}))
        }}))
        .unwrap();
        pod_entry(&object).unwrap()
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
        assert!(index.apply_pod(pod("web-0", "u-1", None)).is_empty());
        assert_eq!(index.apply_pod(pod("web-0", "u-2", None)), [uid("u-1")]);
        assert_eq!(found(&index, "u-1"), Err("unknown"));
        assert_eq!(found(&index, "u-2"), Ok("web-0".into()));
        assert!(!index.delete_pod(&uid("u-1")), "a late delete of the old one leaves the new one");
        assert_eq!(found(&index, "u-2"), Ok("web-0".into()));
    }

    #[test]
    fn relist_without_a_pod_removes_it() {
        let mut index = Index::default();
        index.apply_pod(pod("a", "u-1", None));
        assert_eq!(index.reset_pods(vec![pod("b", "u-2", None)]), [uid("u-1")]);
        assert_eq!((found(&index, "u-1"), found(&index, "u-2")), (Err("unknown"), Ok("b".into())));
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
        /// Against the simplest model there is: a set of (name, uid).
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((0u8..3, 0usize..4, 0usize..6), 0..60)) {
            let names = ["a", "b", "c", "d"];
            let mut index = Index::default();
            let mut model: BTreeSet<(usize, usize)> = BTreeSet::new();
            for (what, name, id) in steps {
                // A UID belongs to one name for ever.
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
}
