//! Counts denials, so that a pod that sends a thousand requests per second causes only one audit line in ten seconds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::types::{Denial, PodUid};

/// The shortest time between two lines for the same pod and reason.
const WINDOW: Duration = Duration::from_secs(10);

/// Recent denials. There are at most as many as the node has pods, multiplied by the number of reasons.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<HashMap<(PodUid, Denial), Seen>>);

#[derive(Debug)]
struct Seen {
    last_line: Duration,
    /// The last written line. The audit log writes this line again, with a new count, for the denials that were counted since.
    line: Map<String, Value>,
    unwritten: u64,
}

// === impl Denials ===

impl Denials {
    /// Counts a denial. If a line is due, returns it with the number of denials that it stands for.
    pub(super) fn count(
        &self,
        pod: &PodUid,
        reason: Denial,
        now: Duration,
        line: impl FnOnce() -> Map<String, Value>,
    ) -> Option<(Map<String, Value>, u64)> {
        let mut seen = self.lock();
        if let Some(entry) = seen.get_mut(&(pod.clone(), reason)) {
            entry.unwritten += 1;
            if now.saturating_sub(entry.last_line) < WINDOW {
                return None;
            }
            entry.last_line = now;
            entry.line = line();
            return Some((entry.line.clone(), std::mem::take(&mut entry.unwritten)));
        }
        let line = line();
        seen.insert((pod.clone(), reason), Seen { last_line: now, line: line.clone(), unwritten: 0 });
        Some((line, 1))
    }

    /// Returns lines, with their counts, for denials that have no line yet although one is due, because their pods no longer send
    /// requests. Forgets every entry whose last line is at least ten seconds old.
    pub(super) fn overdue(&self, now: Duration) -> Vec<(Map<String, Value>, u64)> {
        let mut lines = Vec::new();
        self.lock().retain(|_, entry| {
            let over = now.saturating_sub(entry.last_line) >= WINDOW;
            if over && entry.unwritten > 0 {
                lines.push((entry.line.clone(), entry.unwritten));
            }
            !over
        });
        lines
    }

    /// Returns the unwritten lines of one pod, whatever their age, and forgets the pod.
    pub(super) fn forget(&self, pod: &PodUid) -> Vec<(Map<String, Value>, u64)> {
        let mut lines = Vec::new();
        self.lock().retain(|(of, _), entry| {
            if of == pod && entry.unwritten > 0 {
                lines.push((std::mem::take(&mut entry.line), entry.unwritten));
            }
            of != pod
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(PodUid, Denial), Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_stands_for_all() {
        let denials = Denials::default();
        let (a, b) = (PodUid::parse("a").unwrap(), PodUid::parse("b").unwrap());
        let at = Duration::from_secs;
        let count = |pod, reason, second| denials.count(pod, reason, at(second), Map::new).map(|(_, count)| count);
        assert_eq!(count(&a, Denial::NoRole, 0), Some(1));
        for second in 1..10 {
            assert_eq!(count(&a, Denial::NoRole, second), None);
        }
        assert_eq!(count(&b, Denial::NoRole, 5), Some(1), "another pod has its own line");
        assert_eq!(count(&a, Denial::OwnRole, 5), Some(1), "so does another reason");
        assert_eq!(count(&a, Denial::NoRole, 10), Some(10));
        assert_eq!(count(&a, Denial::NoRole, 11), None);
        let left: Vec<u64> = denials.forget(&a).into_iter().map(|(_, count)| count).collect();
        assert_eq!(left, [1], "counted denials are written when the pod goes");
        assert_eq!(count(&a, Denial::NoRole, 11), Some(1));
    }

    #[test]
    fn the_last_denials_of_a_pod_that_stops_asking_are_not_lost() {
        let denials = Denials::default();
        let a = PodUid::parse("a").unwrap();
        let at = Duration::from_secs;
        for second in 0..5 {
            denials.count(&a, Denial::NoRole, at(second), Map::new);
        }
        assert!(denials.overdue(at(9)).is_empty());
        let left: Vec<u64> = denials.overdue(at(10)).into_iter().map(|(_, count)| count).collect();
        assert_eq!(left, [4]);
        assert!(denials.overdue(at(20)).is_empty() && denials.lock().is_empty());
    }
}
