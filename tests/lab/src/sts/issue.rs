//! Generates credentials with the format and size of real ones.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Caller;
use crate::http::random;

/// Issued credentials and the session that they belong to.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The session token.
    pub session_token: String,
    /// The expiration, by the double's clock (see `set_clock_skew`).
    pub expiration: SystemTime,
    /// The role assumed.
    pub role_arn: String,
    /// The session name.
    pub session_name: String,
    /// The session's identity for GetCallerIdentity.
    pub session: Caller,
    /// The identity that assumed the role.
    pub assumed_by: Caller,
    /// The granted duration in seconds, before `set_lifetime` limits it.
    pub duration: u32,
    /// The external id of the call.
    pub external_id: Option<String>,
    /// The session tags, including inherited ones.
    pub tags: Vec<(String, String)>,
    /// The keys of the tags that chained sessions inherit.
    pub transitive_tag_keys: Vec<String>,
    /// The inline session policy.
    pub policy: Option<String>,
    /// The managed session policies.
    pub policy_arns: Vec<String>,
    /// The source identity, from the call or inherited.
    pub source_identity: Option<String>,
}

/// The three parts of a credential.
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: String,
}

impl Keys {
    /// Generates unique keys. The secret and the token contain `planted`.
    pub(super) fn new(planted: Option<&str>) -> Self {
        const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        const MIXED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let planted = planted.unwrap_or_default();
        let secret = random::text(MIXED, 40_usize.saturating_sub(planted.len()));
        // The length of real tokens varies: 600 to 744 bytes are 800 to 992 characters.
        let length = 600 + 3 * (random::number() % 49) as usize;
        let noise: Vec<u8> = (0..length / 8 + 1).flat_map(|_| random::number().to_le_bytes()).take(length).collect();
        let body = STANDARD.encode(noise);
        let (head, tail) = ("IQoJb3JpZ2luX2Vj", &body[planted.len().min(body.len() / 2) + 16..]);
        Self {
            id: format!("ASIA{}", random::text(UPPER, 16)),
            secret: format!("{planted}{secret}"),
            token: format!("{head}{planted}{tail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_sizes_of_real_ones() {
        for planted in [None, Some("PLANTED")] {
            let keys = Keys::new(planted);
            assert_eq!((keys.id.len(), keys.secret.len()), (20, 40));
            assert!((800..=992).contains(&keys.token.len()), "{}", keys.token.len());
            let marker = planted.unwrap_or_default();
            assert!(keys.secret.contains(marker) && keys.token.contains(marker));
        }
        assert!(Keys::new(Some(&"x".repeat(100))).secret.len() == 100);
    }
}
