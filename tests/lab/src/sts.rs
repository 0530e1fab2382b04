//! A recording double of AWS STS, with the query protocol, the real limits, and every failure mode of the real service.
//!
//! It answers AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity. It knows the access keys that a test
//! registered and those that it issued. It does not recompute signatures, but requires a recent signature date and the
//! right session token. It verifies web identity tokens completely, with the key sets that a test registers.

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

/// A running STS double. Dropping it ends it.
pub struct Sts {
    shared: Arc<Shared>,
    server: Server,
}

/// State shared between the handle and the server's thread.
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
    /// Starts in the caller's network namespace. Port 0 selects a free port.
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

    /// The address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Registers an access key. Without a session token, it is a long-term key.
    pub fn register_base(&self, access_key: &str, secret: &str, session_token: Option<&str>, caller: Caller) {
        let base = Base { secret: secret.to_owned(), session_token: session_token.map(str::to_owned), caller };
        self.shared.state().bases.insert(access_key.to_owned(), base);
    }

    /// Removes a registered or issued key, as if the credentials were revoked.
    pub fn forget_key(&self, access_key: &str) {
        let mut state = self.shared.state();
        state.bases.remove(access_key);
        state.issued.remove(access_key);
    }

    /// Registers an OIDC provider for AssumeRoleWithWebIdentity, or replaces its keys (a JWKS document).
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

    /// Whether roles that no test described may be assumed from their own account. The default is true.
    pub fn trust_any_role(&self, trust: bool) {
        self.shared.state().trust_any_role = trust;
    }

    /// Every call so far, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// The calls so far that assume a role, signed or with a web identity, in order of arrival.
    pub fn assume_calls(&self) -> Vec<Call> {
        self.shared.state().calls.iter().filter(|call| call.assumes()).cloned().collect()
    }

    /// Waits until `enough` accepts the recorded calls. Returns false on timeout.
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

    /// Clears the recorded calls. Issued credentials stay valid.
    pub fn clear(&self) {
        self.shared.state().calls.clear();
    }

    /// The record of an issued access key.
    pub fn who(&self, access_key_id: &str) -> Option<Issued> {
        self.shared.state().issued.get(access_key_id).cloned()
    }

    /// All credentials issued so far, unordered.
    pub fn issued(&self) -> Vec<Issued> {
        self.shared.state().issued.values().cloned().collect()
    }

    /// Delays the answer to every call.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Fails the next `count` calls that assume a role.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.shared.state().next_faults.extend(std::iter::repeat_n(fault, count));
    }

    /// Fails every call of every action until called with `None`. Also resets `fail_next`.
    pub fn fail_always(&self, fault: Option<Fault>) {
        let mut state = self.shared.state();
        state.next_faults.clear();
        state.fault = fault;
    }

    /// Fails every call that assumes one role, until called with `None`.
    pub fn fail_role(&self, role_arn: &str, fault: Option<Fault>) {
        let mut state = self.shared.state();
        match fault {
            Some(fault) => state.role_faults.insert(role_arn.to_owned(), fault),
            None => state.role_faults.remove(role_arn),
        };
    }

    /// Puts this text into all secret keys and session tokens issued from now on, so that a test can search logs and
    /// dumps for it.
    pub fn set_planted_secret(&self, marker: Option<&str>) {
        self.shared.state().planted = marker.map(str::to_owned);
    }

    /// Sets this STS's clock ahead (or back). It determines `Date`, `Expiration`, and whether a signature is recent.
    pub fn set_clock_skew(&self, seconds: i64) {
        self.shared.state().skew = seconds;
    }

    /// Whether a signature dated more than five minutes from this STS's clock is rejected, as by the real service. The
    /// default is true.
    pub fn check_signature_date(&self, check: bool) {
        self.shared.state().check_date = check;
    }

    /// Limits the lifetime of issued credentials to this many seconds, even if the call requests more. 0 removes the
    /// limit.
    pub fn set_lifetime(&self, seconds: u32) {
        self.shared.state().lifetime = (seconds > 0).then_some(seconds);
    }

    /// `true` refuses connections, `false` serves again.
    pub fn down(&self, down: bool) -> Result<()> {
        self.server.down(down)
    }
}
