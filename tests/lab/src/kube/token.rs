//! TokenRequest: signed service account tokens, bound to pods, with the checks of the real API server.

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::resources::Kind;
use super::status::Status;
use super::store::{Key, Store};

/// The issuer in the tokens, as verifiers know it.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const KEY_ID: &str = "lab";

/// The cluster's signing key.
pub(super) struct Signer {
    pair: EcdsaKeyPair,
}

impl Signer {
    /// Generates a new key.
    pub(super) fn new() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Ok(Self { pair: pair.map_err(|_| anyhow!("no key could be generated"))? })
    }

    /// The public keys, as served at `/openid/v1/jwks`.
    pub(super) fn jwks(&self) -> Value {
        // An uncompressed point: a tag byte, then two coordinates of equal length.
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"keys": [{"kty": "EC", "use": "sig", "alg": "ES256", "crv": "P-256", "kid": KEY_ID, "x": x, "y": y}]})
    }

    /// Answers a TokenRequest for a service account.
    pub(super) fn answer(
        &self,
        store: &Store,
        namespace: &str,
        account: &str,
        request: &Value,
    ) -> Result<Value, Status> {
        let owner = find(store, "serviceaccounts", namespace, account)?;
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        if !(600..=1 << 32).contains(&seconds) {
            let why = "may not specify a duration less than 10 minutes";
            let message = format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: \
                    {seconds}: {why}"
            );
            return Err(Status::new(422, message));
        }
        let now = Timestamp::now();
        let mut about = json!({
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": owner["metadata"]["uid"]},
        });
        if let Some(pod) = bound_pod(store, namespace, account, &spec["boundObjectRef"])? {
            about["pod"] = pod;
        }
        let own_audience = json!([ISSUER]);
        let audiences =
            spec["audiences"].as_array().filter(|list| !list.is_empty()).map_or(own_audience, |list| json!(list));
        let claims = json!({
            "iss": ISSUER, "aud": audiences, "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "iat": now.as_second(), "nbf": now.as_second(), "exp": now.as_second() + seconds, "kubernetes.io": about,
        });
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        let mut answer = request.clone();
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        answer["kind"] = json!("TokenRequest");
        answer["spec"]["audiences"] = audiences;
        answer["spec"]["expirationSeconds"] = json!(seconds);
        answer["status"] = json!({
            "token": self.sign(&claims)?,
            "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        Ok(answer)
    }

    fn sign(&self, claims: &Value) -> Result<String, Status> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": KEY_ID})), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| Status::new(500, "the token could not be signed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The claims about the pod to which a token is bound.
fn bound_pod(store: &Store, namespace: &str, account: &str, bound: &Value) -> Result<Option<Value>, Status> {
    if bound.is_null() {
        return Ok(None);
    }
    if bound["kind"] != "Pod" {
        return Err(Status::new(400, format!("cannot bind token to object of type {}", bound["kind"])));
    }
    let name = bound["name"].as_str().unwrap_or_default();
    let pod = find(store, "pods", namespace, name)?;
    if pod["spec"]["serviceAccountName"].as_str().unwrap_or("default") != account {
        let message = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(Status::new(400, message));
    }
    let (uid, asked) = (&pod["metadata"]["uid"], &bound["uid"]);
    if asked.as_str().is_some_and(|asked| !asked.is_empty()) && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might \
                have been deleted and then recreated"
        );
        return Err(Status::new(409, format!("Operation cannot be fulfilled on pods {name:?}: {why}")));
    }
    Ok(Some(json!({"name": name, "uid": uid})))
}

fn find(store: &Store, plural: &str, namespace: &str, name: &str) -> Result<std::sync::Arc<Value>, Status> {
    let kind = Kind::named(plural).ok_or_else(Status::no_such_resource)?;
    store.get(&Key::new(kind, namespace, name)).ok_or_else(|| Status::not_found(plural, name))
}
