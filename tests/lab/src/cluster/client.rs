//! One user's connection to the API server: JSON in, JSON out, with a timeout for every request.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Method, Request, header};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::User;
use super::scratch::base64;

/// The timeout of a request. The slowest one here, an object of the largest size, takes milliseconds.
const REQUEST: Duration = Duration::from_secs(20);

/// Whether `error` is an error response of the API server with this HTTP status.
pub fn is_status(error: &anyhow::Error, code: u16) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code == code,
        Some(_) | None => false,
    })
}

/// The body of a request.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// No body.
    None,
    /// A whole object.
    Object(Value),
    /// A JSON merge patch: objects merge, lists and scalars replace, null removes.
    Merge(Value),
}

/// One user's client for the API server. Clones share their connections.
#[derive(Clone)]
pub(super) struct Session {
    client: kube::Client,
    ca_pem: String,
    token: String,
}

impl std::fmt::Debug for Session {
    /// Omits the token, because tests print their values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Prepares a client; sends nothing yet.
    pub(super) async fn new(address: SocketAddr, user: User, ca_pem: String, token: String) -> Result<Self> {
        // The first call in the process wins; an installed provider is the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let document = kubeconfig(address, user.name(), &ca_pem, &token);
        let kubeconfig: Kubeconfig = serde_json::from_value(document).context("reading our own kubeconfig")?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("parsing our own kubeconfig")?;
        config.connect_timeout = Some(Duration::from_secs(5));
        // Tests must see a 429 or 503 instead of having it retried.
        config.default_retry = false;
        let client = kube::Client::try_from(config).context("preparing the client")?;
        Ok(Self { client, ca_pem, token })
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Sends one request and parses the response. A response that is not JSON (`/readyz`) becomes a string.
    pub(super) async fn send(&self, method: Method, path: &str, body: Body) -> Result<Value> {
        let what = format!("{method} {path}");
        let (content_type, bytes) = match body {
            Body::None => (None, Vec::new()),
            Body::Object(object) => (Some("application/json"), serde_json::to_vec(&object)?),
            Body::Merge(patch) => (Some("application/merge-patch+json"), serde_json::to_vec(&patch)?),
        };
        // Some endpoints (issuer keys, metrics) have their own content type and reject clients that accept only JSON.
        let accept = "application/json, */*;q=0.1";
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(bytes).with_context(|| format!("building {what}"))?;
        let text = tokio::time::timeout(REQUEST, self.client.request_text(request))
            .await
            .with_context(|| format!("{what}: no answer within {REQUEST:?}"))?
            .with_context(|| what.clone())?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// A kubeconfig document for the user `name`.
pub(super) fn kubeconfig(address: SocketAddr, name: &str, ca_pem: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": "lab", "user": name}}],
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": base64(ca_pem.as_bytes()),
        }}],
        "users": [{"name": name, "user": {"token": token}}],
    })
}
