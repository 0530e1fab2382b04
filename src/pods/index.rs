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

    // What changes the picture returns the stale pods: those whose credentials were asked for on terms that no longer hold. One
    // that is still served gets new ones on the new terms.

    /// A pod was added or changed. Stale: a pod of the same name that this one replaces; this one, if it has ended or asks for
    /// something else than before.
    pub fn apply_pod(&mut self, pod: PodEntry) -> Vec<PodUid> {
        // Equal names and different UIDs are two pods, of which the first has ended without our being told.
        let same_name = |old: &PodEntry| old.name == pod.name && old.namespace == pod.namespace && old.uid != pod.uid;
        let mut stale: Vec<PodUid> =
            self.pods.values().filter(|old| same_name(old)).map(|old| old.uid.clone()).collect();
        for uid in &stale {
            self.pods.remove(uid);
        }
        if self.pods.get(&pod.uid).is_some_and(|old| has_lost(old, &pod)) {
            stale.push(pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), Arc::new(pod));
        self.index_aliases();
        stale
    }

    /// A pod was deleted. `false`: there was none with this UID.
    pub fn delete_pod(&mut self, uid: &PodUid) -> bool {
        let known = self.pods.remove(uid).is_some();
        self.index_aliases();
        known
    }

    /// A new first list: these pods and no others. Stale: those that are gone, have ended or ask for something else than before.
    pub fn reset_pods(&mut self, pods: Vec<PodEntry>) -> Vec<PodUid> {
        let old = std::mem::take(&mut self.pods);
        self.pods = pods.into_iter().map(|pod| (pod.uid.clone(), Arc::new(pod))).collect();
        self.index_aliases();
        let stale = |old: &Arc<PodEntry>| self.pods.get(&old.uid).is_none_or(|new| has_lost(old, new));
        old.into_values().filter(stale).map(|old| old.uid.clone()).collect()
    }

    /// A namespace was added or changed. Stale: the pods in it, if what it says of them has changed.
    pub fn apply_namespace(&mut self, namespace: NamespaceEntry) -> Vec<PodUid> {
        let new = Arc::new(namespace);
        let old = self.namespaces.insert(new.name.clone(), new.clone());
        if old.is_none_or(|old| old == new) { Vec::new() } else { self.pods_of_namespace(&new.name).collect() }
    }

    /// A namespace was deleted. Stale: the pods in it.
    pub fn delete_namespace(&mut self, name: &str) -> Vec<PodUid> {
        self.namespaces.remove(name);
        self.pods_of_namespace(name).collect()
    }

    /// These namespaces and no others. Stale: the pods in those that are gone or have changed.
    pub fn reset_namespaces(&mut self, namespaces: Vec<NamespaceEntry>) -> Vec<PodUid> {
        let new = namespaces.into_iter().map(|ns| (ns.name.clone(), Arc::new(ns))).collect();
        let mut old = std::mem::replace(&mut self.namespaces, new);
        old.retain(|name, old| self.namespaces.get(name) != Some(old));
        old.keys().flat_map(|name| self.pods_of_namespace(name)).collect()
    }

    /// A service account was added or changed. Stale: its pods, if what it says of them has changed.
    pub fn apply_service_account(&mut self, account: ServiceAccountEntry) -> Vec<PodUid> {
        let (key, new) = ((account.namespace.clone(), account.name.clone()), Arc::new(account));
        let old = self.service_accounts.insert(key.clone(), new.clone());
        if old.is_none_or(|old| old == new) { Vec::new() } else { self.pods_of_service_account(&key).collect() }
    }

    /// A service account was deleted. Stale: its pods.
    pub fn delete_service_account(&mut self, namespace: &str, name: &str) -> Vec<PodUid> {
        let key = (namespace.into(), name.into());
        self.service_accounts.remove(&key);
        self.pods_of_service_account(&key).collect()
    }

    /// These service accounts and no others. Stale: the pods of those that are gone or have changed.
    pub fn reset_service_accounts(&mut self, accounts: Vec<ServiceAccountEntry>) -> Vec<PodUid> {
        let key = |account: &ServiceAccountEntry| (account.namespace.clone(), account.name.clone());
        let new = accounts.into_iter().map(|account| (key(&account), Arc::new(account))).collect();
        let mut old = std::mem::replace(&mut self.service_accounts, new);
        old.retain(|key, old| self.service_accounts.get(key) != Some(old));
        old.keys().flat_map(|key| self.pods_of_service_account(key)).collect()
    }

    fn pods_of_namespace(&self, name: &str) -> impl Iterator<Item = PodUid> {
        self.pods().filter(move |pod| *pod.namespace == *name).map(|pod| pod.uid.clone())
    }

    fn pods_of_service_account(&self, (namespace, name): &(Arc<str>, Arc<str>)) -> impl Iterator<Item = PodUid> {
        let its = move |pod: &&Arc<PodEntry>| pod.namespace == *namespace && pod.service_account == *name;
        self.pods().filter(its).map(|pod| pod.uid.clone())
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

/// Whether what `old` was given is of no more use now that the pod is `new`.
fn has_lost(old: &PodEntry, new: &PodEntry) -> bool {
    new.finished || !old.asks_the_same(new)
}

#[cfg(test)]
mod tests;
