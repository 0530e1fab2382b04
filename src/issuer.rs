//! The interface to the issuer of credentials: its requests, its results and all its errors.

pub mod base;
pub mod sts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::types::{Credentials, ExternalId, RoleArn, SessionName, closed_set};

/// All inputs of one STS call. This is the key of the credential cache: two callers share credentials only if every field is equal.
/// If an input were missing here, a caller could get credentials that were issued for another value of that input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IssueRequest {
    /// How the credentials are obtained.
    pub source: Source,
    /// The role to assume.
    pub role: RoleArn,
    /// The session name.
    pub session_name: SessionName,
    /// The external ID.
    pub external_id: Option<ExternalId>,
    /// The requested lifetime. STS does not issue credentials with a shorter lifetime.
    pub duration: Duration,
    /// The region whose STS endpoint is called.
    pub region: Arc<str>,
}

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `AssumeRole`, signed with the base credentials or with those of the first hop.
    AssumeRole {
        /// The role of `--assume-role-arn`.
        first_hop: Option<RoleArn>,
    },
}

/// Why no credentials were issued. Every error from STS, or on the way to STS, is one of these.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IssueError {
    /// The base credentials are missing, expired or not accepted. The pod and its role are not the cause.
    #[error("podrole's base credentials are not usable ({code}): {hint}")]
    Base {
        /// The code of STS, or a code for an error that occurred before STS answered.
        code: Code,
        /// Advice to the operator: the next check or change to make.
        hint: &'static str,
    },
    /// STS denies this request, and will keep denying it until IAM or the pod changes.
    #[error("STS denied the request ({code}): {hint}")]
    Denied {
        /// The code of STS.
        code: Code,
        /// Advice to the operator: the next check or change to make.
        hint: &'static str,
    },
    /// STS throttles the daemon or the account. The call may be retried.
    #[error("STS is throttling requests ({code}); try again later")]
    Throttled {
        /// The code of STS.
        code: Code,
    },
    /// STS did not answer, or answered with a temporary error. The call may be retried.
    #[error("STS is unavailable ({code}); check the network path to its regional endpoint, or try again later")]
    Unavailable {
        /// The code of STS, or a code for an error that occurred before STS answered.
        code: Code,
    },
}

closed_set! {
    /// The error codes of STS, grouped as far as podrole distinguishes them, and codes for errors that have no STS code. The code
    /// is a metric label.
    pub enum Code {
        /// `AccessDenied`
        AccessDenied = "AccessDenied",
        /// `ExpiredToken`, `ExpiredTokenException`
        ExpiredToken = "ExpiredToken",
        /// `InvalidClientTokenId`, `UnrecognizedClientException`, `SignatureDoesNotMatch`, `RequestExpired`, …
        InvalidClientToken = "InvalidClientToken",
        /// `MalformedPolicyDocument`, `PackedPolicyTooLarge`
        Policy = "Policy",
        /// `RegionDisabledException`
        RegionDisabled = "RegionDisabled",
        /// `ValidationError`, such as a duration above the role's limit or the role chaining limit
        Validation = "Validation",
        /// `Throttling` and similar codes, or status 429
        Throttling = "Throttling",
        /// Any status 5xx
        ServerError = "ServerError",
        /// STS did not answer in time
        Timeout = "Timeout",
        /// The connection failed or broke
        Network = "Network",
        /// The answer is not in STS's format, or lacks required content
        Unparsable = "Unparsable",
        /// There are no credentials to sign the call with
        NoCredentials = "NoCredentials",
        /// A status 4xx with an unknown code
        Other = "Other",
    }
}

/// One STS call, as reported for audit and metrics.
#[derive(Clone, Debug)]
pub struct StsCall {
    /// `AssumeRole` or `GetCallerIdentity`.
    pub action: &'static str,
    /// The requested role; `None` for `GetCallerIdentity`.
    pub role: Option<RoleArn>,
    /// The session name; `None` for `GetCallerIdentity`.
    pub session_name: Option<SessionName>,
    /// Whether the request had an external ID.
    pub external_id: bool,
    /// The request ID of STS, if STS answered.
    pub request_id: Option<Arc<str>>,
    /// The issued access key ID and its expiration (`None` for `GetCallerIdentity`), or the error.
    pub result: Result<Option<(Arc<str>, std::time::SystemTime)>, Code>,
    /// The time of STS's clock, from the `Date` header, if STS answered.
    pub server_now: Option<std::time::SystemTime>,
    /// How long the call took.
    pub took: Duration,
}

/// The callback that receives every STS call, successful or failed.
pub type OnCall = Arc<dyn Fn(&StsCall) + Send + Sync>;

/// Issues credentials.
pub trait Issuer: Send + Sync + 'static {
    /// Makes one call, whose duration is limited. If the call shows that the base credentials were rotated, makes a second call
    /// immediately. The caller decides about further attempts.
    fn issue(&self, request: &IssueRequest) -> impl Future<Output = Result<Credentials, IssueError>> + Send;
}

impl<I: Issuer> Issuer for Arc<I> {
    fn issue(&self, request: &IssueRequest) -> impl Future<Output = Result<Credentials, IssueError>> + Send {
        (**self).issue(request)
    }
}

// === impl IssueError ===

impl IssueError {
    /// The error class of `code`, with a hint.
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::AccessDenied => Self::Denied {
                code,
                hint: "the role does not exist, or its trust policy does not allow podrole's role or requires another external ID",
            },
            Code::Policy => Self::Denied { code, hint: "the session policies or tags are too large" },
            Code::RegionDisabled => Self::Denied { code, hint: "activate STS for this account in this region" },
            Code::Validation => Self::Denied {
                code,
                hint: "a value exceeds a limit of STS; with role chaining the duration is at most one hour",
            },
            Code::Other => Self::Denied { code, hint: "look up the request ID in podrole's audit log" },
            Code::ExpiredToken | Code::InvalidClientToken => {
                Self::Base { code, hint: "check the node's instance profile and clock" }
            }
            Code::NoCredentials => {
                Self::Base { code, hint: "attach an instance profile to the node, or give podrole AWS credentials" }
            }
            Code::Throttling => Self::Throttled { code },
            Code::ServerError | Code::Timeout | Code::Network | Code::Unparsable => Self::Unavailable { code },
        }
    }
}

// === impl Code ===

impl Code {
    /// The code for an answer of STS with error code `code` and HTTP status `status`.
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
            // The answer is not in STS's format: something between podrole and STS answered, such as a proxy.
            None => Self::Unparsable,
        }
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
