//! Readiness: the daemon is ready when every named condition holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The conditions of the daemon. Clones share state.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Counts,
    /// The degradations: parts that work less well than they should. They are shown, but do not make the daemon unready.
    degradations: Counts,
}

/// The number of guards for each name.
type Counts = Arc<Mutex<BTreeMap<&'static str, usize>>>;

/// The guard of one degradation, which is shown until the guard is dropped.
#[derive(Debug)]
pub struct Degraded {
    counts: Counts,
    name: &'static str,
}

/// The conditions of the start. Each is unmet until its guard is dropped.
#[derive(Debug)]
pub struct Start {
    /// podrole listens for pods' connections.
    pub listener: BlockReady,
    /// Pods' metadata traffic is redirected to podrole.
    pub redirect: BlockReady,
    /// The routing guard is complete, so metadata traffic is not forwarded even without the redirect.
    pub routing: BlockReady,
    /// The first list of this node's pods is complete.
    pub pods: BlockReady,
    /// The first list of namespaces is complete.
    pub namespaces: BlockReady,
    /// The first list of service accounts is complete. `None` if they are not a source of roles.
    pub service_accounts: Option<BlockReady>,
    /// Discovery has finished: the daemon's AWS identity, and with it the policy, is known.
    pub identity: BlockReady,
}

/// The guard of one condition: the daemon is not ready until the guard is dropped. A condition that stops holding needs a new
/// guard.
#[derive(Debug)]
pub struct BlockReady {
    readiness: Readiness,
    name: &'static str,
}

// === impl Readiness ===

impl Readiness {
    /// Creates a readiness in which every condition of the start is unmet. All conditions are registered at once: if one were
    /// registered later, all the others could hold before that, and the daemon would report too early that it is ready.
    #[must_use = "dropping the guards marks all conditions as met"]
    pub fn new(service_accounts: bool) -> (Self, Start) {
        let readiness = Self { conditions: Arc::default(), degradations: Arc::default() };
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

    /// Makes the daemon unready until the returned guard is dropped.
    #[must_use = "dropping the guard marks the condition as met"]
    pub fn block(&self, name: &'static str) -> BlockReady {
        *lock(&self.conditions).entry(name).or_default() += 1;
        BlockReady { readiness: self.clone(), name }
    }

    /// Shows a degradation until the returned guard is dropped.
    #[must_use = "dropping the guard ends the degradation"]
    pub fn degrade(&self, name: &'static str) -> Degraded {
        *lock(&self.degradations).entry(name).or_default() += 1;
        Degraded { counts: self.degradations.clone(), name }
    }

    /// The current degradations.
    pub fn degradations(&self) -> Vec<&'static str> {
        lock(&self.degradations).iter().filter(|(_, guards)| **guards > 0).map(|(name, _)| *name).collect()
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        lock(&self.conditions).values().all(|pending| *pending == 0)
    }

    /// Every registered condition, and whether it holds.
    pub fn conditions(&self) -> Vec<(&'static str, bool)> {
        lock(&self.conditions).iter().map(|(name, pending)| (*name, *pending == 0)).collect()
    }
}

fn lock(counts: &Counts) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl BlockReady ===

impl Drop for BlockReady {
    fn drop(&mut self) {
        if let Some(pending) = lock(&self.readiness.conditions).get_mut(self.name) {
            *pending -= 1;
        }
    }
}

// === impl Degraded ===

impl Drop for Degraded {
    fn drop(&mut self) {
        if let Some(guards) = lock(&self.counts).get_mut(self.name) {
            *guards -= 1;
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
    fn degradations_are_shown_and_block_nothing() {
        let (readiness, start) = Readiness::new(false);
        drop(start);
        let (one, other) = (readiness.degrade("netns_watch"), readiness.degrade("netns_watch"));
        assert_eq!(readiness.degradations(), ["netns_watch"]);
        assert!(readiness.is_ready());
        drop(one);
        assert_eq!(readiness.degradations(), ["netns_watch"]);
        drop(other);
        assert!(readiness.degradations().is_empty());
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
