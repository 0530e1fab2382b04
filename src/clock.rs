//! The system's clocks, which no other module reads. Code that decides by age takes a [`Clock`]; threads and watches that only
//! record when something happened use [`SystemClock`] directly.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock time, for dates in documents and logs, which people and AWS read. It may jump.
    fn wall(&self) -> SystemTime;

    /// Time since boot, including suspend, for every decision about age. It never jumps, and a restart of the daemon does not reset
    /// it, so session tokens remain valid across restarts.
    fn boot(&self) -> Duration;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}
