//! A recording double of AWS STS: the query protocol, the real limits, and every way in which the real one fails.
//!
//! It answers AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity. Access keys are known because a test registered them
//! or because the double issued them; signatures are not recomputed, but their date must be fresh and their session token
//! right. Web identity tokens are verified for real, against the key sets that a test registers.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::http::{Server, lock};

mod identity;
mod issue;
mod limits;
mod model;
mod serve;
mod state;
mod web_identity;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use identity::Caller;
pub use issue::Issued;
pub use model::{Call, Fault, Outcome, RoleSpec, Trust};
use state::{Base, State};
use web_identity::Provider;

/// A running STS. It ends with its handle.
pub struct Sts {
    shared: Arc<Shared>,
    server: Server,
}

/// What the handle and the server's thread have in common.
struct Shared {
    state: Mutex<State>,
    recorded: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Sts {
    /// Starts in the caller's network namespace; port 0 takes a free one.
    pub fn start(bind: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), recorded: Condvar::new() });
        let served = Arc::clone(&shared);
        let server = Server::start("sts", bind, move |request| serve::answer(Arc::clone(&served), request))?;
        Ok(Self { shared, server })
    }

    /// The base URL, for `AWS_ENDPOINT_URL_STS`.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Makes an access key known. Without a session token the key is a long-lived one.
    pub fn register_base(&self, access_key: &str, secret: &str, session_token: Option<&str>, caller: Caller) {
        let base = Base { secret: secret.to_owned(), session_token: session_token.map(str::to_owned), caller };
        self.shared.state().bases.insert(access_key.to_owned(), base);
    }

    /// Forgets a registered or issued key, as when the credentials were revoked.
    pub fn forget_key(&self, access_key: &str) {
        let mut state = self.shared.state();
        state.bases.remove(access_key);
        state.issued.remove(access_key);
    }

    /// Makes an OIDC provider known, or replaces its keys (a JWKS document), as for AssumeRoleWithWebIdentity.
    pub fn oidc_provider(&self, issuer: &str, audience: &str, jwks: &Value) -> Result<()> {
        let keys = jwks["keys"].as_array().context("a JWKS has an array of keys")?.clone();
        let mut state = self.shared.state();
        state.providers.retain(|provider| provider.issuer != issuer);
        state.providers.push(Provider { issuer: issuer.to_owned(), audience: audience.to_owned(), keys });
        Ok(())
    }

    /// Adds or replaces a role.
    pub fn role(&self, role: RoleSpec) {
        self.shared.state().roles.insert(role.arn.clone(), role);
    }

    /// Whether a role nobody described may be assumed from its own account. It may unless told otherwise.
    pub fn trust_any_role(&self, trust: bool) {
        self.shared.state().trust_any_role = trust;
    }

    /// Every call so far, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// The calls so far that assume a role, with a signature or a web identity, in order of arrival.
    pub fn assume_calls(&self) -> Vec<Call> {
        self.shared.state().calls.iter().filter(|call| call.assumes()).cloned().collect()
    }

    /// Waits until the recorded calls satisfy `enough`; false when they do not in time.
    pub fn wait(&self, limit: Duration, enough: impl Fn(&[Call]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.state();
        while !enough(&state.calls) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.shared.recorded.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Forgets the recorded calls. Issued credentials stay valid.
    pub fn clear(&self) {
        self.shared.state().calls.clear();
    }

    /// What an issued access key stands for.
    pub fn who(&self, access_key_id: &str) -> Option<Issued> {
        self.shared.state().issued.get(access_key_id).cloned()
    }

    /// Every credential issued so far, in no order.
    pub fn issued(&self) -> Vec<Issued> {
        self.shared.state().issued.values().cloned().collect()
    }

    /// Answers every call this much later.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Fails the next `count` calls that assume a role.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.shared.state().next_faults.extend(std::iter::repeat_n(fault, count));
    }

    /// Fails every call of every action, until `None`. Also forgets what is left of `fail_next`.
    pub fn fail_always(&self, fault: Option<Fault>) {
        let mut state = self.shared.state();
        state.next_faults.clear();
        state.fault = fault;
    }

    /// Fails every call that assumes one role, until `None`.
    pub fn fail_role(&self, role_arn: &str, fault: Option<Fault>) {
        let mut state = self.shared.state();
        match fault {
            Some(fault) => state.role_faults.insert(role_arn.to_owned(), fault),
            None => state.role_faults.remove(role_arn),
        };
    }

    /// Issues secrets and session tokens that contain this text, so that a test can search logs and dumps for it.
    pub fn set_planted_secret(&self, marker: Option<&str>) {
        self.shared.state().planted = marker.map(str::to_owned);
    }

    /// Runs this STS's clock ahead (or behind): `Date`, `Expiration`, and what it takes for a fresh signature.
    pub fn set_clock_skew(&self, seconds: i64) {
        self.shared.state().skew = seconds;
    }

    /// Whether a signature dated more than five minutes from this STS's clock is refused, as by the real one. It is unless
    /// told otherwise.
    pub fn check_signature_date(&self, check: bool) {
        self.shared.state().check_date = check;
    }

    /// Lets issued credentials end after this many seconds even if more was asked for; 0 gives what was asked for.
    pub fn set_lifetime(&self, seconds: u32) {
        self.shared.state().lifetime = (seconds > 0).then_some(seconds);
    }

    /// Refuses connections, or serves again.
    pub fn down(&self, down: bool) -> Result<()> {
        self.server.down(down)
    }
}
