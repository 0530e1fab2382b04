//! An IMDSv2 client for the eight paths that podrole needs.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::UpstreamError;
use crate::imds::{Facts, TOKEN, TOKEN_TTL};

/// The time limit of one request. A healthy service answers within a millisecond.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes that are read from one answer, far more than any fact has.
const MAX_BODY: usize = 64 * 1024;

/// The facts that the metadata service reports about the node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The facts that pods may read.
    pub facts: Facts,
    /// The name of the role in the node's instance profile, which no pod may get.
    pub node_role: Option<String>,
}

/// A client of one endpoint.
#[derive(Clone, Debug)]
pub struct Client {
    authority: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

// === impl Client ===

impl Client {
    /// A client for `endpoint`, such as `http://169.254.169.254`.
    pub fn new(endpoint: &Uri) -> Self {
        let host = endpoint.host().unwrap_or("169.254.169.254");
        Self { authority: format!("{host}:{}", endpoint.port_u16().unwrap_or(80)) }
    }

    /// The name of the cloud if the service is recognizably another cloud's. `None` for EC2's service and for a service that does
    /// not answer.
    pub async fn foreign_cloud(&self) -> Option<&'static str> {
        let answer = self.send(Method::GET, "/", &[]).await.ok()?;
        foreign(&answer.headers)
    }

    /// Whether the service answers requests without a session token (IMDSv1). If it does, a program on the node that can be made to
    /// fetch a URL can be made to fetch the node's credentials.
    pub async fn answers_without_token(&self) -> Result<bool, UpstreamError> {
        Ok(self.send(Method::GET, "/latest/meta-data/", &[]).await?.status == StatusCode::OK)
    }

    /// Sends a `GET` without a token. Returns status and body.
    pub async fn text(&self, path: &'static str) -> Result<(u16, String), UpstreamError> {
        let answer = self.send(Method::GET, path, &[]).await?;
        Ok((answer.status.as_u16(), answer.body))
    }

    /// All facts. Those that the service does not have are `None`.
    pub async fn facts(&self) -> Result<NodeFacts, UpstreamError> {
        let path = "/latest/api/token";
        let answer = self.send(Method::PUT, path, &[(TOKEN_TTL.as_str(), "300")]).await?;
        if let Some(cloud) = foreign(&answer.headers) {
            return Err(UpstreamError::ForeignCloud(cloud));
        }
        if answer.status != StatusCode::OK || !answer.headers.contains_key(TOKEN_TTL) {
            return Err(UpstreamError::Status { path, status: answer.status.as_u16() });
        }
        let token = answer.body;
        let get = |path| self.get(path, &token);
        let document = get("/latest/dynamic/instance-identity/document").await?;
        let document: serde_json::Value =
            document.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let documented = |key: &str| document[key].as_str().map(std::sync::Arc::from);
        let arc = |text: Option<String>| text.map(std::sync::Arc::from);
        let region = arc(get("/latest/meta-data/placement/region").await?).or_else(|| documented("region"));
        let facts = Facts {
            region,
            zone: arc(get("/latest/meta-data/placement/availability-zone").await?),
            zone_id: arc(get("/latest/meta-data/placement/availability-zone-id").await?),
            instance_type: arc(get("/latest/meta-data/instance-type").await?),
            domain: arc(get("/latest/meta-data/services/domain").await?),
            partition: arc(get("/latest/meta-data/services/partition").await?),
            account: documented("accountId"),
        };
        // This path lists the role names; the credentials themselves are never requested.
        let roles = get("/latest/meta-data/iam/security-credentials/").await?;
        let node_role = roles.and_then(|list| list.lines().next().map(str::to_owned));
        Ok(NodeFacts { facts, node_role })
    }

    async fn get(&self, path: &'static str, token: &str) -> Result<Option<String>, UpstreamError> {
        let answer = self.send(Method::GET, path, &[(TOKEN.as_str(), token)]).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body.trim().to_owned()).filter(|text| !text.is_empty())),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(UpstreamError::Status { path, status: status.as_u16() }),
        }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Answer, UpstreamError> {
        let unreachable = |reason: String| UpstreamError::Unreachable { endpoint: self.authority.clone(), reason };
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, headers)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer within a second".into())),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.authority.trim_end_matches(":80"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        // The connection makes progress only while it is polled.
        tokio::select! {
            answer = &mut exchange => answer,
            result = &mut connection => {
                result?;
                exchange.await
            }
        }
    }
}

fn foreign(headers: &HeaderMap) -> Option<&'static str> {
    let server = headers.get("server").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if headers.contains_key("metadata-flavor") || server.starts_with("Metadata Server for VM") {
        Some("Google Cloud")
    } else if server.starts_with("IMDS/") || server.starts_with("Microsoft") {
        Some("Azure")
    } else {
        None
    }
}
