//! The daemon's own credentials: fetched once, kept, refreshed ahead. Without this the SDK asks the metadata service twice for
//! every call to STS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use tracing::warn;

use crate::backoff::Backoff;
use crate::clock::Clock;

/// Credentials nearer to their end than this are replaced before they are used again, where that can be done.
const REFRESH_AHEAD: Duration = Duration::from_secs(15 * 60);
/// Between attempts that fail. Meanwhile the kept credentials serve as long as they are good; without any, callers get an error.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// A caching provider in front of another.
pub struct BaseCredentials<C> {
    source: SharedCredentialsProvider,
    clock: C,
    kept: Mutex<Kept>,
    /// One fetch at a time; who waits uses what it brought.
    fetch: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    credentials: Option<Credentials>,
    next_attempt: Duration,
    failures: u32,
}

// === impl BaseCredentials ===

impl<C: Clock> BaseCredentials<C> {
    /// A provider that keeps what `source` gives.
    pub fn new(source: SharedCredentialsProvider, clock: C) -> Arc<Self> {
        Arc::new(Self { source, clock, kept: Mutex::default(), fetch: tokio::sync::Mutex::new(()) })
    }

    /// Throws the kept ones away: STS said they are no good.
    pub fn invalidate(&self) {
        *self.lock() = Kept::default();
    }

    /// What is left of the kept ones; `None` while there are none, or they do not end.
    pub fn remaining(&self) -> Option<Duration> {
        let expiry = self.lock().credentials.as_ref()?.expiry()?;
        Some(expiry.duration_since(self.clock.wall()).unwrap_or_default())
    }

    async fn get(&self) -> provider::Result {
        if let Some(good) = self.fresh() {
            return Ok(good);
        }
        let _one = self.fetch.lock().await;
        if let Some(good) = self.fresh() {
            return Ok(good);
        }
        if self.clock.boot() < self.lock().next_attempt {
            return Err(CredentialsError::provider_error("the last attempt failed a moment ago"));
        }
        let fetched = self.source.provide_credentials().await;
        let mut kept = self.lock();
        match fetched {
            Ok(credentials) => {
                kept.next_attempt = Duration::ZERO;
                kept.failures = 0;
                kept.credentials = Some(credentials.clone());
                Ok(credentials)
            }
            Err(error) => {
                kept.failures = kept.failures.saturating_add(1);
                kept.next_attempt = self.clock.boot() + RETRY.pause(kept.failures);
                match kept.credentials.clone().filter(|old| self.remaining_of(old) > Duration::ZERO) {
                    Some(old) => {
                        warn!(error = %error, "Cannot refresh podrole's own credentials; the old ones are still good");
                        Ok(old)
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// The kept ones, if they are far from their end or it is not yet time to try again.
    fn fresh(&self) -> Option<Credentials> {
        let kept = self.lock();
        let credentials = kept.credentials.as_ref()?;
        let left = self.remaining_of(credentials);
        let resting = self.clock.boot() < kept.next_attempt && left > Duration::ZERO;
        (left > REFRESH_AHEAD || resting).then(|| credentials.clone())
    }

    fn remaining_of(&self, credentials: &Credentials) -> Duration {
        let end = |expiry: SystemTime| expiry.duration_since(self.clock.wall()).unwrap_or_default();
        credentials.expiry().map_or(Duration::MAX, end)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle the SDK can hold.
pub struct Handle<C>(pub Arc<BaseCredentials<C>>);

impl<C: Clock> ProvideCredentials for Handle<C> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.0.get())
    }
}

impl<C> std::fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BaseCredentials")
    }
}

impl<C> std::fmt::Debug for BaseCredentials<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BaseCredentials")
    }
}

/// A provider error for a failed hop.
pub(super) fn hop_failed(error: super::IssueError) -> CredentialsError {
    CredentialsError::provider_error(error)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Source {
        calls: Arc<AtomicU32>,
        life: Duration,
    }

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            if call == 1 {
                return future::ProvideCredentials::ready(Err(CredentialsError::provider_error("down")));
            }
            let expiry = SystemTime::UNIX_EPOCH + self.life;
            future::ProvideCredentials::ready(Ok(Credentials::new(
                format!("AKIA{call}"),
                "s",
                None,
                Some(expiry),
                "test",
            )))
        }
    }

    #[derive(Clone, Default)]
    struct Manual(Arc<Mutex<Duration>>);

    impl Clock for Manual {
        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + self.boot()
        }
        fn boot(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test]
    async fn kept_until_near_the_end_and_through_a_failure() {
        let (clock, calls) = (Manual::default(), Arc::new(AtomicU32::new(0)));
        let source = Source { calls: calls.clone(), life: Duration::from_secs(3600) };
        let base = BaseCredentials::new(SharedCredentialsProvider::new(source), clock.clone());
        let key = async || base.get().await.map(|c| c.access_key_id().to_owned()).ok();
        assert_eq!(key().await, Some("AKIA0".into()));
        assert_eq!(key().await, Some("AKIA0".into()));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        *clock.0.lock().unwrap() = Duration::from_secs(50 * 60);
        assert_eq!(key().await, Some("AKIA0".into()), "the refresh failed, the old ones are good");
        assert_eq!(key().await, Some("AKIA0".into()));
        assert_eq!(calls.load(Ordering::SeqCst), 2, "no second attempt at once");
        *clock.0.lock().unwrap() = Duration::from_secs(51 * 60);
        assert_eq!(key().await, Some("AKIA2".into()));
        base.invalidate();
        assert_eq!(key().await, Some("AKIA3".into()));
    }
}
