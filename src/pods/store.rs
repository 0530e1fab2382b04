//! The index as the rest of the daemon sees it: one snapshot to read, one signal to wait on, one writer at a time.

use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::index::Index;
use crate::types::PodUid;

/// Called with every pod that is gone, after readers can no longer see it.
pub type OnGone = Box<dyn Fn(&PodUid) + Send + Sync>;

/// Shared access to the [`Index`].
pub struct Store {
    snapshot: ArcSwap<Index>,
    changed: watch::Sender<u64>,
    writer: Mutex<()>,
    on_gone: OnGone,
}

// === impl Store ===

impl Store {
    /// An empty store.
    pub fn new(on_gone: OnGone) -> Self {
        Self { snapshot: ArcSwap::default(), changed: watch::Sender::new(0), writer: Mutex::new(()), on_gone }
    }

    /// The picture of this moment. Do not hold it across an await: it would show the past.
    pub fn snapshot(&self) -> Guard<Arc<Index>> {
        self.snapshot.load()
    }

    /// Wakes when the picture changes. Subscribe before you look, or the change in between is missed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the picture; `change` returns the pods that are gone by it.
    pub fn update(&self, change: impl FnOnce(&mut Index) -> Vec<PodUid>) {
        let gone = {
            let _one_writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A clone of some hundred `Arc`s: cheap beside the JSON that brought the change, and readers never wait.
            let mut index = Index::clone(&self.snapshot.load());
            let gone = change(&mut index);
            self.snapshot.store(Arc::new(index));
            gone
        };
        self.changed.send_modify(|version| *version += 1);
        gone.iter().for_each(&self.on_gone);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(version {})", *self.changed.borrow())
    }
}
