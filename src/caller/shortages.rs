//! The objects that podrole currently cannot read or watch on the node. podrole keeps its last known state and tries again. A
//! shortage makes podrole slower, but no pod gets a definite answer because of a shortage.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use tracing::{info, warn};

use crate::metrics::{Fault, Metrics};
use crate::readiness::{Degraded, Readiness};

/// The part that a shortage affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shortage {
    /// The directory of netns names is not watched.
    NetnsWatch,
    /// A netns, or the directory of netns names, cannot be read.
    NetnsScan,
    /// Some cgroup is not watched.
    CgroupWatch,
    /// Some cgroup cannot be read.
    CgroupScan,
}

/// The shortages of this node, for log, metrics and readiness.
#[derive(Debug)]
pub struct Shortages {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    current: Mutex<HashMap<Shortage, Degraded>>,
}

/// Whether an error means that a resource is used up at the moment, so that the next attempt may succeed.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    const PASSING: [Errno; 7] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::INTR, Errno::NOSPC];
    error.raw_os_error().is_some_and(|code| PASSING.iter().any(|errno| errno.raw_os_error() == code))
}

// === impl Shortages ===

impl Shortages {
    /// Reports to `metrics` and `readiness`.
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness) -> Self {
        Self { metrics, readiness, current: Mutex::default() }
    }

    /// Reports the result of an attempt. Logs the beginning and the end of a shortage.
    pub(super) fn report(&self, shortage: Shortage, error: Option<&io::Error>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => {
                self.metrics.fault(shortage.fault());
                current.entry(shortage).or_insert_with(|| {
                    warn!(%error, shortage = shortage.name(), "{}", shortage.consequence());
                    self.readiness.degrade(shortage.name())
                });
            }
            None if current.remove(&shortage).is_some() => {
                info!(shortage = shortage.name(), "Shortage over; resuming normal operation");
            }
            None => {}
        }
    }
}

// === impl Shortage ===

impl Shortage {
    fn fault(self) -> Fault {
        match self {
            Self::NetnsWatch => Fault::NetnsWatch,
            Self::NetnsScan => Fault::NetnsScan,
            Self::CgroupWatch => Fault::CgroupWatch,
            Self::CgroupScan => Fault::CgroupScan,
        }
    }

    fn name(self) -> &'static str {
        self.fault().name()
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::NetnsWatch => {
                "Cannot watch the directory of network namespaces; scanning it twice a second and at each unknown caller"
            }
            Self::NetnsScan => "Cannot read all network namespaces; keeping those of the last scan and retrying",
            Self::CgroupWatch => {
                "Cannot watch all pods' cgroups; scanning them twice a second and at each unknown caller"
            }
            Self::CgroupScan => "Cannot read all pods' cgroups; keeping those of the last scan and retrying",
        }
    }
}
