//! The objects, their history, and changes that are not visible yet.
//!
//! A change gets its resource version when it becomes visible, so the history is always in order, even with delayed
//! objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::resources::Kind;
use super::status::Status;
use crate::http::random;

/// Number of changes that are kept; older ones are compacted, as etcd does every five minutes.
const REMEMBERED: usize = 50_000;

/// The key of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) plural: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(kind: &Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced { namespace } else { "" };
        Self { plural: kind.plural, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn of(kind: &Kind, object: &Value) -> Self {
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        Self::new(kind, field("namespace"), field("name"))
    }
}

/// A visible change.
pub(super) struct Entry {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) old: Option<Arc<Value>>,
    pub(super) new: Option<Arc<Value>>,
    /// When the change became visible.
    pub(super) at: Instant,
}

/// A pending change.
pub(super) enum Change {
    Put(Key, Value),
    Delete(Key),
}

impl Change {
    fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// The whole store.
#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    log: Vec<Entry>,
    version: u64,
    compacted: u64,
    pending: Vec<(Instant, Change)>,
    /// Delays by UID, name, or `namespace/name`.
    pub(super) delays: HashMap<String, Duration>,
}

impl Store {
    /// The current resource version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Fails if the history since this resource version was compacted.
    pub(super) fn remembers(&self, version: u64) -> Result<(), Status> {
        if version < self.compacted { Err(Status::expired(version, self.compacted)) } else { Ok(()) }
    }

    /// The object as currently visible.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// The object as it will be once all pending changes are visible.
    pub(super) fn latest(&self, key: &Key) -> Option<Arc<Value>> {
        let pending = self.pending.iter().rev().map(|(_, change)| change).find(|change| change.key() == key);
        match pending {
            Some(Change::Put(_, object)) => Some(Arc::new(object.clone())),
            Some(Change::Delete(_)) => None,
            None => self.get(key),
        }
    }

    /// All visible objects of a kind.
    pub(super) fn present(&self, plural: &'static str) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.iter().filter(move |(key, _)| key.plural == plural).map(|(_, object)| object)
    }

    /// The objects visible at a version, in key order.
    pub(super) fn at(&self, version: u64) -> BTreeMap<Key, Arc<Value>> {
        let mut objects = self.objects.clone();
        for entry in self.log.iter().rev().take_while(|entry| entry.version > version) {
            match &entry.old {
                Some(old) => objects.insert(entry.key.clone(), Arc::clone(old)),
                None => objects.remove(&entry.key),
            };
        }
        objects
    }

    /// The first change after a version.
    pub(super) fn after(&self, version: u64) -> Option<&Entry> {
        self.log.get(self.log.partition_point(|entry| entry.version <= version))
    }

    /// Forgets all history. The version increases, so that every version known to a client is too old.
    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
    }

    /// Creates or replaces an object. `expected` is the version on which the client's change is based.
    pub(super) fn put(
        &mut self,
        kind: &Kind,
        mut object: Value,
        expected: Option<&str>,
        now: Instant,
    ) -> Result<Value, Status> {
        if !object["metadata"].is_object() || !named(&mut object) {
            return Err(Status::new(422, format!("{} \"\" is invalid: metadata.name: Required value", kind.kind)));
        }
        if kind.namespaced && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            object["metadata"]["namespace"] = json!("default");
        }
        let key = Key::of(kind, &object);
        let present = self.latest(&key);
        if let (Some(present), Some(expected)) = (&present, expected)
            && present["metadata"]["resourceVersion"].as_str() != Some(expected)
        {
            return Err(Status::conflict(&kind.resource(), &key.name));
        }
        fill(&mut object, present.as_deref());
        if let Some(present) = &present {
            object["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
            if **present == object {
                return Ok(object);
            }
            if present["metadata"]["uid"] != object["metadata"]["uid"] {
                self.submit(Change::Delete(key.clone()), now);
            }
        }
        let due = self.submit(Change::Put(key.clone(), object.clone()), now);
        let visible = due.is_none().then(|| self.get(&key)).flatten();
        Ok(visible.map_or(object, |object| Value::clone(&object)))
    }

    /// Makes a change visible now or later. If later, returns when.
    pub(super) fn submit(&mut self, change: Change, now: Instant) -> Option<Instant> {
        self.publish_due(now);
        let delay = self.delay(&change);
        // A change never overtakes an earlier change of the same object.
        let waiting =
            self.pending.iter().filter(|(_, waiting)| waiting.key() == change.key()).map(|(due, _)| *due).max();
        let due = waiting.max(delay.map(|delay| now + delay));
        match due {
            Some(due) => self.pending.push((due, change)),
            None => self.publish(change, now),
        }
        due
    }

    /// When the next pending change becomes visible.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.iter().map(|(due, _)| *due).min()
    }

    /// Makes due changes visible. Returns whether there were any.
    pub(super) fn publish_due(&mut self, now: Instant) -> bool {
        if self.next_due().is_none_or(|due| due > now) {
            return false;
        }
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(due, _)| *due <= now);
        self.pending = later;
        // A stable sort keeps the order of changes to one object that are due at the same time.
        due.sort_by_key(|(due, _)| *due);
        for (at, change) in due {
            self.publish(change, at);
        }
        true
    }

    fn delay(&self, change: &Change) -> Option<Duration> {
        if self.delays.is_empty() {
            return None;
        }
        let key = change.key();
        let object = self.latest(key);
        let uid = match change {
            Change::Put(_, object) => object["metadata"]["uid"].as_str(),
            Change::Delete(_) => object.as_ref().and_then(|object| object["metadata"]["uid"].as_str()),
        };
        let full = format!("{}/{}", key.namespace, key.name);
        let names = [uid, Some(key.name.as_str()), Some(full.as_str())];
        names
            .into_iter()
            .flatten()
            .filter_map(|name| self.delays.get(name))
            .max()
            .copied()
            .filter(|delay| !delay.is_zero())
    }

    fn publish(&mut self, change: Change, at: Instant) {
        let version = self.version + 1;
        let (key, old, new) = match change {
            Change::Put(key, mut object) => {
                object["metadata"]["resourceVersion"] = json!(version.to_string());
                let object = Arc::new(object);
                (key.clone(), self.objects.insert(key, Arc::clone(&object)), Some(object))
            }
            Change::Delete(key) => {
                // The object was deleted twice while the first deletion was pending; nothing changes.
                let Some(old) = self.objects.remove(&key) else { return };
                (key, Some(old), None)
            }
        };
        self.version = version;
        self.log.push(Entry { version, key, old, new, at });
        if self.log.len() >= 2 * REMEMBERED {
            let forgotten = self.log.drain(..REMEMBERED).next_back();
            self.compacted = forgotten.map_or(self.compacted, |entry| entry.version.max(self.compacted));
        }
    }
}

/// Names an object that has `generateName`. Returns false if it has neither a name nor `generateName`.
fn named(object: &mut Value) -> bool {
    let metadata = &mut object["metadata"];
    if metadata["name"].as_str().is_some_and(|name| !name.is_empty()) {
        return true;
    }
    let Some(prefix) = metadata["generateName"].as_str() else { return false };
    metadata["name"] = json!(format!("{prefix}{}", random::text(b"bcdfghjklmnpqrstvwxz2456789", 5)));
    true
}

/// Sets the fields that the server owns: UID and creation time. A change keeps them unless it names another UID.
fn fill(object: &mut Value, present: Option<&Value>) {
    let metadata = &mut object["metadata"];
    let given = metadata["uid"].as_str();
    let same = present.filter(|present| given.is_none_or(|uid| present["metadata"]["uid"].as_str() == Some(uid)));
    if given.is_none() {
        metadata["uid"] = same.map_or_else(|| json!(random::uuid()), |present| present["metadata"]["uid"].clone());
    }
    if metadata["creationTimestamp"].as_str().is_none() {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        metadata["creationTimestamp"] =
            same.map_or_else(|| json!(now), |present| present["metadata"]["creationTimestamp"].clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, more: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": more}})
    }

    fn versions(store: &Store) -> Vec<(u64, &str, bool)> {
        store.log.iter().map(|entry| (entry.version, entry.key.name.as_str(), entry.new.is_some())).collect()
    }

    #[test]
    fn keeps_identity_and_recreates_on_another_uid() {
        let (mut store, now) = (Store::default(), Instant::now());
        let kind = Kind::named("pods").unwrap();
        let first = store.put(kind, pod("a", "n1"), None, now).unwrap();
        assert_eq!(store.put(kind, pod("a", "n1"), None, now).unwrap(), first, "no change, no event");
        let second = store.put(kind, pod("a", "n2"), None, now).unwrap();
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_eq!(store.put(kind, pod("a", "n3"), Some("1"), now).unwrap_err().code, 409);
        let mut other = pod("a", "n2");
        other["metadata"]["uid"] = json!("u2");
        store.put(kind, other, None, now).unwrap();
        assert_eq!(versions(&store), [(1, "a", true), (2, "a", true), (3, "a", false), (4, "a", true)]);
        assert_eq!(store.at(1).values().next().unwrap()["spec"]["nodeName"], "n1");
        assert!(store.at(3).is_empty());
        assert_eq!(store.after(2).unwrap().version, 3);
    }

    #[test]
    fn delayed_changes_come_late_and_in_order() {
        let (mut store, now) = (Store::default(), Instant::now());
        let kind = Kind::named("pods").unwrap();
        store.delays.insert("slow".to_owned(), Duration::from_secs(5));
        store.put(kind, pod("slow", "1"), None, now).unwrap();
        store.put(kind, pod("quick", "1"), None, now).unwrap();
        store.delays.clear();
        store.put(kind, pod("slow", "2"), None, now).unwrap();
        assert_eq!(versions(&store), [(1, "quick", true)]);
        assert_eq!(store.latest(&Key::new(kind, "default", "slow")).unwrap()["spec"]["nodeName"], "2");
        assert!(!store.publish_due(now + Duration::from_secs(4)));
        assert!(store.publish_due(now + Duration::from_secs(5)));
        assert_eq!(versions(&store), [(1, "quick", true), (2, "slow", true), (3, "slow", true)]);
        assert_eq!(store.next_due(), None);
        assert!(store.remembers(1).is_ok());
        store.compact();
        assert_eq!(store.remembers(3).unwrap_err().code, 410);
        assert!(store.remembers(4).is_ok());
    }
}
