//! The index as the rest of the daemon sees it: a snapshot to read, a signal to wait for, one writer at a time.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::index::{Index, PodChange};

/// Called with each change of a pod, after readers see the new snapshot.
pub type OnChange = Box<dyn Fn(&PodChange) + Send + Sync>;

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

    /// The current snapshot. Do not hold it across an await: it goes out of date.
    pub fn snapshot(&self) -> Guard<Arc<Index>> {
        self.snapshot.load()
    }

    /// Wakes when the snapshot changes. Subscribe before you read the snapshot, or you miss a change in between.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Replaces the snapshot by one to which `update` has been applied; `update` returns what it means for pods.
    pub fn update(&self, update: impl FnOnce(&mut Index) -> Vec<PodChange>) {
        let changes = {
            let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // A clone of a few hundred `Arc`s is cheap compared with the JSON that brought the change, and readers never wait.
            let mut index = Index::clone(&self.snapshot.load());
            let changes = update(&mut index);
            self.snapshot.store(Arc::new(index));
            changes
        };
        self.version.send_modify(|version| *version += 1);
        changes.iter().for_each(&self.on_change);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(version {})", *self.version.borrow())
    }
}
