//! The only map from an outcome to what goes over the wire.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LAST_MODIFIED, RETRY_AFTER, SERVER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::Outcome;
use crate::cache::Miss;
use crate::caller::resolver::Unproven;
use crate::imds::{Refusal, TOKEN_TTL, error_document, http_date};
use crate::issuer::IssueError;

/// A whole answer.
pub type Reply = Response<Full<Bytes>>;

/// Renders `outcome`. Bodies of refusals are fixed texts: they tell a caller nothing about anybody else.
pub(super) fn reply(outcome: Outcome, now: SystemTime) -> Reply {
    match outcome {
        Outcome::Token { token, ttl } => with_ttl(text(StatusCode::OK, token), Some(ttl)),
        Outcome::Credentials { body, last_modified, ttl } => with_ttl(resource(body, last_modified), ttl),
        Outcome::Text { body, ttl } => with_ttl(resource(body.into(), http_date(now)), ttl),
        Outcome::Refused(Refusal::Malformed(_)) => page(StatusCode::BAD_REQUEST, "400 - Bad Request"),
        Outcome::Refused(Refusal::Forwarded(_) | Refusal::PutElsewhere) => text(StatusCode::FORBIDDEN, ""),
        Outcome::Refused(Refusal::Method { allow }) => {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            reply
        }
        Outcome::TokenRequired | Outcome::BadToken(_) => text(StatusCode::UNAUTHORIZED, ""),
        // Definite: asking again changes nothing.
        Outcome::Unproven(Unproven::SocketNotInPod | Unproven::NotAContainer)
        | Outcome::Denied(_)
        | Outcome::WrongRole
        | Outcome::NotFound => page(StatusCode::NOT_FOUND, "404 - Not Found"),
        // Ask again: SDKs take a 404 for "there is no role" and stop.
        Outcome::Unproven(Unproven::Kernel(_) | Unproven::NoNamespace | Unproven::TimedOut)
        | Outcome::NotOwner(_)
        | Outcome::NotReady(_)
        | Outcome::IdentityChanged => later(),
        Outcome::NotIssued { miss: Miss::Failed(IssueError::Denied { code, hint }), role } => {
            let message = format!("podrole may not assume {role} ({code}): {hint}");
            resource(error_document("AssumeRoleUnauthorizedAccess", &message, now).into(), http_date(now))
        }
        Outcome::NotIssued {
            miss:
                Miss::TimedOut
                | Miss::Failed(IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. }),
            ..
        } => later(),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let nothing = body.is_empty();
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    if nothing {
        // hyper says so by itself, except where HEAD asks.
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

fn later() -> Reply {
    let mut reply = text(StatusCode::SERVICE_UNAVAILABLE, "");
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

fn with_ttl(mut reply: Reply, ttl: Option<u32>) -> Reply {
    if let Some(ttl) = ttl {
        reply.headers_mut().insert(TOKEN_TTL, ttl.into());
    }
    reply
}
