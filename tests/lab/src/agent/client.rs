//! What tests do with an agent: single requests, kept connections, and an SDK's sequence of requests.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use super::wire::Op;
use super::{Agent, BASE64, End, Failure, Received, Response, Target};

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// An agent's client for one target.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    agent: &'a Agent,
    target: Target,
}

impl<'a> Client<'a> {
    pub(super) fn new(agent: &'a Agent, target: Target) -> Self {
        Self { agent, target }
    }

    /// Sends raw bytes on a new connection and reads and parses the answer.
    pub fn raw(&self, bytes: &[u8]) -> Result<Response, Failure> {
        Response::parse(self.exchange(bytes)?)
    }

    /// Like [`Client::raw`], but returns the bytes without parsing them.
    pub fn exchange(&self, bytes: &[u8]) -> Result<Received, Failure> {
        self.agent.call(&Op::Exchange { target: self.target, data: BASE64.encode(bytes) })?.received()
    }

    /// A request without a body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response, Failure> {
        self.raw(&self.render(method, path, headers))
    }

    /// Sends a `GET`.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, Failure> {
        self.request("GET", path, headers)
    }

    /// The bytes of a request, for [`Client::raw`] and for load.
    pub fn render(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let host = match self.target.to {
            SocketAddr::V4(v4) if v4.port() == 80 => v4.ip().to_string(),
            SocketAddr::V6(v6) if v6.port() == 80 => format!("[{}]", v6.ip()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => self.target.to.to_string(),
        };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n").expect("writing to a String cannot fail");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Requests a session token with this TTL in seconds.
    pub fn put_token(&self, seconds: u32) -> Result<Response, Failure> {
        let seconds = seconds.to_string();
        self.request("PUT", "/latest/api/token", &[("X-aws-ec2-metadata-token-ttl-seconds", &seconds)])
    }

    /// Requests a session token valid for six hours, as SDKs do.
    pub fn token(&self) -> Result<String, CredsError> {
        Ok(success("token", self.put_token(21_600)?)?.text())
    }

    /// Gets credentials as an SDK does: token, role, credentials.
    pub fn credentials(&self) -> Result<Creds, CredsError> {
        let token = self.token()?;
        let headers = [("X-aws-ec2-metadata-token", token.as_str())];
        let role = success("role", self.get(ROLES, &headers)?)?.text();
        let response = success("credentials", self.get(&format!("{ROLES}{role}"), &headers)?)?;
        Creds::parse(role, response)
    }
}

/// Credentials as the metadata service returns them.
#[derive(Clone, Debug)]
pub struct Creds {
    /// The name of the role in the list.
    pub role: String,
    /// `AccessKeyId`
    pub access_key_id: String,
    /// `SecretAccessKey`
    pub secret_access_key: String,
    /// `Token`
    pub token: String,
    /// `Expiration`
    pub expiration: String,
    /// `LastUpdated`
    pub last_updated: String,
    /// The response that contained them.
    pub response: Response,
}

impl Creds {
    fn parse(role: String, response: Response) -> Result<Self, CredsError> {
        let body = response.json().map_err(|error| CredsError::Body(format!("{error}: {response:?}")))?;
        let field = |name: &str| match body.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) | None => Err(CredsError::Body(format!("no {name} in {response:?}"))),
        };
        let code = field("Code")?;
        if code != "Success" {
            return Err(CredsError::Code(code, response));
        }
        Ok(Self {
            role,
            access_key_id: field("AccessKeyId")?,
            secret_access_key: field("SecretAccessKey")?,
            token: field("Token")?,
            expiration: field("Expiration")?,
            last_updated: field("LastUpdated")?,
            response: response.clone(),
        })
    }
}

/// Why a request for credentials failed.
#[derive(Clone, Debug)]
pub enum CredsError {
    /// A request got no answer.
    Connection(Failure),
    /// The named step was answered with a status other than 200.
    Status(&'static str, Response),
    /// A 200 whose `Code` is not `Success`.
    Code(String, Response),
    /// A 200 response that an SDK could not parse.
    Body(String),
}

impl CredsError {
    /// The HTTP status that ended the sequence, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(_, response) => Some(response.status),
            Self::Connection(_) | Self::Code(..) | Self::Body(_) => None,
        }
    }
}

impl From<Failure> for CredsError {
    fn from(failure: Failure) -> Self {
        Self::Connection(failure)
    }
}

impl fmt::Display for CredsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(failure) => write!(f, "no answer: {failure}"),
            Self::Status(step, response) => write!(f, "{step}: status {}: {}", response.status, response.text()),
            Self::Code(code, _) => write!(f, "code {code}"),
            Self::Body(why) => write!(f, "unreadable: {why}"),
        }
    }
}

impl std::error::Error for CredsError {}

fn success(step: &'static str, response: Response) -> Result<Response, CredsError> {
    if response.status == 200 { Ok(response) } else { Err(CredsError::Status(step, response)) }
}

/// A connection that the agent keeps open. Dropping it closes it.
#[derive(Debug)]
pub struct Connection<'a> {
    agent: &'a Agent,
    handle: u64,
    local: SocketAddr,
    open: bool,
}

impl<'a> Connection<'a> {
    pub(super) fn open(agent: &'a Agent, target: &Target) -> Result<Self, Failure> {
        let (handle, local) = agent.call(&Op::Open { target: *target })?.opened()?;
        Ok(Self { agent, handle, local, open: true })
    }

    /// The connection's local address and port, as the container sees them.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends bytes.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.done(&Op::Send { handle: self.handle, data: BASE64.encode(bytes) })
    }

    /// Reads until the peer closes the connection or the timeout expires.
    pub fn read(&self, timeout: Duration) -> Result<Received, Failure> {
        self.read_at_most(usize::MAX, timeout)
    }

    /// Reads until `limit` bytes have arrived, the peer closes the connection or the timeout expires.
    pub fn read_at_most(&self, limit: usize, timeout: Duration) -> Result<Received, Failure> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.agent.call(&Op::Read { handle: self.handle, limit, timeout_ms })?.received()
    }

    /// Reads one answer to its end.
    pub fn response(&self, timeout: Duration) -> Result<Response, Failure> {
        Response::parse(self.read(timeout)?)
    }

    /// Shuts the connection down for writing.
    pub fn finish(&self) -> Result<(), Failure> {
        self.done(&Op::Finish { handle: self.handle })
    }

    /// Closes the connection in an orderly way.
    pub fn close(mut self) -> Result<(), Failure> {
        self.end(false)
    }

    /// Closes the connection with a TCP reset.
    pub fn reset(mut self) -> Result<(), Failure> {
        self.end(true)
    }

    /// Whether the peer closes or resets the connection within `timeout`.
    pub fn is_ended(&self, timeout: Duration) -> Result<bool, Failure> {
        Ok(matches!(self.read(timeout)?.end, End::Closed | End::Reset))
    }

    fn end(&mut self, reset: bool) -> Result<(), Failure> {
        self.open = false;
        self.done(&Op::Close { handle: self.handle, reset })
    }

    fn done(&self, op: &Op) -> Result<(), Failure> {
        self.agent.call(op)?.done()
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if self.open {
            // Ignore errors: if the agent is gone, the connection is gone too.
            self.end(false).ok();
        }
    }
}
