//! The port to whatever issues credentials: what is asked, what comes back, and every way it can fail.

pub mod base;
pub mod sts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::types::{Credentials, ExternalId, RoleArn, SessionName};

/// All inputs of one STS call, and by that the key of the credential cache: two callers share credentials only where every
/// one of these is equal. A field that a call uses and that is missing here would be a leak.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IssueRequest {
    /// How, and as whom, the call is made.
    pub source: Source,
    /// The role.
    pub role: RoleArn,
    /// The session's name.
    pub session_name: SessionName,
    /// The external id.
    pub external_id: Option<ExternalId>,
    /// Asked for; STS may give no less.
    pub duration: Duration,
    /// The region whose STS is asked.
    pub region: Arc<str>,
}

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `AssumeRole` with the daemon's own credentials, or with those of a first hop.
    AssumeRole {
        /// `--assume-role-arn`.
        first_hop: Option<RoleArn>,
    },
}

/// Why there are no credentials. Closed: every error that STS or the way to it can produce is one of these.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IssueError {
    /// The daemon's own credentials are missing, expired or refused: nobody's fault but ours.
    #[error("podrole's own credentials are not usable ({code}): {hint}")]
    Base {
        /// STS's code, or what happened instead of one.
        code: Code,
        /// What to do.
        hint: &'static str,
    },
    /// STS refused this very request, and will until somebody changes IAM or the pod.
    #[error("STS refused ({code}): {hint}")]
    Denied {
        /// STS's code.
        code: Code,
        /// What to do.
        hint: &'static str,
    },
    /// Too many calls.
    #[error("STS is throttling ({code})")]
    Throttled {
        /// STS's code.
        code: Code,
    },
    /// No answer, or one that says "later".
    #[error("STS is not available ({code})")]
    Unavailable {
        /// STS's code, or what happened instead of one.
        code: Code,
    },
}

/// STS's error codes as far as they tell classes apart, and what can happen before there is a code. A metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `AccessDenied`
    AccessDenied,
    /// `ExpiredToken`, `ExpiredTokenException`
    ExpiredToken,
    /// `InvalidClientTokenId`, `UnrecognizedClientException`, `SignatureDoesNotMatch`, `RequestExpired`, …
    InvalidClientToken,
    /// `MalformedPolicyDocument`, `PackedPolicyTooLarge`
    Policy,
    /// `RegionDisabledException`
    RegionDisabled,
    /// `ValidationError`, for one a duration above the role's or the chaining limit
    Validation,
    /// `Throttling` and its relatives, or 429
    Throttling,
    /// Any 5xx
    ServerError,
    /// No answer in time
    Timeout,
    /// No connection, or one that broke
    Network,
    /// An answer that is none
    Unparsable,
    /// No credentials to sign with
    NoCredentials,
    /// A 4xx with a code we do not know
    Other,
}

/// One call to STS, as it is reported for audit and metrics.
#[derive(Clone, Debug)]
pub struct StsCall {
    /// `AssumeRole` or `GetCallerIdentity`.
    pub action: &'static str,
    /// The role asked for.
    pub role: Option<RoleArn>,
    /// The session's name.
    pub session_name: Option<SessionName>,
    /// Whether an external id went with it.
    pub external_id: bool,
    /// STS's request id, where there was an answer.
    pub request_id: Option<Arc<str>>,
    /// What came of it: the access key id that was issued (none for `GetCallerIdentity`) and its expiry.
    pub result: Result<Option<(Arc<str>, std::time::SystemTime)>, Code>,
    /// STS's own clock, by the `Date` of its answer, if there was one.
    pub server_now: Option<std::time::SystemTime>,
    /// How long it took.
    pub took: Duration,
}

/// Told of every call, also of those that fail.
pub type OnCall = Arc<dyn Fn(&StsCall) + Send + Sync>;

/// Issues credentials.
pub trait Issuer: Send + Sync + 'static {
    /// One call, bounded in time, and at once a second where the first has shown that our own credentials were replaced meanwhile.
    /// Any later attempt is the caller's.
    fn issue(&self, request: &IssueRequest) -> impl Future<Output = Result<Credentials, IssueError>> + Send;
}

impl<I: Issuer> Issuer for Arc<I> {
    fn issue(&self, request: &IssueRequest) -> impl Future<Output = Result<Credentials, IssueError>> + Send {
        (**self).issue(request)
    }
}

// === impl IssueError ===

impl IssueError {
    /// Sorts a code into its class.
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::AccessDenied => Self::Denied {
                code,
                hint: "the role does not exist, or its trust policy does not allow podrole's own role (or asks for another external id)",
            },
            Code::Policy => Self::Denied { code, hint: "the session's policies or tags are too large" },
            Code::RegionDisabled => Self::Denied { code, hint: "STS is not enabled for this account in this region" },
            Code::Validation => Self::Denied {
                code,
                hint: "a value is outside STS's limits; with role chaining the duration is at most one hour",
            },
            Code::Other => Self::Denied { code, hint: "see podrole's audit log for the request id" },
            Code::ExpiredToken | Code::InvalidClientToken => {
                Self::Base { code, hint: "check the node's instance profile, and the node's clock" }
            }
            Code::NoCredentials => {
                Self::Base { code, hint: "give the node an instance profile, or podrole credentials of its own" }
            }
            Code::Throttling => Self::Throttled { code },
            Code::ServerError | Code::Timeout | Code::Network | Code::Unparsable => Self::Unavailable { code },
        }
    }
}

// === impl Code ===

impl Code {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::ExpiredToken => "ExpiredToken",
            Self::InvalidClientToken => "InvalidClientToken",
            Self::Policy => "Policy",
            Self::RegionDisabled => "RegionDisabled",
            Self::Validation => "Validation",
            Self::Throttling => "Throttling",
            Self::ServerError => "ServerError",
            Self::Timeout => "Timeout",
            Self::Network => "Network",
            Self::Unparsable => "Unparsable",
            Self::NoCredentials => "NoCredentials",
            Self::Other => "Other",
        }
    }

    /// From STS's answer: its code where it has one, else its HTTP status.
    pub fn of_answer(code: Option<&str>, status: u16) -> Self {
        match code {
            Some("AccessDenied" | "AccessDeniedException") => Self::AccessDenied,
            Some("ExpiredToken" | "ExpiredTokenException") => Self::ExpiredToken,
            Some(
                "InvalidClientTokenId"
                | "UnrecognizedClientException"
                | "UnrecognizedClient"
                | "SignatureDoesNotMatch"
                | "RequestExpired"
                | "InvalidAccessKeyId"
                | "IncompleteSignature"
                | "MissingAuthenticationToken"
                | "OptInRequired",
            ) => Self::InvalidClientToken,
            Some(
                "MalformedPolicyDocument"
                | "MalformedPolicyDocumentException"
                | "PackedPolicyTooLarge"
                | "PackedPolicyTooLargeException",
            ) => Self::Policy,
            Some("RegionDisabledException" | "RegionDisabled") => Self::RegionDisabled,
            Some("ValidationError" | "ValidationException" | "InvalidParameterValue") => Self::Validation,
            Some(
                "Throttling"
                | "ThrottlingException"
                | "ThrottledException"
                | "RequestThrottled"
                | "RequestThrottledException"
                | "TooManyRequestsException"
                | "RequestLimitExceeded"
                | "SlowDown"
                | "LimitExceededException"
                | "BandwidthLimitExceeded"
                | "PriorRequestNotComplete",
            ) => Self::Throttling,
            Some(
                "RequestTimeout"
                | "RequestTimeoutException"
                | "InternalFailure"
                | "InternalError"
                | "ServiceUnavailable"
                | "IDPCommunicationError",
            ) => Self::ServerError,
            _ if status == 429 => Self::Throttling,
            _ if status >= 500 => Self::ServerError,
            Some(_) => Self::Other,
            // Something between us and STS answered, and not in STS's words.
            None => Self::Unparsable,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let class = |code: Option<&str>, status| match IssueError::from_code(Code::of_answer(code, status)) {
            IssueError::Base { .. } => "base",
            IssueError::Denied { .. } => "denied",
            IssueError::Throttled { .. } => "throttled",
            IssueError::Unavailable { .. } => "unavailable",
        };
        for (code, status, expected) in [
            (Some("AccessDenied"), 403, "denied"),
            (Some("ValidationError"), 400, "denied"),
            (Some("SomethingNew"), 400, "denied"),
            (Some("Throttling"), 400, "throttled"),
            (None, 429, "throttled"),
            (Some("ExpiredToken"), 403, "base"),
            (Some("SignatureDoesNotMatch"), 403, "base"),
            (Some("InternalFailure"), 500, "unavailable"),
            (Some("SomethingNew"), 503, "unavailable"),
            (None, 500, "unavailable"),
            (None, 403, "unavailable"),
        ] {
            assert_eq!(class(code, status), expected, "{code:?} {status}");
        }
    }
}
