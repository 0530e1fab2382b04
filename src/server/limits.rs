//! Limits the number of open connections, in total and per peer address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The limit for all peers together: ample for the pods of a node, and below the descriptor limit that podrole sets at the start.
const MAX: usize = 8192;
/// The limit per peer. Each process with an SDK uses one connection at a time, and some pods start hundreds of processes.
const MAX_PER_PEER: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// A permit that counts as one open connection until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<Limits>,
    peer: IpAddr,
}

// === impl Limits ===

impl Limits {
    /// A permit for one more connection from `peer`; `None` if there are too many.
    pub(super) fn permit(self: &Arc<Self>, peer: IpAddr) -> Option<Permit> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= MAX || open.by_peer.get(&peer).is_some_and(|n| *n >= MAX_PER_PEER) {
            return None;
        }
        open.all += 1;
        *open.by_peer.entry(peer).or_default() += 1;
        Some(Permit { limits: self.clone(), peer })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(n) = open.by_peer.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_anothers_share() {
        let limits = Arc::new(Limits::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<Permit> = (0..MAX_PER_PEER).map(|_| limits.permit(a).unwrap()).collect();
        assert!(limits.permit(a).is_none());
        assert!(limits.permit(b).is_some());
        held.pop();
        assert!(limits.permit(a).is_some());
        held.clear();
        assert!(limits.0.lock().unwrap().by_peer.is_empty());
    }
}
