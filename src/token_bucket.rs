//! A rate limit with a burst. Pure: the time is an argument.

use std::time::Duration;

/// The size of a bucket and the rate at which it earns tokens.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The number of tokens in a full bucket.
    pub burst: u32,
    /// The time in which the bucket earns one token.
    pub every: Duration,
}

/// A bucket that starts full. Instead of a count, it stores the time at which it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    rate: Rate,
    full_at: Duration,
}

// === impl TokenBucket ===

impl TokenBucket {
    /// A full bucket.
    pub const fn full(rate: Rate) -> Self {
        Self { rate, full_at: Duration::ZERO }
    }

    /// When the next token is available: `now`, or later if the bucket is empty.
    pub fn next_at(&self, now: Duration) -> Duration {
        let full_after_take = self.full_at.max(now) + self.rate.every;
        full_after_take.saturating_sub(self.rate.every.saturating_mul(self.rate.burst)).max(now)
    }

    /// Takes one token and returns the time at which the token is available. If the bucket is empty, the call takes the next
    /// token to be earned, and the caller has to wait until that time.
    pub fn take(&mut self, now: Duration) -> Duration {
        let at = self.next_at(now);
        self.full_at = self.full_at.max(now) + self.rate.every;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_allows_a_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::full(Rate { burst: 3, every: ms(200) });
        let at: Vec<Duration> = (0..5).map(|_| bucket.take(ms(1000))).collect();
        assert_eq!(at, [ms(1000), ms(1000), ms(1000), ms(1200), ms(1400)]);
        assert_eq!(bucket.take(ms(10_000)), ms(10_000));
    }

    #[test]
    fn asking_takes_nothing() {
        let mut bucket = TokenBucket::full(Rate { burst: 1, every: ms(200) });
        assert_eq!([bucket.next_at(ms(1000)), bucket.next_at(ms(1000))], [ms(1000), ms(1000)]);
        bucket.take(ms(1000));
        assert_eq!(bucket.next_at(ms(1050)), ms(1200));
        assert_eq!(bucket.next_at(ms(1300)), ms(1300));
    }

    #[test]
    fn no_time_per_token_is_no_limit() {
        let mut bucket = TokenBucket::full(Rate { burst: 1, every: Duration::ZERO });
        assert!((0..10).all(|_| bucket.take(ms(1000)) == ms(1000)));
    }
}
