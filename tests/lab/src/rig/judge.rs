//! The judgements that all suites make of a rig: a client was served, was refused, and nothing reached the cloud.

use anyhow::{Result, anyhow, bail, ensure};

use super::{ControlPlane, Rig};
use crate::agent::{Client, Creds, CredsError};

impl<A: ControlPlane> Rig<A> {
    /// `client` gets credentials of `role`, in what STS, not podrole, says about them.
    pub fn served(&self, client: Client<'_>, role: &str) -> Result<Creds> {
        let credentials = client.credentials().map_err(|error| {
            let recently = self.daemon().map(|daemon| daemon.recently()).unwrap_or_default();
            anyhow!("no credentials of {role}: {error}; of late:\n{recently}")
        })?;
        let real = self.role_of(&credentials);
        ensure!(real.as_deref() == Some(role), "asked for {role}, got {real:?}: {credentials:?}");
        ensure!(credentials.role == role, "the list says {}", credentials.role);
        Ok(credentials)
    }

    /// `client` gets no credentials: not of the node, not of anybody, not in any words.
    pub fn refused(&self, client: Client<'_>) -> Result<CredsError> {
        match client.credentials() {
            Ok(credentials) => bail!("got credentials of {:?}: {credentials:?}", self.role_of(&credentials)),
            Err(error) => {
                let said = format!("{error:?}");
                ensure!(!self.imds.credentials().are_in(&said), "the node's credentials are in {said}");
                Ok(error)
            }
        }
    }

    /// Nothing from any pod has reached the cloud's metadata service.
    pub fn no_leak(&self) -> Result<()> {
        let (packets, seen) = (self.imds.leaked_packets()?, self.imds.from_pods());
        ensure!(packets == 0 && seen.is_empty(), "{packets} packets leaked: {seen:?}");
        Ok(())
    }
}
