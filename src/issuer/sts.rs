//! `AssumeRole` through the AWS SDK, with podrole's timeouts, caching and error classes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::{IdentityCache, Intercept, RuntimeComponents};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use tracing::warn;

use super::base::{BaseCredentials, Handle, hop_failed};
use super::{Code, IssueError, IssueRequest, Issuer, OnCall, Source, StsCall};
use crate::clock::Clock;
use crate::types::{Credentials, RoleArn, Secret, SessionName};

/// The time limit for connecting. A connection to a healthy regional endpoint needs a few milliseconds.
const CONNECT: Duration = Duration::from_secs(2);
/// The time limit for a whole call. No pod waits this long, but a late answer is still cached for the next request.
const CALL: Duration = Duration::from_secs(5);
/// The time limit for the first hop's call. This call is made inside another call and must end, with its log line, before the
/// outer call times out.
const HOP_CALL: Duration = Duration::from_secs(3);
/// Credentials with a shorter lifetime count as expired. STS issues no session under 15 minutes, so a shorter lifetime means that a
/// clock is wrong: the node's, or that of something between podrole and STS.
const MIN_LIFE: Duration = Duration::from_secs(2);
/// The lifetime of the first hop's session: the maximum with role chaining.
const HOP_DURATION: Duration = Duration::from_secs(3600);

/// How to reach STS.
#[derive(Clone)]
pub struct Settings {
    /// The region whose endpoint is used.
    pub region: Arc<str>,
    /// `--assume-role-arn`: the role between the base credentials and the pods' roles.
    pub first_hop: Option<RoleArn>,
    /// The first hop's session name.
    pub node_session: SessionName,
    /// The PEM content of `AWS_CA_BUNDLE`: certificates to trust instead of the system's.
    pub ca_bundle: Option<Vec<u8>>,
}

/// Issues credentials by `AssumeRole`.
pub struct Sts<C> {
    /// Signs with the first hop's credentials if there is a first hop, else with the base credentials.
    client: Client,
    /// Signs with the base credentials. `None` if `client` already does.
    base_client: Option<Client>,
    /// The credentials that the clients sign with: first the base credentials, then those of the first hop.
    credentials: Vec<Arc<BaseCredentials<C>>>,
    clock: C,
    on_call: OnCall,
}

/// An AWS identity of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    /// The account ID, twelve digits.
    pub account: Arc<str>,
    /// The partition of the identity's ARN.
    pub partition: Arc<str>,
    /// The role, if the identity is an assumed role. It lacks the role's path, which the ARN of an assumed role does not contain.
    pub role: Option<RoleArn>,
}

// === impl Sts ===

impl<C: Clock + Clone> Sts<C> {
    /// Builds the clients without any call. Base credentials come from the SDK's default chain.
    pub async fn new(settings: Settings, clock: C, on_call: OnCall) -> Result<Self, BoxError> {
        let shared = shared_config(&settings).await?;
        let chain = shared.credentials_provider().ok_or("the AWS SDK has no credential chain")?;
        let base = BaseCredentials::new(chain, clock.clone());
        let mut credentials = vec![base.clone()];
        let (client, base_client) = match settings.first_hop {
            None => (client(&shared, Handle(base), CALL), None),
            Some(role) => {
                let base_client = client(&shared, Handle(base), HOP_CALL);
                let sts = Self {
                    client: base_client.clone(),
                    base_client: None,
                    credentials: credentials.clone(),
                    clock: clock.clone(),
                    on_call: on_call.clone(),
                };
                let hop = Hop { sts: Arc::new(sts), role, session: settings.node_session };
                let hop = BaseCredentials::new(SharedCredentialsProvider::new(hop), clock.clone());
                credentials.push(hop.clone());
                (client(&shared, Handle(hop), CALL), Some(base_client))
            }
        };
        Ok(Self { client, base_client, credentials, clock, on_call })
    }

    /// Asks STS for the identity that signs pods' calls and, if that is a first hop, also for the identity of the base credentials.
    pub async fn caller_identities(&self) -> Result<(CallerIdentity, Option<CallerIdentity>), IssueError> {
        let base = match &self.base_client {
            None => None,
            Some(client) => Some(self.caller_identity(client).await?),
        };
        Ok((self.caller_identity(&self.client).await?, base))
    }

    async fn caller_identity(&self, client: &Client) -> Result<CallerIdentity, IssueError> {
        let started = self.clock.boot();
        let date = ServerDate::default();
        let result = client.get_caller_identity().customize().interceptor(date.clone()).send().await;
        let request_id = result.as_ref().map_or_else(|error| error.request_id(), |out| out.request_id());
        let request_id = request_id.filter(|id| !id.is_empty()).map(Arc::from);
        let result = result.map_err(|error| code_of(&error));
        (self.on_call)(&StsCall {
            action: "GetCallerIdentity",
            role: None,
            session_name: None,
            external_id: false,
            request_id,
            result: result.as_ref().map(|_| None).map_err(|code| *code),
            server_now: date.get(),
            took: self.clock.boot().saturating_sub(started),
        });
        let out = result.map_err(|code| self.failed(code))?;
        parse_identity(out.arn().unwrap_or_default()).ok_or_else(|| IssueError::from_code(Code::Unparsable))
    }

    /// The remaining lifetime of the base credentials, or of the first hop's if those expire earlier.
    pub fn base_remaining(&self) -> Option<Duration> {
        self.credentials.iter().filter_map(|credentials| credentials.remaining()).min()
    }

    async fn assume(
        &self,
        role: &RoleArn,
        session: &SessionName,
        external_id: Option<&str>,
        duration: Duration,
    ) -> Result<Credentials, IssueError> {
        let started = self.clock.boot();
        let date = ServerDate::default();
        let call = self.client.assume_role().role_arn(role.as_str()).role_session_name(session.as_str());
        let call = call.duration_seconds(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX));
        let call = call.set_external_id(external_id.map(str::to_owned));
        let result = call.customize().interceptor(date.clone()).send().await;
        let request_id = result.as_ref().map_or_else(|error| error.request_id(), |out| out.request_id());
        let request_id = request_id.filter(|id| !id.is_empty()).map(Arc::from);
        let result = match result {
            Err(error) => Err(code_of(&error)),
            Ok(out) => self.accept(out.credentials, started, date.get()),
        };
        (self.on_call)(&StsCall {
            action: "AssumeRole",
            role: Some(role.clone()),
            session_name: Some(session.clone()),
            external_id: external_id.is_some(),
            request_id,
            result: match &result {
                Ok(credentials) => Ok(Some((credentials.access_key_id.clone(), credentials.expiration))),
                Err(code) => Err(*code),
            },
            server_now: date.get(),
            took: self.clock.boot().saturating_sub(started),
        });
        result.map_err(|code| self.failed(code))
    }

    /// Converts STS's answer to credentials. The lifetime is the difference between two times of STS's clock, so it does not
    /// depend on the node's clock.
    fn accept(
        &self,
        given: Option<aws_sdk_sts::types::Credentials>,
        started: Duration,
        server_now: Option<SystemTime>,
    ) -> Result<Credentials, Code> {
        let given = given.ok_or(Code::Unparsable)?;
        let expiration = SystemTime::try_from(given.expiration).map_err(|_| Code::Unparsable)?;
        let life = expiration.duration_since(server_now.unwrap_or_else(|| self.clock.wall())).unwrap_or_default();
        if life < MIN_LIFE {
            return Err(Code::Unparsable);
        }
        Ok(Credentials {
            access_key_id: given.access_key_id.into(),
            secret_access_key: Secret::new(given.secret_access_key),
            session_token: Secret::new(given.session_token),
            expiration,
            expires_at: started + life,
            issued_at: started,
        })
    }

    /// Converts `code` to an error. If STS does not accept the signing credentials, the next call fetches new ones.
    fn failed(&self, code: Code) -> IssueError {
        // `NoCredentials` is left out because STS has not rejected the cached credentials in that case.
        if matches!(code, Code::ExpiredToken | Code::InvalidClientToken) {
            self.credentials.iter().for_each(|credentials| credentials.invalidate());
        }
        IssueError::from_code(code)
    }
}

impl<C: Clock + Clone> Issuer for Sts<C> {
    async fn issue(&self, request: &IssueRequest) -> Result<Credentials, IssueError> {
        // The request is destructured completely, so that a new input of the key cannot be left out of the call.
        let IssueRequest { source, role, session_name, external_id, duration, region: _ } = request;
        match source {
            // The clients were built for this first hop and region.
            Source::AssumeRole { first_hop: _ } => {
                let external_id = external_id.as_ref().map(|id| id.as_str());
                let call = || self.assume(role, session_name, external_id, *duration);
                match call().await {
                    // The base credentials were rotated in the meantime, so a call with fresh ones may succeed at once.
                    Err(IssueError::Base { code: Code::ExpiredToken | Code::InvalidClientToken, .. }) => call().await,
                    answer => answer,
                }
            }
        }
    }
}

impl<C> std::fmt::Debug for Sts<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sts")
    }
}

/// Assumes the first hop's role, as a source of signing credentials.
struct Hop<C> {
    sts: Arc<Sts<C>>,
    role: RoleArn,
    session: SessionName,
}

impl<C: Clock + Clone> ProvideCredentials for Hop<C> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let hop = self.sts.assume(&self.role, &self.session, None, HOP_DURATION).await.map_err(|error| {
                // The SDK hides this error from the outer call, which only reports that it has no credentials.
                warn!(role = %self.role, %error, "Cannot assume the first hop role; pods get no new credentials until a retry succeeds");
                hop_failed(error)
            })?;
            Ok(aws_credential_types::Credentials::new(
                hop.access_key_id.to_string(),
                hop.secret_access_key.expose(),
                Some(hop.session_token.expose().to_owned()),
                Some(self.sts.clock.wall() + hop.remaining(self.sts.clock.boot())),
                "podrole-first-hop",
            ))
        })
    }
}

impl<C> std::fmt::Debug for Hop<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hop({})", self.role)
    }
}

async fn shared_config(settings: &Settings) -> Result<SdkConfig, BoxError> {
    let mut trust = TrustStore::default();
    if let Some(pem) = &settings.ca_bundle {
        trust = TrustStore::empty().with_pem_certificate(pem.as_slice());
    }
    let tls = TlsContext::builder().with_trust_store(trust).build()?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_timeout(CALL)
        .operation_attempt_timeout(CALL)
        .build();
    Ok(aws_config::defaults(BehaviorVersion::v2026_01_12())
        .app_name(AppName::new("podrole")?)
        .http_client(http)
        .region(Region::new(settings.region.to_string()))
        // The cache has one worker per key, which paces its retries. Retries by the SDK would multiply them.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .load()
        .await)
}

fn client<C: Clock>(shared: &SdkConfig, credentials: Handle<C>, call: Duration) -> Client {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(call).operation_attempt_timeout(call);
    // The builder starts from the shared config, because a bare builder would ignore AWS_ENDPOINT_URL_STS.
    let config = aws_sdk_sts::config::Builder::from(shared)
        .credentials_provider(credentials)
        .timeout_config(timeouts.build())
        .identity_cache(IdentityCache::no_cache())
        .build();
    Client::from_conf(config)
}

fn code_of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Code {
    match error {
        SdkError::TimeoutError(_) => Code::Timeout,
        SdkError::ServiceError(answer) => Code::of_answer(answer.err().code(), answer.raw().status().as_u16()),
        SdkError::ResponseError(answer) => Code::of_answer(None, answer.raw().status().as_u16()),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Code::Timeout,
        SdkError::DispatchFailure(failure)
            if has_credentials_error(failure.as_connector_error().map(|error| error as _)) =>
        {
            Code::NoCredentials
        }
        SdkError::DispatchFailure(_) => Code::Network,
        // Signing failed for lack of credentials; every other input has been checked before.
        SdkError::ConstructionFailure(_) => Code::NoCredentials,
        _ => Code::Network,
    }
}

/// The SDK reports missing credentials as a failed dispatch, with a `CredentialsError` somewhere among its sources.
fn has_credentials_error(error: Option<&(dyn std::error::Error + 'static)>) -> bool {
    let mut next = error;
    while let Some(error) = next {
        if error.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Parses `arn:aws:sts::111122223333:assumed-role/NAME/SESSION` or the ARN of a user.
fn parse_identity(arn: &str) -> Option<CallerIdentity> {
    let mut fields = arn.splitn(6, ':').skip(1);
    let partition = fields.next()?;
    let (account, resource) = (fields.nth(2)?, fields.next()?);
    let name = resource.strip_prefix("assumed-role/").and_then(|rest| rest.split('/').next());
    let role = name.map(|name| RoleArn::parse(&format!("arn:{partition}:iam::{account}:role/{name}")));
    Some(CallerIdentity { account: account.into(), partition: partition.into(), role: role.transpose().ok()? })
}

/// Reads the time of STS's clock from the `Date` header of its answer.
#[derive(Clone, Debug, Default)]
struct ServerDate(Arc<Mutex<Option<SystemTime>>>);

impl ServerDate {
    fn get(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerDate {
    fn name(&self) -> &'static str {
        "ServerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(parse_http_date);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

fn parse_http_date(text: &str) -> Option<SystemTime> {
    let date = aws_smithy_types::DateTime::from_str(text, aws_smithy_types::date_time::Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

#[cfg(test)]
mod tests;
