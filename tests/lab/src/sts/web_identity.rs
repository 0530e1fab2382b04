//! Verifies web identity tokens as IAM's OIDC providers do: issuer, signature, times, audience.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::ErrorResponse;

/// An OIDC provider that roles trust.
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// The keys from its JWKS.
    pub(super) keys: Vec<Value>,
}

/// The claims of a verified token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audience: String,
}

/// A parsed token that is not verified yet.
struct Token<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

/// Verifies a token against the providers.
pub(super) fn verify(token: &str, providers: &[Provider], now: Timestamp) -> Result<Claims, ErrorResponse> {
    let token = parse(token).ok_or_else(|| {
        invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
    })?;
    let text = |name: &str| token.claims[name].as_str().filter(|text| !text.is_empty());
    let missing = |name: &str| invalid(&format!("Missing a required claim: {name}"));
    let issuer = text("iss").ok_or_else(|| missing("iss"))?;
    let subject = text("sub").ok_or_else(|| missing("sub"))?;
    let provider = providers
        .iter()
        .find(|provider| provider.issuer == issuer)
        .ok_or_else(|| invalid(&format!("No OpenIDConnect provider found in your account for {issuer}")))?;
    if !provider.keys.iter().any(|key| signed_by(&token, key)) {
        return Err(invalid(
            "Couldn't retrieve verification key from your identity provider, please reference \
                AssumeRoleWithWebIdentity documentation for requirements",
        ));
    }
    // The real service rejects strings and fractions too.
    let (Some(expires), Some(_)) = (token.claims["exp"].as_i64(), token.claims["iat"].as_i64()) else {
        return Err(missing("exp or iat, as an integer"));
    };
    if expires <= now.as_second() {
        let message = format!(
            "Token expired: current date/time {} must be before the expiration date/time {expires}",
            now.as_second()
        );
        return Err(ErrorResponse::new(400, "ExpiredTokenException", message));
    }
    if token.claims["nbf"].as_i64().is_some_and(|start| start > now.as_second()) {
        return Err(invalid("Token is not yet valid"));
    }
    let audience = &token.claims["aud"];
    let wanted = provider.audience.as_str();
    let audience = audience == wanted || audience.as_array().is_some_and(|list| list.iter().any(|one| one == wanted));
    if !audience {
        return Err(invalid("Incorrect token audience"));
    }
    Ok(Claims { issuer: issuer.to_owned(), subject: subject.to_owned(), audience: provider.audience.clone() })
}

/// The subject that a token claims, verified or not. For the record.
pub(super) fn claimed_subject(token: &str) -> Option<String> {
    parse(token)?.claims["sub"].as_str().map(str::to_owned)
}

fn parse(token: &str) -> Option<Token<'_>> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    Some(Token {
        header: json(header)?,
        claims: json(claims)?,
        signed,
        signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
    })
}

fn signed_by(token: &Token<'_>, key: &Value) -> bool {
    let (named, kid) = (&token.header["kid"], &key["kid"]);
    if named.is_string() && kid.is_string() && named != kid {
        return false;
    }
    let part = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
    let rsa = |how: &RsaParameters| {
        let (Some(n), Some(e)) = (part("n"), part("e")) else { return false };
        RsaPublicKeyComponents { n, e }.verify(how, token.signed.as_bytes(), &token.signature).is_ok()
    };
    let ec = |how: &'static dyn VerificationAlgorithm| {
        let (Some(x), Some(y)) = (part("x"), part("y")) else { return false };
        let point = [vec![4], x, y].concat();
        UnparsedPublicKey::new(how, point).verify(token.signed.as_bytes(), &token.signature).is_ok()
    };
    match (token.header["alg"].as_str(), key["kty"].as_str()) {
        (Some("RS256"), Some("RSA")) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        (Some("RS384"), Some("RSA")) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        (Some("RS512"), Some("RSA")) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        (Some("ES256"), Some("EC")) => ec(&signature::ECDSA_P256_SHA256_FIXED),
        (Some("ES384"), Some("EC")) => ec(&signature::ECDSA_P384_SHA384_FIXED),
        (Some("ES512"), Some("EC")) => ec(&signature::ECDSA_P521_SHA512_FIXED),
        // Especially `none` and HMAC: accepting them would accept forged tokens.
        _ => false,
    }
}

fn invalid(message: &str) -> ErrorResponse {
    ErrorResponse::new(400, "InvalidIdentityToken", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
    use serde_json::json;

    const ISSUER: &str = "https://oidc.example";

    fn token(alg: &str, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": alg, "kid": "k1"})), part(claims));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(now: i64) -> Value {
        json!({"iss": ISSUER, "sub": "system:serviceaccount:web:app", "aud": ["sts.amazonaws.com"], "iat": now, "exp": now + 600})
    }

    fn provider(key: Value) -> [Provider; 1] {
        [Provider { issuer: ISSUER.to_owned(), audience: "sts.amazonaws.com".to_owned(), keys: vec![key] }]
    }

    #[test]
    fn verifies_es256_and_rejects_everything_else() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": coordinate(&point[1..33]), "y": coordinate(&point[33..])});
        let providers = provider(key);
        let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        let now = Timestamp::now();
        let good = claims(now.as_second());
        let verified = verify(&token("ES256", &good, sign), &providers, now).unwrap();
        assert_eq!((verified.subject.as_str(), verified.issuer.as_str()), ("system:serviceaccount:web:app", ISSUER));

        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            verify(&token("ES256", &claims, sign), &providers, now).unwrap_err()
        };
        assert_eq!(with("exp", json!(now.as_second())).code, "ExpiredTokenException");
        assert_eq!(with("exp", json!("soon")).code, "InvalidIdentityToken");
        assert!(with("aud", json!("other")).message.contains("audience"));
        assert!(with("iss", json!("https://other")).message.contains("No OpenIDConnect provider"));
        assert!(with("nbf", json!(now.as_second() + 60)).message.contains("not yet valid"));
        for forged in [
            token("none", &good, |_| Vec::new()),
            token("HS256", &good, sign),
            token("ES256", &good, |_| vec![1; 64]),
            "a.b".to_owned(),
        ] {
            assert_eq!(verify(&forged, &providers, now).unwrap_err().code, "InvalidIdentityToken");
        }
    }

    #[test]
    fn verifies_rs256() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        // RSAPublicKey of a 2048-bit key: SEQUENCE (4 bytes), INTEGER (4 bytes and a zero), 256 bytes, INTEGER (2 bytes), 3 bytes.
        let der = pair.public_key().as_ref();
        let (n, e) = (URL_SAFE_NO_PAD.encode(&der[9..265]), URL_SAFE_NO_PAD.encode(&der[267..]));
        let providers = provider(json!({"kty": "RSA", "kid": "k1", "n": n, "e": e}));
        let sign = |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        let now = Timestamp::now();
        assert!(verify(&token("RS256", &claims(now.as_second()), sign), &providers, now).is_ok());
        assert!(verify(&token("RS384", &claims(now.as_second()), sign), &providers, now).is_err());
    }
}
