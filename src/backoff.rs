//! A growing pause between retries. Pure: the caller counts its failures and provides the jitter.

use std::time::Duration;

/// Pauses that double with each failure in a row, from `first` to at most `max`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// Creates a backoff with pauses from `first` to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The pause after `failures` failures in a row (from 1), without jitter.
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// The pause after `failures` failures in a row, multiplied by a factor from one half to one and a half. `jitter`, in `0..1`,
    /// determines the factor.
    pub fn spread(&self, failures: u32, jitter: f64) -> Duration {
        self.pause(failures).mul_f64(0.5 + jitter.clamp(0.0, 1.0))
    }

    /// The pause after `failures` failures with full jitter: a random time from `first` to the whole pause. `jitter` is in `0..1`.
    pub fn full_jitter(&self, failures: u32, jitter: f64) -> Duration {
        // The pause is never below `first`, so that small jitter values cannot cause a busy loop.
        self.pause(failures).mul_f64(jitter.clamp(0.0, 1.0)).max(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

    #[test]
    fn doubles_up_to_the_maximum() {
        let secs: Vec<u64> = (1..8).map(|failures| BACKOFF.pause(failures).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(BACKOFF.pause(u32::MAX), BACKOFF.max);
        assert_eq!(BACKOFF.pause(0), BACKOFF.first, "a count that starts at zero is no reason to panic");
    }

    #[test]
    fn spread_is_around_the_pause_and_full_jitter_below_it() {
        let ms = |pause: Duration| pause.as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| ms(BACKOFF.spread(3, jitter))), [2000, 4000, 6000]);
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| ms(BACKOFF.full_jitter(3, jitter))), [1000, 2000, 4000]);
    }
}
