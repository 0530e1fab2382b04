//! Every way in which a request can end, each with its metric label, status and body.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LAST_MODIFIED, RETRY_AFTER, SERVER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::caller_pod::Granted;
use super::unresolved::{Denied, NotReady, Unresolved};
use crate::cache::Issued;
use crate::caller::resolver::IdentityError;
use crate::imds::{Rejection, TOKEN_TTL, error_document, http_date};
use crate::issuer::IssueError;
use crate::types::DenialReason;

/// How a request ends.
pub(super) type Outcome = Result<Answer, Failure>;

/// An answer with status 200. It does not implement `Debug`, because it contains the secrets that the pod gets.
pub(super) enum Answer {
    /// A session token.
    Token {
        /// The token.
        token: String,
        /// Its lifetime in seconds.
        ttl: u32,
    },
    /// Credentials.
    Credentials {
        /// The caller and its grant.
        granted: Granted,
        /// The credentials and their documents.
        issued: Arc<Issued>,
        /// Whether the extended document was asked for.
        extended: bool,
        /// The remaining seconds of the caller's session token; `None` if the request came without one.
        ttl: Option<u32>,
    },
    /// Any other text, which contains no secret.
    Text {
        /// The body.
        body: String,
        /// The remaining seconds of the caller's session token; `None` if the request came without one.
        ttl: Option<u32>,
    },
}

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request itself is not acceptable.
    Rejected(Rejection),
    /// The kernel does not identify the caller.
    Unidentified(IdentityError),
    /// The answer is not known yet.
    NotReady(NotReady),
    /// A definite denial for a known pod.
    Denied(Denied),
    /// The service does not have this path, or this node does not have this fact.
    NotFound,
    /// The issuer failed, but may succeed later.
    Issuer(IssueError),
}

/// A whole HTTP answer.
pub type Reply = Response<Full<Bytes>>;

/// The stable name of an outcome: a label of `podrole_http_requests_total`.
pub(super) fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(Answer::Token { .. } | Answer::Credentials { .. } | Answer::Text { .. }) => "ok",
        Err(Failure::Rejected(rejection)) => rejection.name(),
        Err(Failure::Unidentified(error)) => error.name(),
        Err(Failure::NotReady(what)) => what.name(),
        Err(Failure::Denied(denied)) => denied.reason.denial().outcome(),
        Err(Failure::NotFound) => "not_found",
        Err(Failure::Issuer(_)) => "issuer_error",
    }
}

/// The details that the name does not contain, for the debug log.
pub(super) fn detail(outcome: &Outcome) -> Option<String> {
    match outcome {
        Err(Failure::Rejected(Rejection::Malformed(what) | Rejection::Forwarded(what))) => Some((*what).to_owned()),
        Err(Failure::Rejected(Rejection::BadToken(error))) => Some(error.to_string()),
        Err(Failure::Unidentified(error)) => Some(error.to_string()),
        Err(Failure::Denied(denied)) => Some(denied.reason.to_string()),
        Err(Failure::Issuer(error)) => Some(error.to_string()),
        Ok(_)
        | Err(
            Failure::Rejected(Rejection::TokenRequired | Rejection::PutElsewhere | Rejection::Method { .. })
            | Failure::NotReady(_)
            | Failure::NotFound,
        ) => None,
    }
}

/// The stable name of an outcome and the reply to the client. The bodies of failures are fixed texts that tell a caller nothing about
/// others; only a denial by STS names the caller's own role, in the error document that SDKs show.
pub(super) fn render(outcome: Outcome, now: SystemTime) -> (&'static str, Reply) {
    (name(&outcome), reply(outcome, now))
}

fn reply(outcome: Outcome, now: SystemTime) -> Reply {
    match outcome {
        Ok(Answer::Token { token, ttl }) => with_ttl(text(StatusCode::OK, token), Some(ttl)),
        Ok(Answer::Text { body, ttl }) => with_ttl(resource(body.into(), http_date(now)), ttl),
        Ok(Answer::Credentials { issued, extended, ttl, .. }) => {
            let document = &issued.document;
            let body = if extended { document.extended.clone() } else { document.plain.clone() };
            with_ttl(resource(body, document.last_modified.clone()), ttl)
        }
        Err(Failure::Rejected(rejection)) => rejected(rejection),
        // SDKs interpret a 404 as "there is no role" and stop asking, so only a definite answer is a 404.
        Err(
            Failure::Unidentified(IdentityError::SocketNotInPod | IdentityError::NotAContainer) | Failure::NotFound,
        ) => not_found(),
        Err(Failure::Denied(denied)) => denial(denied.reason, now),
        Err(
            Failure::Unidentified(
                IdentityError::Kernel(_) | IdentityError::NoNetns | IdentityError::Unowned | IdentityError::TimedOut,
            )
            | Failure::NotReady(_)
            | Failure::Issuer(_),
        ) => retry_later(),
    }
}

fn denial(reason: DenialReason, now: SystemTime) -> Reply {
    match reason {
        DenialReason::AboveCeiling { .. }
        | DenialReason::BadAllowList { .. }
        | DenialReason::BadExternalId { .. }
        | DenialReason::BadRole { .. }
        | DenialReason::BadSessionName { .. }
        | DenialReason::ContainerRolesRefused
        | DenialReason::NamespaceNotPermitted { .. }
        | DenialReason::NoRole
        | DenialReason::OwnRole { .. }
        | DenialReason::PodFinished
        | DenialReason::WrongRole { .. } => not_found(),
        // podrole cannot tell which pod is calling, but may be able to tell later.
        DenialReason::AddressConflict | DenialReason::Ambiguous | DenialReason::ForeignNamespace => retry_later(),
        DenialReason::AssumeRoleRefused { role, code, hint } => {
            let message = format!("podrole may not assume {role} ({code}): {hint}");
            resource(error_document("AssumeRoleUnauthorizedAccess", &message, now).into(), http_date(now))
        }
    }
}

fn rejected(rejection: Rejection) -> Reply {
    match rejection {
        Rejection::Malformed(_) => page(StatusCode::BAD_REQUEST, "400 - Bad Request"),
        Rejection::TokenRequired | Rejection::BadToken(_) => text(StatusCode::UNAUTHORIZED, ""),
        Rejection::Forwarded(_) | Rejection::PutElsewhere => text(StatusCode::FORBIDDEN, ""),
        Rejection::Method { allow } => {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            reply
        }
    }
}

fn not_found() -> Reply {
    page(StatusCode::NOT_FOUND, "404 - Not Found")
}

fn retry_later() -> Reply {
    let mut reply = text(StatusCode::SERVICE_UNAVAILABLE, "");
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let is_empty = body.is_empty();
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    if is_empty {
        // hyper adds this header itself, except to the answer to a HEAD request.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply
}

fn resource(body: Bytes, last_modified: HeaderValue) -> Reply {
    let mut reply = text(StatusCode::OK, body);
    let headers = reply.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    headers.insert(LAST_MODIFIED, last_modified);
    reply
}

fn page(status: StatusCode, title: &'static str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n\
         <!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\" \
         \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
         <html xmlns=\"http://www.w3.org/1999/xhtml\"><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    );
    let mut reply = text(status, body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    reply
}

fn with_ttl(mut reply: Reply, ttl: Option<u32>) -> Reply {
    if let Some(ttl) = ttl {
        reply.headers_mut().insert(TOKEN_TTL, ttl.into());
    }
    reply
}

// === impl Failure ===

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Unresolved> for Failure {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::NotReady(what) => Self::NotReady(what),
            Unresolved::Denied(denied) => Self::Denied(denied),
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
