//! Which pods, namespaces and service accounts exist, by the keys that requests are answered with. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{NamespaceEntry, PodEntry, PodUid, ServiceAccountEntry};

/// One consistent snapshot of the watched objects. A relist replaces it as a whole, so no reader ever sees a partial list.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pods: HashMap<PodUid, Arc<PodEntry>>,
    /// Static pods by the UID that their cgroups carry. If several pods claim one UID, at least one of them is false, so the index
    /// believes none.
    aliases: HashMap<PodUid, Vec<PodUid>>,
    namespaces: HashMap<Arc<str>, Arc<NamespaceEntry>>,
    service_accounts: HashMap<(Arc<str>, Arc<str>), Arc<ServiceAccountEntry>>,
}

/// The pod that a cgroup's UID belongs to.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// This pod.
    Found(&'a Arc<PodEntry>),
    /// No pod that the watch has shown yet.
    Unknown,
    /// These pods all claim the UID.
    Ambiguous(Vec<&'a Arc<PodEntry>>),
}

/// What an update of the index means for one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodChange {
    /// The pod.
    pub uid: PodUid,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What can happen to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The pod is new in the index.
    Added,
    /// Something that decides the pod's credentials has changed: it has finished, it asks for something else, or its namespace or
    /// service account has changed. What it was given must not be refreshed on the old terms.
    Changed,
    /// The pod has been deleted, or another pod of the same name has replaced it.
    Gone,
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

    /// The namespace, once the watch has shown it.
    pub fn namespace(&self, name: &str) -> Option<&Arc<NamespaceEntry>> {
        self.namespaces.get(name)
    }

    /// The service account, once the watch has shown it.
    pub fn service_account(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<ServiceAccountEntry>> {
        self.service_accounts.get(&(namespace.clone(), name.clone()))
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodEntry>> {
        self.pods.values()
    }

    // Every update returns what it means for pods, at most one change per pod.

    /// Adds or replaces a pod. A pod of the same name with another UID is gone: its deletion was missed.
    pub fn apply_pod(&mut self, pod: PodEntry) -> Vec<PodChange> {
        let same_name = |old: &PodEntry| old.name == pod.name && old.namespace == pod.namespace && old.uid != pod.uid;
        let replaced: Vec<PodUid> =
            self.pods.values().filter(|old| same_name(old)).map(|old| old.uid.clone()).collect();
        for uid in &replaced {
            self.pods.remove(uid);
        }
        let mut changes: Vec<PodChange> = replaced.into_iter().map(PodChange::gone).collect();
        let pod = Arc::new(pod);
        let old = self.pods.insert(pod.uid.clone(), pod.clone());
        changes.extend(change_between(old.as_deref(), &pod));
        self.index_aliases();
        changes
    }

    /// Deletes a pod. No change if there is none with this UID.
    pub fn delete_pod(&mut self, uid: &PodUid) -> Vec<PodChange> {
        let deleted = self.pods.remove(uid);
        self.index_aliases();
        deleted.map(|pod| PodChange::gone(pod.uid.clone())).into_iter().collect()
    }

    /// Replaces all pods by a new list.
    pub fn reset_pods(&mut self, pods: Vec<PodEntry>) -> Vec<PodChange> {
        let mut old = std::mem::take(&mut self.pods);
        let mut changes = Vec::new();
        for pod in pods {
            changes.extend(change_between(old.remove(&pod.uid).as_deref(), &pod));
            self.pods.insert(pod.uid.clone(), Arc::new(pod));
        }
        changes.extend(old.into_keys().map(PodChange::gone));
        self.index_aliases();
        changes
    }

    /// Adds or replaces a namespace.
    pub fn apply_namespace(&mut self, namespace: NamespaceEntry) -> Vec<PodChange> {
        let new = Arc::new(namespace);
        let old = self.namespaces.insert(new.name.clone(), new.clone());
        // Nothing was granted before the namespace was known.
        if old.is_none_or(|old| old == new) { Vec::new() } else { self.pods_of_namespace(&new.name).collect() }
    }

    /// Deletes a namespace.
    pub fn delete_namespace(&mut self, name: &str) -> Vec<PodChange> {
        self.namespaces.remove(name);
        self.pods_of_namespace(name).collect()
    }

    /// Replaces all namespaces by a new list.
    pub fn reset_namespaces(&mut self, namespaces: Vec<NamespaceEntry>) -> Vec<PodChange> {
        let new = namespaces.into_iter().map(|namespace| (namespace.name.clone(), Arc::new(namespace))).collect();
        let mut old = std::mem::replace(&mut self.namespaces, new);
        old.retain(|name, old| self.namespaces.get(name) != Some(old));
        old.keys().flat_map(|name| self.pods_of_namespace(name)).collect()
    }

    /// Adds or replaces a service account.
    pub fn apply_service_account(&mut self, account: ServiceAccountEntry) -> Vec<PodChange> {
        let (key, new) = ((account.namespace.clone(), account.name.clone()), Arc::new(account));
        let old = self.service_accounts.insert(key.clone(), new.clone());
        if old.is_none_or(|old| old == new) { Vec::new() } else { self.pods_of_service_account(&key).collect() }
    }

    /// Deletes a service account.
    pub fn delete_service_account(&mut self, namespace: &str, name: &str) -> Vec<PodChange> {
        let key = (namespace.into(), name.into());
        self.service_accounts.remove(&key);
        self.pods_of_service_account(&key).collect()
    }

    /// Replaces all service accounts by a new list.
    pub fn reset_service_accounts(&mut self, accounts: Vec<ServiceAccountEntry>) -> Vec<PodChange> {
        let key = |account: &ServiceAccountEntry| (account.namespace.clone(), account.name.clone());
        let new = accounts.into_iter().map(|account| (key(&account), Arc::new(account))).collect();
        let mut old = std::mem::replace(&mut self.service_accounts, new);
        old.retain(|key, old| self.service_accounts.get(key) != Some(old));
        old.keys().flat_map(|key| self.pods_of_service_account(key)).collect()
    }

    fn pods_of_namespace(&self, name: &str) -> impl Iterator<Item = PodChange> {
        self.pods().filter(move |pod| *pod.namespace == *name).map(|pod| PodChange::changed(pod.uid.clone()))
    }

    fn pods_of_service_account(&self, (namespace, name): &(Arc<str>, Arc<str>)) -> impl Iterator<Item = PodChange> {
        let uses_it = move |pod: &&Arc<PodEntry>| pod.namespace == *namespace && pod.service_account == *name;
        self.pods().filter(uses_it).map(|pod| PodChange::changed(pod.uid.clone()))
    }

    /// Rebuilds the aliases after every change: a node has a handful of static pods, and a rebuilt map cannot drift.
    fn index_aliases(&mut self) {
        self.aliases.clear();
        for pod in self.pods.values() {
            if let Some(alias) = &pod.cgroup_uid {
                self.aliases.entry(alias.clone()).or_default().push(pod.uid.clone());
            }
        }
    }
}

fn change_between(old: Option<&PodEntry>, new: &PodEntry) -> Option<PodChange> {
    let kind = match old {
        None => ChangeKind::Added,
        Some(old) if new.finished || !old.asks_the_same(new) => ChangeKind::Changed,
        Some(_) => return None,
    };
    Some(PodChange { uid: new.uid.clone(), kind })
}

// === impl PodChange ===

impl PodChange {
    fn changed(uid: PodUid) -> Self {
        Self { uid, kind: ChangeKind::Changed }
    }

    fn gone(uid: PodUid) -> Self {
        Self { uid, kind: ChangeKind::Gone }
    }
}

#[cfg(test)]
mod tests;
