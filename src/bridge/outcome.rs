//! Every way a request can end.

use bytes::Bytes;
use http::HeaderValue;

use super::owner::NotOwner;
use crate::cache::Miss;
use crate::caller::resolver::Unproven;
use crate::imds::{Refusal, TokenError};
use crate::policy::{DenyReason, NotYet};
use crate::types::RoleArn;

/// One of these ends every request; it decides the status, the body and the label. No `Debug`: it holds what the pod is given.
pub enum Outcome {
    /// A session token.
    Token {
        /// The token.
        token: String,
        /// Its life in seconds.
        ttl: u32,
    },
    /// A credentials document.
    Credentials {
        /// The bytes, shared with every other such answer.
        body: Bytes,
        /// When they were rendered.
        last_modified: HeaderValue,
        /// What is left of the caller's session token; `None`: it came without.
        ttl: Option<u32>,
    },
    /// Anything else that is no secret.
    Text {
        /// The body.
        body: String,
        /// As above.
        ttl: Option<u32>,
    },
    /// Not a request of a metadata client.
    Refused(Refusal),
    /// No session token where one is needed.
    TokenRequired,
    /// A session token that is not this caller's, or not any more.
    BadToken(TokenError),
    /// The kernel does not say whose connection it is.
    Unproven(Unproven),
    /// It does, and the pod may not be served from there.
    NotOwner(NotOwner),
    /// Not known yet.
    NotReady(Unready),
    /// Policy says no.
    Denied(DenyReason),
    /// A role's name that is not this pod's.
    WrongRole,
    /// Nothing that we serve, or a fact that is not known.
    NotFound,
    /// The issuer gave nothing.
    NotIssued {
        /// Why.
        miss: Miss,
        /// Of what.
        role: RoleArn,
    },
    /// The caller is not who it was when it asked.
    IdentityChanged,
}

/// What is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The pod's address, which would tell it from a squatter.
    Address,
    /// What policy needs for its decision.
    Decision(NotYet),
    /// The namespace.
    Namespace,
    /// The pod.
    Pod,
    /// Our own account and region.
    Rules,
}

// === impl Outcome ===

impl Outcome {
    /// The label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } | Self::Credentials { .. } | Self::Text { .. } => "ok",
            Self::Refused(Refusal::Malformed(_)) => "malformed",
            Self::Refused(Refusal::Forwarded(_)) => "forwarded",
            Self::Refused(Refusal::PutElsewhere) => "put_elsewhere",
            Self::Refused(Refusal::Method { .. }) => "method",
            Self::TokenRequired => "token_required",
            Self::BadToken(_) => "bad_token",
            Self::Unproven(Unproven::Kernel(_)) => "kernel_error",
            Self::Unproven(Unproven::NoNamespace) => "no_namespace",
            Self::Unproven(Unproven::SocketNotInPod) => "socket_not_in_pod",
            Self::Unproven(Unproven::NotAContainer) => "not_a_container",
            Self::Unproven(Unproven::TimedOut) => "proof_timeout",
            Self::NotOwner(not_owner) => not_owner.name(),
            Self::NotReady(Unready::Address) => "address_unknown",
            Self::NotReady(Unready::Decision(what)) => what.name(),
            Self::NotReady(Unready::Namespace) => NotYet::Namespace.name(),
            Self::NotReady(Unready::Pod) => "pod_unknown",
            Self::NotReady(Unready::Rules) => "starting",
            Self::Denied(_) => "denied",
            Self::WrongRole => "wrong_role",
            Self::NotFound => "not_found",
            Self::NotIssued { miss: Miss::TimedOut, .. } => "issuer_timeout",
            Self::NotIssued { miss: Miss::Failed(_), .. } => "issuer_error",
            Self::IdentityChanged => "identity_changed",
        }
    }

    /// What the label does not say, for whoever looks for the reason of a refusal.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Refused(Refusal::Malformed(what) | Refusal::Forwarded(what)) => Some((*what).to_owned()),
            Self::BadToken(error) => Some(error.to_string()),
            Self::Unproven(error) => Some(error.to_string()),
            Self::NotOwner(why) => Some(why.explain().to_owned()),
            Self::Denied(reason) => Some(reason.explain()),
            Self::Token { .. }
            | Self::Credentials { .. }
            | Self::Text { .. }
            | Self::Refused(Refusal::PutElsewhere | Refusal::Method { .. })
            | Self::TokenRequired
            | Self::NotReady(_)
            | Self::WrongRole
            | Self::NotFound
            | Self::NotIssued { .. }
            | Self::IdentityChanged => None,
        }
    }
}
