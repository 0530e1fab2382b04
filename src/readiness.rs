//! Ready when every named condition has been met, and able to say which has not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The conditions of the whole daemon.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// What a start must bring, each unmet until its guard is dropped.
#[derive(Debug)]
pub struct Start {
    /// Pods can connect to us.
    pub listener: BlockReady,
    /// Their metadata traffic leads here.
    pub redirect: BlockReady,
    /// Nothing of it is forwarded, whatever becomes of the redirection.
    pub routing: BlockReady,
    /// This node's pods have been listed.
    pub pods: BlockReady,
    /// The namespaces have been listed.
    pub namespaces: BlockReady,
    /// The service accounts have been listed, where they are a source of roles.
    pub service_accounts: Option<BlockReady>,
    /// We know who we are to AWS, and by that the policy.
    pub identity: BlockReady,
}

/// Keeps the daemon unready under a name until it is dropped. A condition that stops holding takes a new one.
#[derive(Debug)]
pub struct BlockReady {
    readiness: Readiness,
    name: &'static str,
}

// === impl Readiness ===

impl Readiness {
    /// Unready, with every condition of the start unmet from the first moment: one that was named only when its turn came would
    /// leave a moment before in which all that were named hold, and "ready" is taken at its word.
    #[must_use = "dropping the guards at once says that all conditions hold"]
    pub fn new(service_accounts: bool) -> (Self, Start) {
        let readiness = Self(Arc::default());
        let start = Start {
            listener: readiness.block("listener"),
            redirect: readiness.block("redirect"),
            routing: readiness.block("routing"),
            pods: readiness.block("pods"),
            namespaces: readiness.block("namespaces"),
            service_accounts: service_accounts.then(|| readiness.block("service_accounts")),
            identity: readiness.block("identity"),
        };
        (readiness, start)
    }

    /// Unready from now on, until the guard is dropped.
    #[must_use = "dropping the guard at once says the condition holds"]
    pub fn block(&self, name: &'static str) -> BlockReady {
        *self.lock().entry(name).or_default() += 1;
        BlockReady { readiness: self.clone(), name }
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

impl Drop for BlockReady {
    fn drop(&mut self) {
        if let Some(pending) = self.readiness.lock().get_mut(self.name) {
            *pending -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_drops() {
        let (readiness, start) = Readiness::new(false);
        let Start { listener, redirect, routing, pods, namespaces, service_accounts, identity } = start;
        assert!(service_accounts.is_none());
        for guard in [redirect, pods, namespaces, routing, identity] {
            drop(guard);
            assert!(!readiness.is_ready());
        }
        let unmet: Vec<_> = readiness.conditions().into_iter().filter(|(_, holds)| !holds).collect();
        assert_eq!(unmet, [("listener", false)]);
        assert_eq!(readiness.conditions().len(), 6);
        drop(listener);
        assert!(readiness.is_ready());
        let again = readiness.block("pods");
        assert!(!readiness.is_ready(), "a condition may stop holding");
        drop(again);
        assert!(readiness.is_ready());
    }

    #[test]
    fn service_accounts_are_waited_for_where_they_give_roles() {
        let (readiness, start) = Readiness::new(true);
        let Start { listener, redirect, routing, pods, namespaces, service_accounts, identity } = start;
        drop((listener, redirect, routing, pods, namespaces, identity));
        let unmet: Vec<_> = readiness.conditions().into_iter().filter(|(_, holds)| !holds).collect();
        assert_eq!(unmet, [("service_accounts", false)]);
        drop(service_accounts);
        assert!(readiness.is_ready());
    }
}
