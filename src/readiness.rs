//! Ready when every named condition has been met, and able to say which has not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The conditions of the whole daemon.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// Keeps the daemon unready under a name until it is dropped. A condition that stops holding takes a new one.
#[derive(Debug)]
pub struct BlockReady {
    readiness: Option<Readiness>,
    name: &'static str,
}

// === impl Readiness ===

impl Readiness {
    /// Unready from now on, until the guard is dropped.
    #[must_use = "dropping the guard at once says the condition holds"]
    pub fn block(&self, name: &'static str) -> BlockReady {
        *self.lock().entry(name).or_default() += 1;
        BlockReady { readiness: Some(self.clone()), name }
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|pending| *pending == 0)
    }

    /// Every condition ever named, and whether it holds now.
    pub fn conditions(&self) -> Vec<(&'static str, bool)> {
        self.lock().iter().map(|(name, pending)| (*name, *pending == 0)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl BlockReady ===

impl BlockReady {
    /// A guard that blocks nothing: for work whose start nobody waits for.
    pub fn none() -> Self {
        Self { readiness: None, name: "" }
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        if let Some(readiness) = &self.readiness
            && let Some(pending) = readiness.lock().get_mut(self.name)
        {
            *pending -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_drops() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.block("pods"), readiness.block("listener"));
        drop(a);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.conditions(), [("listener", false), ("pods", true)]);
        drop(b);
        assert!(readiness.is_ready());
        let again = readiness.block("pods");
        assert!(!readiness.is_ready(), "a condition may stop holding");
        drop(again);
        assert!(readiness.is_ready());
    }
}
