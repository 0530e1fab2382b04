//! The instance metadata protocol as EC2 speaks it, without sockets: requests in, routes and documents out.
//!
//! podrole answers a fixed list of paths itself and forwards nothing. podrole answers every path that is not in [`route`] as not
//! existing.

mod document;
mod facts;
mod route;
mod token;

pub use document::{CredentialsDocument, error_document, http_date, iam_info, identity_document, imds_date};
pub use facts::Facts;
pub use route::{Classified, Fact, Listing, Rejection, Route, SessionToken, classify, is_forwarded};
pub use token::{KEY_LIFE, Key, KeyRing, MAX_TTL, TokenBinding, TokenError};

use http::HeaderName;

/// The header with the session token of a GET.
pub const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// The header with the requested lifetime of a PUT, and with the granted or remaining lifetime of every answer.
pub const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
