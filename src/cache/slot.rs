//! The life of one set of credentials, as arithmetic. Pure in `now` and in chance.

use std::time::Duration;

use crate::issuer::IssueError;
use crate::types::Credentials;

/// Refresh begins between these parts of a life: well before half of it, spread so that pods that started together do not ask
/// together. What is served while STS is healthy so always has more than half of its life left, which several SDKs need.
const REFRESH: (f64, f64) = (0.40, 0.48);
/// How long a refusal stands: first, and at most.
const DENIAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// The pause after a failure that may pass: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// When to replace `credentials`, in boot time. `chance` is in `0..1`.
pub fn refresh_at(credentials: &Credentials, chance: f64) -> Duration {
    let part = REFRESH.0 + (REFRESH.1 - REFRESH.0) * chance.clamp(0.0, 1.0);
    credentials.issued_at + credentials.lifetime().mul_f64(part)
}

/// How long to wait after the `failures`-th failure in a row (from 1), with full jitter on what may pass.
pub fn pause(error: &IssueError, failures: u32, chance: f64) -> Duration {
    let grown = |(first, most): (Duration, Duration)| {
        first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16))).min(most)
    };
    match error {
        // No jitter: a refusal is remembered for a promised time.
        IssueError::Denied { .. } => grown(DENIAL),
        IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. } => {
            let most = grown(RETRY);
            RETRY.0.max(most.mul_f64(chance.clamp(0.0, 1.0)))
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
        fn refreshed_at_40_to_48_percent_of_any_life(issued in 0u64..1_000_000, life in 900u64..43_200, chance in 0.0f64..1.0) {
            let c = credentials(issued, life);
            let left = c.remaining(refresh_at(&c, chance));
            // To the nanosecond that rounding may take.
            let (least, most) = (c.lifetime().mul_f64(0.52), c.lifetime().mul_f64(0.60));
            let rounded = Duration::from_nanos(10);
            prop_assert!(left + rounded >= least && left <= most + rounded, "{left:?} of {life}");
        }
    }

    #[test]
    fn chance_spreads_the_refresh_over_the_whole_of_its_time() {
        let c = credentials(1000, 3600);
        let at = |chance| refresh_at(&c, chance).as_millis() - 1_000_000;
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
        assert_eq!(pause(&down, 40, 0.0), RETRY.0, "never a busy loop");
    }
}
