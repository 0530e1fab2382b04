//! The index as the rest of the daemon sees it: one snapshot to read, one signal to wait on, one writer at a time.

use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::index::Index;
use crate::types::PodUid;

/// Called with every pod whose credentials were asked for on terms that no longer hold, after readers see the new ones: it is gone,
/// has ended or asks for something else, or its namespace or service account says something else of it.
pub type OnStale = Box<dyn Fn(&PodUid) + Send + Sync>;

/// Shared access to the [`Index`].
pub struct Store {
    snapshot: ArcSwap<Index>,
    changed: watch::Sender<u64>,
    writer: Mutex<()>,
    on_stale: OnStale,
}

// === impl Store ===

impl Store {
    /// An empty store.
    pub fn new(on_stale: OnStale) -> Self {
        Self { snapshot: ArcSwap::default(), changed: watch::Sender::new(0), writer: Mutex::new(()), on_stale }
    }

    /// The picture of this moment. Do not hold it across an await: it would show the past.
    pub fn snapshot(&self) -> Guard<Arc<Index>> {
        self.snapshot.load()
    }

    /// Wakes when the picture changes. Subscribe before you look, or the change in between is missed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the picture; `change` returns the pods that are stale by it.
    pub fn update(&self, change: impl FnOnce(&mut Index) -> Vec<PodUid>) {
        let stale = {
            let _one_writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A clone of some hundred `Arc`s: cheap beside the JSON that brought the change, and readers never wait.
            let mut index = Index::clone(&self.snapshot.load());
            let stale = change(&mut index);
            self.snapshot.store(Arc::new(index));
            stale
        };
        self.changed.send_modify(|version| *version += 1);
        stale.iter().for_each(&self.on_stale);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(version {})", *self.changed.borrow())
    }
}
