//! The types with which tests control and query the STS double.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::Caller;

/// A recorded call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Time of arrival, by the machine's clock.
    pub time: SystemTime,
    /// The requested action, such as `AssumeRole`, `AssumeRoleWithWebIdentity` or `GetCallerIdentity`.
    pub action: String,
    /// The requested role.
    pub role_arn: Option<String>,
    /// The requested session name.
    pub session_name: Option<String>,
    /// The external id.
    pub external_id: Option<String>,
    /// The duration in seconds, as sent.
    pub duration: Option<String>,
    /// Session tags, in the order sent.
    pub tags: Vec<(String, String)>,
    /// Keys of the tags that chained sessions inherit.
    pub transitive_tag_keys: Vec<String>,
    /// The inline session policy.
    pub policy: Option<String>,
    /// The managed session policies.
    pub policy_arns: Vec<String>,
    /// The source identity.
    pub source_identity: Option<String>,
    /// The web identity token.
    pub web_identity_token: Option<String>,
    /// The subject in the token's claims, verified or not.
    pub subject: Option<String>,
    /// The access key that signed the call.
    pub access_key: Option<String>,
    /// The identity of that key, if the double knows it.
    pub caller: Option<Caller>,
    /// The region in the signature's scope.
    pub region: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// The request id in the response.
    pub request_id: String,
    /// The result of the call.
    pub outcome: Outcome,
    /// The client's address.
    pub peer: SocketAddr,
}

impl Call {
    /// Whether this call requests a role's credentials.
    pub fn assumes(&self) -> bool {
        self.action.starts_with("AssumeRole")
    }

    /// The access key id issued to this call.
    pub fn issued(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Issued(key) => Some(key),
            Outcome::Pending | Outcome::Answered | Outcome::Rejected(_) | Outcome::Broken(_) => None,
        }
    }

    /// The error code returned to this call.
    pub fn error(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Rejected(code) => Some(code),
            Outcome::Pending | Outcome::Answered | Outcome::Issued(_) | Outcome::Broken(_) => None,
        }
    }
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered yet.
    Pending,
    /// Answered without new credentials.
    Answered,
    /// Credentials with this access key id were issued.
    Issued(String),
    /// Rejected with this error code.
    Rejected(String),
    /// Answered by a fault that is not an STS response.
    Broken(Fault),
}

/// A role and who may assume it.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// The role's ARN.
    pub arn: String,
    /// The trust policy.
    pub trusts: Trust,
    /// The external id that the trust policy requires.
    pub external_id: Option<String>,
    /// MaxSessionDuration in seconds. AWS's default is 3600.
    pub max_duration: u32,
}

impl RoleSpec {
    /// A role with AWS's defaults that anyone may assume.
    pub fn new(arn: &str) -> Self {
        Self { arn: arn.to_owned(), trusts: Trust::Anyone, external_id: None, max_duration: 3600 }
    }

    /// Sets the trust policy.
    #[must_use]
    pub fn trusts(self, trusts: Trust) -> Self {
        Self { trusts, ..self }
    }

    /// Sets the external id that the trust policy requires.
    #[must_use]
    pub fn external_id(self, id: &str) -> Self {
        Self { external_id: Some(id.to_owned()), ..self }
    }

    /// Sets the MaxSessionDuration.
    #[must_use]
    pub fn max_duration(self, seconds: u32) -> Self {
        Self { max_duration: seconds, ..self }
    }
}

/// Who may assume a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every known caller, from any account.
    Anyone,
    /// Callers with one of these ARNs: of a user, an assumed-role session, or the role of a session.
    OnlyAccessKeysOf(Vec<String>),
    /// Web identities with one of these subjects: `system:serviceaccount:<namespace>:<name>`.
    OnlySubjects(Vec<String>),
    /// No caller.
    Nobody,
}

/// A failure mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 400 `Throttling`.
    Throttling,
    /// 403 `AccessDenied`, with the message for a role that does not trust the caller.
    AccessDenied,
    /// 403 `ExpiredToken`: the caller's own credentials have expired.
    ExpiredToken,
    /// 500 `InternalFailure`.
    InternalFailure500,
    /// 500 with an HTML page, as from a proxy.
    Html500,
    /// The connection is reset with TCP RST.
    ConnectionReset,
    /// The call is never answered.
    Stall,
    /// 503 `ServiceUnavailable`.
    ServiceUnavailable,
    /// 403 `RegionDisabledException`.
    RegionDisabled,
    /// 400 `IDPCommunicationError`: STS could not fetch the identity provider's keys.
    IdpUnreachable,
    /// 200 with truncated XML.
    MalformedXml,
}
