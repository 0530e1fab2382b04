//! Time: no other module asks the system what it is. What decides by an age is handed a [`Clock`]; the rim, where a thread or a
//! watch notes when something happened, reads [`SystemClock`] itself.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Where "now" comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: for what people and AWS read (dates in documents and logs). It may jump.
    fn wall(&self) -> SystemTime;

    /// Time since boot, suspend included: for every decision about age. It never jumps, and it goes on across a restart of the
    /// daemon, which is what keeps session tokens valid through one.
    fn boot(&self) -> Duration;
}

/// The machine's clocks.
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
