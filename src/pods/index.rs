//! The index of existing pods, namespaces and service accounts, by the keys that podrole needs to answer requests. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{NamespaceEntry, PodEntry, PodUid, ServiceAccountEntry};

/// One consistent snapshot of the watched objects. A relist replaces it as a whole, so no reader ever sees a partial list.
///
/// Snapshots share their unchanged maps: a clone costs four reference counts, and an update copies only the map that it changes.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pods: Arc<HashMap<PodUid, Arc<PodEntry>>>,
    /// Static pods by the UID that their cgroups carry. If several pods claim one UID, at least one of the claims is false, so the
    /// index trusts none of them.
    aliases: Arc<HashMap<PodUid, Vec<PodUid>>>,
    namespaces: Arc<HashMap<Arc<str>, Arc<NamespaceEntry>>>,
    /// The service accounts, by namespace. A large cluster has tens of thousands of service accounts, and an update copies only
    /// those of one namespace.
    service_accounts: Arc<HashMap<Arc<str>, AccountsByName>>,
    version: u64,
}

type AccountsByName = Arc<HashMap<Arc<str>, Arc<ServiceAccountEntry>>>;

/// The pod that a cgroup's UID belongs to.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// The UID belongs to this pod.
    Found(&'a Arc<PodEntry>),
    /// The watch has not shown such a pod yet.
    Unknown,
    /// These pods all claim the UID.
    Ambiguous(Vec<&'a Arc<PodEntry>>),
}

/// What an update of the index means for one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodChange {
    /// The pod.
    pub uid: PodUid,
    /// The change of the pod.
    pub kind: ChangeKind,
}

/// The kinds of changes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The pod is new in the index.
    Added,
    /// An input of the pod's decision has changed: the pod has finished, its annotations request something else, or its namespace
    /// or service account has changed. podrole must not refresh the pod's credentials according to the old decision.
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
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceAccountEntry>> {
        self.service_accounts.get(namespace)?.get(name)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodEntry>> {
        self.pods.values()
    }

    /// The version of the snapshot. Every published snapshot has a higher version than the one before.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Increases the version, which marks this snapshot as the successor of the published one.
    pub fn advance(&mut self) {
        self.version += 1;
    }

    /// Whether this snapshot and `other` share the same three maps of objects, which is the case after an update that
    /// changed nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pods, &other.pods)
            && Arc::ptr_eq(&self.namespaces, &other.namespaces)
            && Arc::ptr_eq(&self.service_accounts, &other.service_accounts)
    }

    // Every update returns the resulting changes of pods, at most one per pod. An object that is equal to the known one changes
    // nothing; API servers send many such events.

    /// Adds or replaces a pod. A pod of the same name with another UID is gone: its deletion was missed.
    pub fn apply_pod(&mut self, pod: PodEntry) -> Vec<PodChange> {
        let same_name = |old: &PodEntry| old.name == pod.name && old.namespace == pod.namespace && old.uid != pod.uid;
        let replaced: Vec<PodUid> =
            self.pods.values().filter(|old| same_name(old)).map(|old| old.uid.clone()).collect();
        let old = self.pods.get(&pod.uid);
        if replaced.is_empty() && old.is_some_and(|old| **old == pod) {
            return Vec::new();
        }
        let change = change_between(old.map(|old| &**old), &pod);
        let pods = Arc::make_mut(&mut self.pods);
        pods.retain(|uid, _| !replaced.contains(uid));
        pods.insert(pod.uid.clone(), Arc::new(pod));
        self.index_aliases();
        replaced.into_iter().map(PodChange::gone).chain(change).collect()
    }

    /// Deletes a pod. Nothing changes if no pod has this UID.
    pub fn delete_pod(&mut self, uid: &PodUid) -> Vec<PodChange> {
        if !self.pods.contains_key(uid) {
            return Vec::new();
        }
        Arc::make_mut(&mut self.pods).remove(uid);
        self.index_aliases();
        vec![PodChange::gone(uid.clone())]
    }

    /// Replaces all pods with a new list.
    pub fn reset_pods(&mut self, pods: Vec<PodEntry>) -> Vec<PodChange> {
        let old = std::mem::take(&mut self.pods);
        let mut changes = Vec::new();
        let mut new = HashMap::with_capacity(pods.len());
        for pod in pods {
            let known = old.get(&pod.uid);
            changes.extend(change_between(known.map(|known| &**known), &pod));
            new.insert(pod.uid.clone(), kept(known, pod));
        }
        changes.extend(old.keys().filter(|uid| !new.contains_key(uid)).cloned().map(PodChange::gone));
        self.pods = Arc::new(new);
        self.index_aliases();
        changes
    }

    /// Adds or replaces a namespace.
    pub fn apply_namespace(&mut self, namespace: NamespaceEntry) -> Vec<PodChange> {
        let old = self.namespaces.get(&namespace.name);
        if old.is_some_and(|old| **old == namespace) {
            return Vec::new();
        }
        // Nothing was granted before the namespace was known, so a new namespace changes no pod.
        let was_known = old.is_some();
        let name = namespace.name.clone();
        Arc::make_mut(&mut self.namespaces).insert(name.clone(), Arc::new(namespace));
        if was_known { self.pods_of_namespace(&name).collect() } else { Vec::new() }
    }

    /// Deletes a namespace.
    pub fn delete_namespace(&mut self, name: &str) -> Vec<PodChange> {
        if !self.namespaces.contains_key(name) {
            return Vec::new();
        }
        Arc::make_mut(&mut self.namespaces).remove(name);
        self.pods_of_namespace(name).collect()
    }

    /// Replaces all namespaces with a new list.
    pub fn reset_namespaces(&mut self, namespaces: Vec<NamespaceEntry>) -> Vec<PodChange> {
        let old = std::mem::take(&mut self.namespaces);
        let entries = namespaces.into_iter().map(|new| (new.name.clone(), kept(old.get(&new.name), new)));
        self.namespaces = Arc::new(entries.collect());
        let differs = |(name, entry): &(&Arc<str>, &Arc<NamespaceEntry>)| self.namespaces.get(*name) != Some(entry);
        old.iter().filter(differs).flat_map(|(name, _)| self.pods_of_namespace(name)).collect()
    }

    /// Adds or replaces a service account.
    pub fn apply_service_account(&mut self, account: ServiceAccountEntry) -> Vec<PodChange> {
        let old = self.service_account(&account.namespace, &account.name);
        if old.is_some_and(|old| **old == account) {
            return Vec::new();
        }
        let was_known = old.is_some();
        let (namespace, name) = (account.namespace.clone(), account.name.clone());
        let of_namespace = Arc::make_mut(&mut self.service_accounts).entry(namespace.clone()).or_default();
        Arc::make_mut(of_namespace).insert(name.clone(), Arc::new(account));
        if was_known { self.pods_of_service_account(&namespace, &name).collect() } else { Vec::new() }
    }

    /// Deletes a service account.
    pub fn delete_service_account(&mut self, namespace: &str, name: &str) -> Vec<PodChange> {
        if self.service_account(namespace, name).is_none() {
            return Vec::new();
        }
        let all = Arc::make_mut(&mut self.service_accounts);
        if let Some(of_namespace) = all.get_mut(namespace) {
            let of_namespace = Arc::make_mut(of_namespace);
            of_namespace.remove(name);
            if of_namespace.is_empty() {
                all.remove(namespace);
            }
        }
        self.pods_of_service_account(namespace, name).collect()
    }

    /// Replaces all service accounts with a new list.
    pub fn reset_service_accounts(&mut self, accounts: Vec<ServiceAccountEntry>) -> Vec<PodChange> {
        let old = std::mem::take(&mut self.service_accounts);
        let mut new: HashMap<Arc<str>, HashMap<Arc<str>, Arc<ServiceAccountEntry>>> = HashMap::new();
        for account in accounts {
            let known = old.get(&account.namespace).and_then(|of_namespace| of_namespace.get(&account.name));
            let (namespace, name) = (account.namespace.clone(), account.name.clone());
            new.entry(namespace).or_default().insert(name, kept(known, account));
        }
        self.service_accounts = Arc::new(new.into_iter().map(|(name, accounts)| (name, Arc::new(accounts))).collect());
        old.values()
            .flat_map(|of_namespace| of_namespace.values())
            .filter(|old| self.service_account(&old.namespace, &old.name) != Some(*old))
            .flat_map(|old| self.pods_of_service_account(&old.namespace, &old.name))
            .collect()
    }

    fn pods_of_namespace(&self, name: &str) -> impl Iterator<Item = PodChange> {
        self.pods().filter(move |pod| *pod.namespace == *name).map(|pod| PodChange::changed(pod.uid.clone()))
    }

    fn pods_of_service_account(&self, namespace: &str, name: &str) -> impl Iterator<Item = PodChange> {
        let uses_it = move |pod: &&Arc<PodEntry>| *pod.namespace == *namespace && *pod.service_account == *name;
        self.pods().filter(uses_it).map(|pod| PodChange::changed(pod.uid.clone()))
    }

    /// Rebuilds the aliases after every change. This is cheap, because a node has only a handful of static pods, and a rebuilt map
    /// cannot drift.
    fn index_aliases(&mut self) {
        let mut aliases: HashMap<PodUid, Vec<PodUid>> = HashMap::new();
        for pod in self.pods.values() {
            if let Some(alias) = &pod.cgroup_uid {
                aliases.entry(alias.clone()).or_default().push(pod.uid.clone());
            }
        }
        self.aliases = Arc::new(aliases);
    }
}

/// The entry to keep for an object of a new list: the known one if it is equal, so that values derived from the known entry stay
/// valid.
fn kept<T: PartialEq>(known: Option<&Arc<T>>, new: T) -> Arc<T> {
    match known {
        Some(known) if **known == new => known.clone(),
        Some(_) | None => Arc::new(new),
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
