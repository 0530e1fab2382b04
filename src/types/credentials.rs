//! Short-lived credentials, and the one wrapper that every secret we own lives in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

/// A text that is wiped when its last holder lets go, and that never prints.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

/// What STS gave for one identity. Cloning shares the secrets, it does not copy them.
#[derive(Clone)]
pub struct Credentials {
    /// `ASIA…`: not a secret; the key that joins our audit line with CloudTrail.
    pub access_key_id: Arc<str>,
    /// The signing key.
    pub secret_access_key: Secret,
    /// The session token.
    pub session_token: Secret,
    /// When AWS stops accepting them, by AWS's clock. Printed for SDKs, never compared with our wall clock.
    pub expiration: SystemTime,
    /// When they end by our own clock, measured from their receipt: `Clock::boot` time, so that a clock that jumps neither
    /// expires nor immortalises them.
    pub expires_at: Duration,
    /// When they were received, on the same scale.
    pub issued_at: Duration,
}

// === impl Secret ===

impl Secret {
    /// Takes the text over; the caller's copy is this one.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text itself. Whoever calls this must not log, format or keep it outside a wiped buffer.
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
    /// How long they are still good at `boot` time; zero once they ended.
    pub fn remaining(&self, boot: Duration) -> Duration {
        self.expires_at.saturating_sub(boot)
    }

    /// Their whole life as received.
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
