//! The state of the STS double and its decisions, without I/O.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};

use super::Caller;
use super::identity::{RoleArn, unique_id};
use super::issue::{Issued, Keys};
use super::limits;
use super::model::{Call, Fault, Outcome, RoleSpec, Trust};
use super::web_identity::{self, Claims, Provider};
use super::wire::{self, ErrorResponse, Signature};
use crate::http::Request;

/// An access key that a test registered.
pub(super) struct Base {
    /// Unused until the double verifies signatures; it keeps the tests close to a real setup.
    #[expect(dead_code, reason = "signatures are not recomputed")]
    pub(super) secret: String,
    pub(super) session_token: Option<String>,
    pub(super) caller: Caller,
}

/// The state of the double.
pub(super) struct State {
    pub(super) bases: HashMap<String, Base>,
    pub(super) issued: HashMap<String, Issued>,
    pub(super) roles: HashMap<String, RoleSpec>,
    pub(super) providers: Vec<Provider>,
    pub(super) trust_any_role: bool,
    pub(super) calls: Vec<Call>,
    pub(super) delay: Duration,
    pub(super) next_faults: VecDeque<Fault>,
    pub(super) fault: Option<Fault>,
    pub(super) role_faults: HashMap<String, Fault>,
    pub(super) planted: Option<String>,
    pub(super) skew: i64,
    pub(super) check_date: bool,
    pub(super) lifetime: Option<u32>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            bases: HashMap::new(),
            issued: HashMap::new(),
            roles: HashMap::new(),
            providers: Vec::new(),
            trust_any_role: true,
            calls: Vec::new(),
            delay: Duration::ZERO,
            next_faults: VecDeque::new(),
            fault: None,
            role_faults: HashMap::new(),
            planted: None,
            skew: 0,
            check_date: true,
            lifetime: None,
        }
    }
}

/// Session tags, and the keys of the tags that chained sessions inherit.
type Tags = (Vec<(String, String)>, Vec<String>);

/// The decision about a new session.
struct Session {
    assumed_by: Caller,
    duration: u32,
    tags: Vec<(String, String)>,
    transitive_tag_keys: Vec<String>,
    source_identity: Option<String>,
}

/// A successful response: the document, and the result for the record.
pub(super) struct Answer {
    pub(super) xml: String,
    pub(super) outcome: Outcome,
}

impl State {
    /// The double's clock.
    pub(super) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(SignedDuration::from_secs(self.skew)).unwrap_or(now)
    }

    /// The fault to apply to this call, if any. Consumes one of `fail_next`.
    pub(super) fn take_fault(&mut self, call: &Call) -> Option<Fault> {
        let role = call.role_arn.as_deref().and_then(|arn| self.role_faults.get(arn)).copied();
        let next = || call.assumes().then(|| self.next_faults.pop_front()).flatten();
        role.or_else(next).or(self.fault)
    }

    /// The identity of an access key, even if the request is otherwise invalid.
    pub(super) fn known(&self, access_key: &str) -> Option<&Caller> {
        let base = self.bases.get(access_key).map(|base| &base.caller);
        base.or_else(|| self.issued.get(access_key).map(|issued| &issued.session))
    }

    /// Decides a call.
    pub(super) fn decide(&mut self, call: &Call, request: &Request) -> Result<Answer, ErrorResponse> {
        if call.action == "AssumeRoleWithWebIdentity" {
            return self.assume_with_token(call);
        }
        let caller = self.authenticate(request)?;
        match call.action.as_str() {
            "GetCallerIdentity" => {
                Ok(Answer { xml: wire::identity(&caller, &call.request_id), outcome: Outcome::Answered })
            }
            "AssumeRole" => self.assume(call, caller),
            other => {
                let message = format!("Could not find operation {other} for version 2011-06-15");
                Err(ErrorResponse::new(400, "InvalidAction", message))
            }
        }
    }

    fn authenticate(&self, request: &Request) -> Result<Caller, ErrorResponse> {
        let Some(header) = request.header("authorization") else {
            return Err(ErrorResponse::new(
                403,
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ));
        };
        let Some(signature) = Signature::parse(header) else {
            let message = "Authorization header requires existence of Credential, SignedHeaders and Signature";
            return Err(ErrorResponse::new(400, "IncompleteSignature", message));
        };
        let unknown = "The security token included in the request is invalid.";
        let unknown = || ErrorResponse::new(403, "InvalidClientTokenId", unknown);
        let token = request.header("x-amz-security-token");
        let (caller, expected, expiration) =
            match (self.bases.get(signature.access_key), self.issued.get(signature.access_key)) {
                (Some(base), _) => (&base.caller, base.session_token.as_deref(), None),
                (None, Some(issued)) => (&issued.session, Some(issued.session_token.as_str()), Some(issued.expiration)),
                (None, None) => return Err(unknown()),
            };
        if token != expected {
            return Err(unknown());
        }
        if signature.service != "sts" {
            let message =
                format!("Credential should be scoped to correct service: 'sts', not '{}'.", signature.service);
            return Err(ErrorResponse::new(403, "SignatureDoesNotMatch", message));
        }
        let Some(signed) = request.header("x-amz-date").and_then(wire::signed_at) else {
            return Err(ErrorResponse::new(
                400,
                "IncompleteSignature",
                "Authorization header requires a valid X-Amz-Date.",
            ));
        };
        let now = self.now();
        if let Some(error) = wire::stale(signed, now).filter(|_| self.check_date) {
            return Err(error);
        }
        let is_valid = |end: SystemTime| SystemTime::try_from(now).is_ok_and(|now| now < end);
        if expiration.is_some_and(|expiration| !is_valid(expiration)) {
            let message = "The security token included in the request is expired";
            return Err(ErrorResponse::new(403, "ExpiredToken", message));
        }
        Ok(caller.clone())
    }

    fn assume(&mut self, call: &Call, caller: Caller) -> Result<Answer, ErrorResponse> {
        let asked = limits::check(call)?;
        let spec = self.authorize(call, &caller)?;
        let duration = granted(asked, spec.max_duration, caller.chains())?;
        let (tags, transitive_tag_keys) = self.inherit_tags(call)?;
        let source_identity = self.inherit_source(call)?;
        let session = Session { assumed_by: caller, duration, tags, transitive_tag_keys, source_identity };
        self.issue(call, &spec.arn, session, None)
    }

    /// Decides an AssumeRoleWithWebIdentity call, which is unsigned. Tags, external id and source identity are recorded
    /// but have no effect.
    fn assume_with_token(&mut self, call: &Call) -> Result<Answer, ErrorResponse> {
        let asked = limits::check(call)?;
        let token = limits::web_identity_token(call)?;
        let claims = web_identity::verify(token, &self.providers, self.now())?;
        let spec = self.authorize_subject(call, &claims)?;
        let duration = granted(asked, spec.max_duration, false)?;
        let account = RoleArn::parse(&spec.arn).map(|role| role.account.to_owned()).unwrap_or_default();
        let host = claims.issuer.trim_start_matches("https://");
        let assumed_by = Caller {
            arn: format!("arn:aws:iam::{account}:oidc-provider/{host}"),
            account,
            user_id: claims.subject.clone(),
            role_arn: None,
        };
        let session =
            Session { assumed_by, duration, tags: Vec::new(), transitive_tag_keys: Vec::new(), source_identity: None };
        self.issue(call, &spec.arn, session, Some(&claims))
    }

    fn issue(
        &mut self,
        call: &Call,
        role_arn: &str,
        session: Session,
        web: Option<&Claims>,
    ) -> Result<Answer, ErrorResponse> {
        let packed = limits::packed(call)?;
        let (Some(role), Some(session_name)) = (RoleArn::parse(role_arn), &call.session_name) else {
            return Err(ErrorResponse::validation(format!("{role_arn} is invalid")));
        };
        let keys = Keys::new(self.planted.as_deref());
        let seconds = self.lifetime.map_or(session.duration, |lifetime| lifetime.min(session.duration));
        // The real service returns whole seconds.
        let start = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.now().as_second()).unwrap_or_default());
        let issued = Issued {
            expiration: start + Duration::from_secs(seconds.into()),
            session: Caller {
                arn: role.session(session_name),
                account: role.account.to_owned(),
                user_id: format!("{}:{session_name}", unique_id("AROA", role_arn)),
                role_arn: Some(role_arn.to_owned()),
            },
            role_arn: role_arn.to_owned(),
            session_name: session_name.clone(),
            access_key_id: keys.id.clone(),
            secret_access_key: keys.secret,
            session_token: keys.token,
            assumed_by: session.assumed_by,
            duration: session.duration,
            external_id: call.external_id.clone(),
            tags: session.tags,
            transitive_tag_keys: session.transitive_tag_keys,
            policy: call.policy.clone(),
            policy_arns: call.policy_arns.clone(),
            source_identity: session.source_identity,
        };
        let xml = wire::assumed(&call.action, &issued, packed, web, &call.request_id);
        self.issued.insert(keys.id.clone(), issued);
        Ok(Answer { xml, outcome: Outcome::Issued(keys.id) })
    }

    /// Applies the trust policy to a caller with access keys.
    fn authorize(&self, call: &Call, caller: &Caller) -> Result<RoleSpec, ErrorResponse> {
        let role_arn = call.role_arn.as_deref().unwrap_or_default();
        let denied = || ErrorResponse::denied(Some(caller), role_arn);
        let Some(role) = self.roles.get(role_arn) else {
            let own = RoleArn::parse(role_arn).is_some_and(|role| role.account == caller.account);
            return if self.trust_any_role && own { Ok(RoleSpec::new(role_arn)) } else { Err(denied()) };
        };
        let trusted = match &role.trusts {
            Trust::Anyone => true,
            Trust::OnlyAccessKeysOf(arns) => arns.iter().any(|arn| caller.is(arn)),
            Trust::OnlySubjects(_) | Trust::Nobody => false,
        };
        let named = role.external_id.is_none() || role.external_id == call.external_id;
        if trusted && named { Ok(role.clone()) } else { Err(denied()) }
    }

    /// Applies the trust policy to a web identity.
    fn authorize_subject(&self, call: &Call, claims: &Claims) -> Result<RoleSpec, ErrorResponse> {
        let role_arn = call.role_arn.as_deref().unwrap_or_default();
        let denied = || ErrorResponse::denied(None, role_arn);
        let Some(role) = self.roles.get(role_arn) else {
            return if self.trust_any_role { Ok(RoleSpec::new(role_arn)) } else { Err(denied()) };
        };
        let trusted = match &role.trusts {
            Trust::Anyone => true,
            Trust::OnlySubjects(subjects) => subjects.contains(&claims.subject),
            Trust::OnlyAccessKeysOf(_) | Trust::Nobody => false,
        };
        if trusted { Ok(role.clone()) } else { Err(denied()) }
    }

    /// The tags of the new session: the call's, plus those inherited from the caller's own session.
    fn inherit_tags(&self, call: &Call) -> Result<Tags, ErrorResponse> {
        let (mut tags, mut transitive) = (call.tags.clone(), call.transitive_tag_keys.clone());
        let Some(parent) = call.access_key.as_ref().and_then(|key| self.issued.get(key)) else {
            return Ok((tags, transitive));
        };
        for key in &parent.transitive_tag_keys {
            if call.tags.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(key)) {
                return Err(limits::parameter(
                    "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key \
                     from the calling session.",
                ));
            }
            tags.extend(parent.tags.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key)).cloned());
            transitive.push(key.clone());
        }
        Ok((tags, transitive))
    }

    fn inherit_source(&self, call: &Call) -> Result<Option<String>, ErrorResponse> {
        let parent = call.access_key.as_ref().and_then(|key| self.issued.get(key)?.source_identity.clone());
        match (parent, call.source_identity.clone()) {
            (Some(set), Some(asked)) if set != asked => {
                let message = "The source identity is already set for this assume role session";
                Err(ErrorResponse::new(403, "AccessDenied", message))
            }
            (parent, asked) => Ok(parent.or(asked)),
        }
    }
}

fn granted(asked: Option<u32>, longest: u32, chained: bool) -> Result<u32, ErrorResponse> {
    let seconds = asked.unwrap_or(limits::LONGEST_CHAINED);
    if chained && seconds > limits::LONGEST_CHAINED {
        return Err(ErrorResponse::validation(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        ));
    }
    if seconds > longest.min(limits::LONGEST) {
        return Err(ErrorResponse::validation(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    Ok(seconds)
}
