//! The instance metadata protocol as EC2 speaks it, without sockets: requests in, routes and documents out.
//!
//! We are an origin with an allow-list, never a proxy: a path that [`route`] does not know does not exist.

mod document;
mod facts;
mod route;
mod token;

pub use document::{CredentialsDocument, error_document, http_date, iam_info, identity_document, imds_date};
pub use facts::Facts;
pub use route::{Fact, Listing, Rejection, Route, SessionToken, classify, is_forwarded, session_token};
pub use token::{KEY_LIFE, Key, KeyRing, MAX_TTL, TokenBinding, TokenError};

use http::HeaderName;

/// Carries the session token on a GET.
pub const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// Carries the wanted lifetime on the PUT, and the granted or remaining one on every answer.
pub const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
