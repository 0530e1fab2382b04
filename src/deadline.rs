//! How long one request may wait, and whether it has waited.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The time limit of one request. The request waits only through this type, which therefore knows whether the request has waited:
/// after any wait, the caller must be checked again before it gets a secret.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    waited: bool,
}

/// The error for a deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

// === impl Deadline ===

impl Deadline {
    /// A deadline that passes after `budget`.
    pub fn after(budget: Duration) -> Self {
        Self { at: Instant::now() + budget, waited: false }
    }

    /// Waits for `work`, until the deadline at the latest.
    pub async fn wait<F: Future>(&mut self, work: F) -> Result<F::Output, TimedOut> {
        self.waited = true;
        timeout_at(self.at, work).await.map_err(|_| TimedOut)
    }

    /// Sleeps for `pause`. Returns at once if the deadline would pass during the sleep.
    pub async fn sleep(&mut self, pause: Duration) -> Result<(), TimedOut> {
        self.waited = true;
        if Instant::now() + pause >= self.at {
            return Err(TimedOut);
        }
        sleep(pause).await;
        Ok(())
    }

    /// Whether the request has waited for anything.
    pub fn waited(&self) -> bool {
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_and_remembered() {
        let mut deadline = Deadline::after(Duration::from_millis(100));
        assert!(!deadline.waited());
        assert_eq!(deadline.wait(std::future::ready(7)).await, Ok(7));
        assert!(deadline.waited());
        assert_eq!(deadline.sleep(Duration::from_millis(60)).await, Ok(()));
        let begin = Instant::now();
        assert_eq!(deadline.sleep(Duration::from_millis(60)).await, Err(TimedOut), "this one would end too late");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(deadline.wait(std::future::pending::<()>()).await, Err(TimedOut));
        assert_eq!(begin.elapsed(), Duration::from_millis(40));
    }
}
