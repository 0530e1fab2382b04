//! The index as the rest of the daemon sees it: a snapshot to read, a signal to wait for, and one writer at a time.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::index::{Index, PodChange};

/// A function that is called with each change of a pod and the snapshot that contains the change, once readers see that snapshot.
pub type OnChange = Box<dyn Fn(&Index, &PodChange) + Send + Sync>;

/// Shared access to the [`Index`].
pub struct Store {
    snapshot: ArcSwap<Index>,
    version: watch::Sender<u64>,
    writer: Mutex<()>,
    on_change: OnChange,
}

// === impl Store ===

impl Store {
    /// An empty store.
    pub fn new(on_change: OnChange) -> Self {
        Self { snapshot: ArcSwap::default(), version: watch::Sender::new(0), writer: Mutex::new(()), on_change }
    }

    /// The current snapshot. Do not hold the snapshot across an await, because it goes out of date.
    pub fn snapshot(&self) -> Guard<Arc<Index>> {
        self.snapshot.load()
    }

    /// Wakes when the snapshot changes. Subscribe before you read the snapshot; otherwise you can miss a change in between.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Applies `update` to a copy of the snapshot and publishes the copy, unless nothing has changed. `update` returns the resulting
    /// changes of pods.
    pub fn update(&self, update: impl FnOnce(&mut Index) -> Vec<PodChange>) {
        let (index, changes) = {
            let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let old = self.snapshot.load();
            let mut new = Index::clone(&old);
            let changes = update(&mut new);
            if new.is_same(&old) {
                return;
            }
            new.advance();
            let new = Arc::new(new);
            self.snapshot.store(new.clone());
            (new, changes)
        };
        self.version.send_modify(|version| *version += 1);
        changes.iter().for_each(|change| (self.on_change)(&index, change));
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(version {})", *self.version.borrow())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::pods::convert::{SlimPod, pod_entry};
    use crate::types::PodEntry;

    fn pod(role: &str) -> PodEntry {
        let object: SlimPod = serde_json::from_value(json!({"metadata": {
            "name": "p", "namespace": "n", "uid": "u", "annotations": {"iam.amazonaws.com/role": role}
        }}))
        .unwrap();
        pod_entry(&object).unwrap()
    }

    #[test]
    fn only_a_change_is_published() {
        let told = Arc::new(AtomicUsize::new(0));
        let counted = told.clone();
        let store = Store::new(Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        let mut changes = store.changes();
        let mut is_published = |entry: PodEntry| {
            store.update(|index| index.apply_pod(entry));
            let published = changes.has_changed().unwrap();
            changes.borrow_and_update();
            published
        };
        assert!(is_published(pod("web")));
        assert!(!is_published(pod("web")), "an equal object");
        assert!(is_published(pod("other")));
        assert_eq!(told.load(Ordering::SeqCst), 2);
    }
}
