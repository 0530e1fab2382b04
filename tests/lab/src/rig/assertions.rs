//! Assertions that all suites share: a client was served, a client got nothing, no pod reached the cloud's metadata
//! service.

use anyhow::{Result, anyhow, bail, ensure};

use super::{ControlPlane, Rig};
use crate::agent::{Client, Creds, CredsError};

impl<A: ControlPlane> Rig<A> {
    /// Asserts that `client` gets credentials of `role`. STS, not podrole, confirms whose they are.
    pub fn served(&self, client: Client<'_>, role: &str) -> Result<Creds> {
        let credentials = client.credentials().map_err(|error| {
            let recently = self.daemon().map(|daemon| daemon.recently()).unwrap_or_default();
            anyhow!("no credentials of {role}: {error}; recent log:\n{recently}")
        })?;
        let real = self.role_of(&credentials);
        ensure!(real.as_deref() == Some(role), "expected credentials of {role}, got {real:?}: {credentials:?}");
        ensure!(credentials.role == role, "the list contains {}", credentials.role);
        Ok(credentials)
    }

    /// Asserts that `client` gets no credentials, neither directly nor in an error text.
    pub fn not_served(&self, client: Client<'_>) -> Result<CredsError> {
        match client.credentials() {
            Ok(credentials) => bail!("got credentials of {:?}: {credentials:?}", self.role_of(&credentials)),
            Err(error) => {
                let said = format!("{error:?}");
                ensure!(!self.imds.credentials().are_in(&said), "the node's credentials are in {said}");
                Ok(error)
            }
        }
    }

    /// Asserts that no pod has reached the cloud's metadata service.
    pub fn no_leak(&self) -> Result<()> {
        let (packets, seen) = (self.imds.leaked_packets()?, self.imds.from_pods());
        ensure!(packets == 0 && seen.is_empty(), "{packets} packets leaked: {seen:?}");
        Ok(())
    }
}
