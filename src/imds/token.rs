//! IMDSv2 session tokens. podrole does not store tokens; it seals them with a key that only this node has.
//!
//! A token is `key id (4) | nonce (12) | sealed expiry (8) | tag (16)`: 40 bytes or 56 characters in base64url, like EC2's. The
//! seal covers the caller's kernel identity, so a token is worthless in another container. Since nothing is stored, no pod can fill
//! a table, and a restart loses no token. This matters because some SDKs keep a token for six hours and do not ask for another.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::types::KernelIdentity;

/// The longest life of a token, in seconds: six hours, as on EC2.
pub const MAX_TTL: u32 = 21_600;
/// The time for which a key seals new tokens. The key then opens old tokens for another [`MAX_TTL`].
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

const RAW: usize = 4 + NONCE_LEN + 8 + 16;
const TEXT: usize = RAW.div_ceil(3) * 4;

/// A key that seals and opens tokens.
#[derive(Clone)]
pub struct Key {
    /// The random id that names the key inside a token.
    pub id: [u8; 4],
    /// The AES-256 key.
    pub secret: Zeroizing<[u8; 32]>,
    /// When the key was made, in boot time.
    pub made: Duration,
}

/// The keys in use. The newest one seals new tokens; all of them open tokens.
pub struct KeyRing {
    keys: Vec<(Key, LessSafeKey)>,
}

/// The caller that a token is bound to.
#[derive(Clone, Copy, Debug)]
pub enum TokenBinding<'a> {
    /// A container, identified by the kernel.
    Kernel(&'a KernelIdentity),
    /// An address (`--identity=ip`).
    Address(std::net::IpAddr),
}

/// Why a token is rejected. EC2 answers 401 in every case.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// The text is not a token that podrole issues.
    #[error("not a podrole session token")]
    Malformed,
    /// The token is sealed with a key that this node does not have, or no longer has.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// The token is forged, or it was issued to another caller.
    #[error("forged, or issued to another caller")]
    Foreign,
    /// The token has expired.
    #[error("expired")]
    Expired,
}

// === impl KeyRing ===

impl KeyRing {
    /// A ring of `keys`.
    ///
    /// # Panics
    /// If `keys` is empty.
    pub fn new(mut keys: Vec<Key>) -> Self {
        assert!(!keys.is_empty(), "a ring needs a key");
        keys.sort_by_key(|key| key.made);
        let cipher = |key: &Key| {
            let unbound = UnboundKey::new(&AES_256_GCM, key.secret.as_ref()).expect("32 bytes are an AES-256 key");
            LessSafeKey::new(unbound)
        };
        Self { keys: keys.into_iter().map(|key| (key.clone(), cipher(&key))).collect() }
    }

    /// The keys, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().map(|(key, _)| key)
    }

    /// Issues a token that `caller` can use for `ttl` seconds from `now`. `nonce` must be fresh and random.
    pub fn issue(&self, caller: TokenBinding<'_>, ttl: u32, now: Duration, nonce: [u8; NONCE_LEN]) -> String {
        let (key, cipher) = self.keys.last().expect("a ring is never empty");
        let mut sealed = (now + Duration::from_secs(ttl.into())).as_secs().to_be_bytes();
        let tag = cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(caller.aad()), &mut sealed)
            .expect("sealing 8 bytes cannot exceed AES-GCM's limits");
        let mut raw = [0; RAW];
        raw[..4].copy_from_slice(&key.id);
        raw[4..16].copy_from_slice(&nonce);
        raw[16..24].copy_from_slice(&sealed);
        raw[24..].copy_from_slice(tag.as_ref());
        URL_SAFE.encode(raw)
    }

    /// The remaining seconds of `token`, if it is valid for `caller`.
    pub fn verify(&self, token: &[u8], caller: TokenBinding<'_>, now: Duration) -> Result<u32, TokenError> {
        // Check the length first, so that nothing of another size is decoded or decrypted.
        if token.len() != TEXT {
            return Err(TokenError::Malformed);
        }
        let mut raw = [0; RAW + 2];
        let length = URL_SAFE.decode_slice(token, &mut raw).map_err(|_| TokenError::Malformed)?;
        if length != RAW {
            return Err(TokenError::Malformed);
        }
        let (id, rest) = raw[..RAW].split_at_mut(4);
        let (nonce, sealed) = rest.split_at_mut(NONCE_LEN);
        let (_, cipher) = self.keys.iter().rev().find(|(key, _)| key.id == *id).ok_or(TokenError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| TokenError::Malformed)?;
        let opened = cipher.open_in_place(nonce, Aad::from(caller.aad()), sealed).map_err(|_| TokenError::Foreign)?;
        let expiry = u64::from_be_bytes(opened.try_into().map_err(|_| TokenError::Malformed)?);
        let left = expiry.saturating_sub(now.as_secs());
        if left == 0 { Err(TokenError::Expired) } else { u32::try_from(left).map_err(|_| TokenError::Malformed) }
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

// === impl TokenBinding ===

impl TokenBinding<'_> {
    /// The additional authenticated data of the seal. The encoding is unambiguous, because the first byte names the form, and
    /// neither a UID nor an id contains a NUL.
    fn aad(&self) -> Vec<u8> {
        match self {
            Self::Kernel(KernelIdentity { pod, container }) => {
                [b"k", pod.as_str().as_bytes(), b"\0", container.as_str().as_bytes()].concat()
            }
            Self::Address(ip) => [b"a", ip.to_string().as_bytes()].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ContainerId, PodUid};

    fn key(id: u8, made: u64) -> Key {
        Key { id: [id; 4], secret: Zeroizing::new([id; 32]), made: Duration::from_secs(made) }
    }

    fn caller(pod: &str, container: &str) -> KernelIdentity {
        KernelIdentity { pod: PodUid::parse(pod).unwrap(), container: ContainerId::parse(container).unwrap() }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn a_token_is_its_callers_until_it_ends() {
        let ring = KeyRing::new(vec![key(1, 0)]);
        let web = caller("web", "c1");
        let token = ring.issue(TokenBinding::Kernel(&web), 60, NOW, [7; 12]);
        assert_eq!(token.len(), 56);
        let check = |who: TokenBinding<'_>, at| ring.verify(token.as_bytes(), who, Duration::from_secs(at));
        assert_eq!(check(TokenBinding::Kernel(&web), 1000), Ok(60));
        assert_eq!(check(TokenBinding::Kernel(&web), 1059), Ok(1));
        assert_eq!(check(TokenBinding::Kernel(&web), 1060), Err(TokenError::Expired));
        assert_eq!(check(TokenBinding::Kernel(&caller("web", "c2")), 1000), Err(TokenError::Foreign));
        assert_eq!(check(TokenBinding::Kernel(&caller("db", "c1")), 1000), Err(TokenError::Foreign));
        assert_eq!(check(TokenBinding::Address([10, 0, 0, 1].into()), 1000), Err(TokenError::Foreign));
    }

    #[test]
    fn an_old_key_opens_and_a_lost_one_does_not() {
        let web = caller("web", "c1");
        let token = KeyRing::new(vec![key(1, 0)]).issue(TokenBinding::Kernel(&web), 60, NOW, [7; 12]);
        let both = KeyRing::new(vec![key(2, 500), key(1, 0)]);
        assert_eq!(both.verify(token.as_bytes(), TokenBinding::Kernel(&web), NOW), Ok(60));
        assert_eq!(both.keys().last().unwrap().id, [2; 4]);
        let lost = KeyRing::new(vec![key(2, 500)]);
        assert_eq!(lost.verify(token.as_bytes(), TokenBinding::Kernel(&web), NOW), Err(TokenError::UnknownKey));
    }

    proptest::proptest! {
        #[test]
        fn anything_else_is_refused(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..80), flip in 0usize..56) {
            let ring = KeyRing::new(vec![key(1, 0)]);
            let web = caller("web", "c1");
            proptest::prop_assert!(ring.verify(&noise, TokenBinding::Kernel(&web), NOW).is_err());
            let mut token = ring.issue(TokenBinding::Kernel(&web), 60, NOW, [7; 12]).into_bytes();
            token[flip] = if token[flip] == b'A' { b'B' } else { b'A' };
            proptest::prop_assert!(ring.verify(&token, TokenBinding::Kernel(&web), NOW).is_err());
        }
    }
}
