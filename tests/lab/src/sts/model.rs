//! What tests tell the STS double, and what it tells them.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::Caller;

/// One recorded call.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it arrived, by the machine's clock.
    pub time: SystemTime,
    /// `AssumeRole`, `AssumeRoleWithWebIdentity`, `GetCallerIdentity`, or whatever was asked.
    pub action: String,
    /// The role asked for.
    pub role_arn: Option<String>,
    /// The session name asked for.
    pub session_name: Option<String>,
    /// The external id sent.
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
    /// The subject that the token claims, verified or not.
    pub subject: Option<String>,
    /// The access key that signed.
    pub access_key: Option<String>,
    /// Who that key is, if the double knows it.
    pub caller: Option<Caller>,
    /// The region in the signature's scope.
    pub region: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// The id this call was answered with.
    pub request_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Who connected.
    pub peer: SocketAddr,
}

impl Call {
    /// Whether this call asks for a role's credentials.
    pub fn assumes(&self) -> bool {
        self.action.starts_with("AssumeRole")
    }

    /// The access key that this call was given.
    pub fn issued(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Issued(key) => Some(key),
            Outcome::Pending | Outcome::Answered | Outcome::Refused(_) | Outcome::Broken(_) => None,
        }
    }

    /// The error code that this call was answered with.
    pub fn error(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Refused(code) => Some(code),
            Outcome::Pending | Outcome::Answered | Outcome::Issued(_) | Outcome::Broken(_) => None,
        }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered yet.
    Pending,
    /// Answered without new credentials.
    Answered,
    /// Credentials with this access key id were issued.
    Issued(String),
    /// Refused with this error code.
    Refused(String),
    /// Met by a fault that is no STS answer at all.
    Broken(Fault),
}

/// A role and who may assume it.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// The role's ARN.
    pub arn: String,
    /// The trust policy.
    pub trusts: Trust,
    /// The external id that the trust policy demands.
    pub external_id: Option<String>,
    /// MaxSessionDuration in seconds; AWS gives a new role 3600.
    pub max_duration: u32,
}

impl RoleSpec {
    /// A role as AWS makes it, which anybody may assume.
    pub fn new(arn: &str) -> Self {
        Self { arn: arn.to_owned(), trusts: Trust::Anyone, external_id: None, max_duration: 3600 }
    }

    /// With this trust policy.
    #[must_use]
    pub fn trusts(self, trusts: Trust) -> Self {
        Self { trusts, ..self }
    }

    /// With this external id demanded.
    #[must_use]
    pub fn external_id(self, id: &str) -> Self {
        Self { external_id: Some(id.to_owned()), ..self }
    }

    /// With this MaxSessionDuration.
    #[must_use]
    pub fn max_duration(self, seconds: u32) -> Self {
        Self { max_duration: seconds, ..self }
    }
}

/// Who may assume a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every known caller, of any account.
    Anyone,
    /// Callers with one of these ARNs: of a user, of an assumed-role session, or of the role behind a session.
    OnlyAccessKeysOf(Vec<String>),
    /// Web identities with one of these subjects, `system:serviceaccount:<namespace>:<name>`.
    OnlySubjects(Vec<String>),
    /// Nobody.
    Nobody,
}

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 400 `Throttling`.
    Throttling,
    /// 403 `AccessDenied`, in the words of an untrusted role.
    AccessDenied,
    /// 403 `ExpiredToken`: the caller's own credentials ended.
    ExpiredToken,
    /// 500 `InternalFailure`.
    InternalFailure500,
    /// 500 with a page of HTML, as from a proxy on the way.
    Html500,
    /// The connection is reset.
    ConnectionReset,
    /// No answer, ever.
    Stall,
    /// 503 `ServiceUnavailable`.
    ServiceUnavailable,
    /// 403 `RegionDisabledException`.
    RegionDisabled,
    /// 400 `IDPCommunicationError`: the identity provider's keys could not be fetched.
    IdpUnreachable,
    /// 200 with XML that stops in the middle.
    MalformedXml,
}
