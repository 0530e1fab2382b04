//! When to refresh credentials and when to retry, as pure arithmetic on times and jitter.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::issuer::IssueError;
use crate::types::Credentials;

/// A refresh starts between these fractions of the lifetime. The range is wide enough that credentials issued together are not
/// refreshed together. Both fractions are well below half, so that credentials served while STS is healthy have more than half of
/// their lifetime left, which several SDKs need.
const REFRESH: (f64, f64) = (0.40, 0.48);
/// How long a denial by STS is cached before STS is asked again.
const DENIED: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60));
/// The pause between attempts after a failure that may pass.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// When to refresh `credentials`, in boot time. `jitter` is in `0..1`.
pub fn refresh_at(credentials: &Credentials, jitter: f64) -> Duration {
    let fraction = REFRESH.0 + (REFRESH.1 - REFRESH.0) * jitter.clamp(0.0, 1.0);
    credentials.issued_at + credentials.lifetime().mul_f64(fraction)
}

/// How long to wait after `failures` failures in a row (from 1). `jitter` is in `0..1`.
pub fn pause(error: &IssueError, failures: u32, jitter: f64) -> Duration {
    match error {
        // No jitter: the documentation promises how long a denial is cached.
        IssueError::Denied { .. } => DENIED.pause(failures),
        IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. } => {
            RETRY.full_jitter(failures, jitter)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::issuer::Code;
    use crate::types::Secret;

    fn credentials(issued: u64, life: u64) -> Credentials {
        Credentials {
            access_key_id: "ASIA".into(),
            secret_access_key: Secret::new(String::new()),
            session_token: Secret::new(String::new()),
            expiration: SystemTime::UNIX_EPOCH,
            issued_at: Duration::from_secs(issued),
            expires_at: Duration::from_secs(issued + life),
        }
    }

    proptest! {
        #[test]
        fn refreshed_at_40_to_48_percent_of_any_life(issued in 0u64..1_000_000, life in 900u64..43_200, jitter in 0.0f64..1.0) {
            let c = credentials(issued, life);
            let left = c.remaining(refresh_at(&c, jitter));
            // Rounding may change the result by a few nanoseconds.
            let (least, most) = (c.lifetime().mul_f64(0.52), c.lifetime().mul_f64(0.60));
            let rounded = Duration::from_nanos(10);
            prop_assert!(left + rounded >= least && left <= most + rounded, "{left:?} of {life}");
        }
    }

    #[test]
    fn jitter_spreads_the_refresh_over_the_whole_range() {
        let c = credentials(1000, 3600);
        let at = |jitter| refresh_at(&c, jitter).as_millis() - 1_000_000;
        assert_eq!((at(0.0), at(0.5), at(1.0)), (1_440_000, 1_584_000, 1_728_000));
    }

    #[test]
    fn denials_are_kept_and_failures_retried() {
        let denied = IssueError::from_code(Code::AccessDenied);
        let secs: Vec<u64> = (1..6).map(|n| pause(&denied, n, 0.0).as_secs()).collect();
        assert_eq!(secs, [10, 20, 40, 60, 60]);
        let down = IssueError::from_code(Code::Network);
        assert_eq!(pause(&down, 1, 1.0), Duration::from_millis(200));
        assert_eq!(pause(&down, 40, 1.0), Duration::from_secs(30));
        assert_eq!(pause(&down, 40, 0.0), RETRY.first, "never a busy loop");
    }
}
