//! Short-lived credentials, and the wrapper for every secret in podrole's memory.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

/// A text that is wiped from memory when its last reference is dropped, and that is never printed.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

/// The credentials that STS issued for one identity. Clones share the secrets instead of copying them.
#[derive(Clone)]
pub struct Credentials {
    /// The access key ID, `ASIA…`. The ID is not a secret, and it links the audit line to CloudTrail.
    pub access_key_id: Arc<str>,
    /// The signing key.
    pub secret_access_key: Secret,
    /// The session token.
    pub session_token: Secret,
    /// The time at which AWS stops accepting the credentials, by AWS's clock. SDKs get this time; podrole never compares it with
    /// the node's wall clock.
    pub expiration: SystemTime,
    /// The time at which the credentials end, by `Clock::boot`, measured from their receipt. `Clock::boot` does not jump, so a
    /// change of the wall clock neither expires them nor keeps them alive.
    pub expires_at: Duration,
    /// The time at which podrole received the credentials, by `Clock::boot`.
    pub issued_at: Duration,
}

// === impl Secret ===

impl Secret {
    /// Wraps `text` without copying it.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text itself. Callers must not log it, format it, or keep it in a buffer that is not wiped.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("** redacted **")
    }
}

// === impl Credentials ===

impl Credentials {
    /// The remaining life of the credentials at `boot`; zero once they have ended.
    pub fn remaining(&self, boot: Duration) -> Duration {
        self.expires_at.saturating_sub(boot)
    }

    /// The whole life of the credentials, from receipt to end.
    pub fn lifetime(&self) -> Duration {
        self.expires_at.saturating_sub(self.issued_at)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &self.secret_access_key)
            .field("session_token", &self.session_token)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let credentials = Credentials {
            access_key_id: "ASIAEXAMPLE".into(),
            secret_access_key: Secret::new("planted-secret".into()),
            session_token: Secret::new("planted-token".into()),
            expiration: SystemTime::UNIX_EPOCH,
            expires_at: Duration::from_secs(10),
            issued_at: Duration::ZERO,
        };
        let text = format!("{credentials:?} {:?}", credentials.secret_access_key);
        assert!(text.contains("ASIAEXAMPLE") && !text.contains("planted"), "{text}");
        assert_eq!(credentials.remaining(Duration::from_secs(11)), Duration::ZERO);
    }
}
