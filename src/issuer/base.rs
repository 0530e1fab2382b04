//! A caching credentials provider, for the base credentials and for those of the first hop. Without it, the SDK makes two requests
//! to the node's metadata service for every STS call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use tracing::warn;

use crate::backoff::Backoff;
use crate::clock::Clock;

/// Credentials with a shorter remaining lifetime than this are refreshed before they are used again. If the refresh fails, they
/// are used until they expire.
const REFRESH_AHEAD: Duration = Duration::from_secs(15 * 60);
/// The pause between attempts after a failure. In the meantime, cached credentials are used until they expire; if there are none,
/// callers get an error.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Caches the credentials of another provider.
pub struct BaseCredentials<C> {
    source: SharedCredentialsProvider,
    clock: C,
    cached: Mutex<Cached>,
    /// A fetch locks this mutex, so that concurrent callers share one fetch.
    fetch: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Cached {
    credentials: Option<Credentials>,
    next_attempt: Duration,
    failures: u32,
}

// === impl BaseCredentials ===

impl<C: Clock> BaseCredentials<C> {
    /// A cache of the credentials that `source` provides.
    pub fn new(source: SharedCredentialsProvider, clock: C) -> Arc<Self> {
        Arc::new(Self { source, clock, cached: Mutex::default(), fetch: tokio::sync::Mutex::new(()) })
    }

    /// Discards the cached credentials, because STS does not accept them. The next call fetches new ones.
    pub fn invalidate(&self) {
        *self.lock() = Cached::default();
    }

    /// The remaining lifetime of the cached credentials; `None` if there are none or they do not expire.
    pub fn remaining(&self) -> Option<Duration> {
        let expiry = self.lock().credentials.as_ref()?.expiry()?;
        Some(expiry.duration_since(self.clock.wall()).unwrap_or_default())
    }

    async fn get(&self) -> provider::Result {
        if let Some(good) = self.fresh() {
            return Ok(good);
        }
        let _guard = self.fetch.lock().await;
        if let Some(good) = self.fresh() {
            return Ok(good);
        }
        if self.clock.boot() < self.lock().next_attempt {
            return Err(CredentialsError::provider_error(
                "the last attempt failed moments ago; the next one is due later",
            ));
        }
        let fetched = self.source.provide_credentials().await;
        let mut cached = self.lock();
        match fetched {
            Ok(credentials) => {
                cached.next_attempt = Duration::ZERO;
                cached.failures = 0;
                cached.credentials = Some(credentials.clone());
                Ok(credentials)
            }
            Err(error) => {
                cached.failures = cached.failures.saturating_add(1);
                cached.next_attempt = self.clock.boot() + RETRY.pause(cached.failures);
                match cached.credentials.clone().filter(|old| self.remaining_of(old) > Duration::ZERO) {
                    Some(old) => {
                        warn!(error = %error, "Cannot refresh base credentials; using the old credentials until they expire");
                        Ok(old)
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// The cached credentials, if they need no refresh or if the next attempt is not due yet.
    fn fresh(&self) -> Option<Credentials> {
        let cached = self.lock();
        let credentials = cached.credentials.as_ref()?;
        let left = self.remaining_of(credentials);
        let backing_off = self.clock.boot() < cached.next_attempt && left > Duration::ZERO;
        (left > REFRESH_AHEAD || backing_off).then(|| credentials.clone())
    }

    fn remaining_of(&self, credentials: &Credentials) -> Duration {
        let end = |expiry: SystemTime| expiry.duration_since(self.clock.wall()).unwrap_or_default();
        credentials.expiry().map_or(Duration::MAX, end)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shared handle that implements the SDK's provider trait.
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

/// The provider error for a failed first hop.
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
