//! Writes objects over HTTP and returns the parts of the answer that kubectl shows: status, message, warnings.

use anyhow::{Context as _, Result};
use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::rig::Rig;
use podrole_lab::world;
use serde_json::Value;
use tokio::runtime::Runtime;

/// A client of the API server with the administrator's rights.
pub(crate) struct Api {
    runtime: Runtime,
    client: kube::Client,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

// === impl Api ===

impl Api {
    pub(crate) fn new(rig: &Rig<Cluster>) -> Result<Self> {
        let path = world::scratch().join("api.kubeconfig");
        rig.kube.kubeconfig(&path, User::Admin)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(&path)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(kube::Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    pub(crate) fn post(&self, path: &str, object: &Value) -> Result<Answer> {
        self.send("POST", path, "application/json", object)
    }

    pub(crate) fn put(&self, path: &str, object: &Value) -> Result<Answer> {
        self.send("PUT", path, "application/json", object)
    }

    /// Sends a JSON merge patch.
    pub(crate) fn merge(&self, path: &str, patch: &Value) -> Result<Answer> {
        self.send("PATCH", path, "application/merge-patch+json", patch)
    }

    fn send(&self, method: &str, path: &str, kind: &str, object: &Value) -> Result<Answer> {
        let body = Body::from(serde_json::to_vec(object)?);
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
        self.runtime.block_on(async {
            let (head, body) =
                self.client.send(request).await.with_context(|| format!("{method} {path}"))?.into_parts();
            let body = body.collect().await.with_context(|| format!("{method} {path}"))?.to_bytes();
            let warnings = head.headers.get_all("warning").iter();
            Ok(Answer {
                status: head.status.as_u16(),
                warnings: warnings.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).collect(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            })
        })
    }
}

// === impl Answer ===

impl Answer {
    /// Whether the server accepted the object.
    pub(crate) fn is_admitted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The server's message about a rejection.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}
