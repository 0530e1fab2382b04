//! Identifies the owner of a connection. Waits only if the owner's network namespace or cgroup is not known yet.

use std::io;

use super::{ClientSocket, Connection, Coverage, Kernel, Proof};
use crate::deadline::Deadline;

/// Identifies callers by asking a [`Kernel`].
#[derive(Debug)]
pub struct Resolver<K> {
    kernel: K,
}

/// The sockets that match a connection, each with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proofs {
    /// One socket: the normal case.
    One(Proof),
    /// Several network namespaces have the peer's address and a matching socket. These are the sockets whose owners are known.
    /// Even if there is only one such socket, the pods' published addresses must decide who the owner is.
    Several(Vec<Proof>),
}

/// Why the kernel does not identify the caller.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The lookup itself failed.
    #[error("cannot ask the kernel who owns the socket: {0}")]
    Kernel(#[source] io::Error),
    /// No network namespace of this node holds the peer's address.
    #[error("no network namespace of this node has the caller's address")]
    NoNetns,
    /// A network namespace holds the address but not the socket: the client runs in a nested namespace (docker in a pod, a VM), or
    /// the connection was forged.
    #[error("no open socket of this connection in the pod's own network namespace")]
    SocketNotInPod,
    /// A socket of the connection exists, but its owner has closed it, or several sockets match the connection.
    #[error("the kernel does not report a single owner for the connection's socket")]
    Unowned,
    /// The socket's cgroup belongs to no container: the client is a process of the node.
    #[error("the socket belongs to no container")]
    NotAContainer,
    /// The scan did not finish before the request's deadline.
    #[error("the caller was not identified in time")]
    TimedOut,
}

// === impl Resolver ===

impl<K: Kernel> Resolver<K> {
    /// A resolver that asks `kernel`.
    pub fn new(kernel: K) -> Self {
        Self { kernel }
    }

    /// Identifies the owner of `connection`. Returns at once if the owner's network namespace and cgroup are known; otherwise
    /// requests a scan and waits for it, until `deadline` at the latest.
    pub async fn prove(&self, connection: &Connection, deadline: &mut Deadline) -> Result<Proofs, IdentityError> {
        let sockets = self.sockets(connection, deadline).await?;
        let only = sockets.len() == 1;
        let mut proofs = self.proofs(sockets, deadline).await?;
        match proofs.pop() {
            None => Err(IdentityError::NotAContainer),
            Some(proof) if only => Ok(Proofs::One(proof)),
            Some(proof) => {
                proofs.push(proof);
                Ok(Proofs::Several(proofs))
            }
        }
    }

    /// Whether the socket of `proof` still exists. False if there is another socket in its place, or if the lookup fails.
    pub fn still_holds(&self, connection: &Connection, proof: &Proof) -> bool {
        matches!(self.kernel.socket_in(proof.socket.netns, connection), Ok(Some(socket)) if socket == proof.socket)
    }

    async fn sockets(
        &self,
        connection: &Connection,
        deadline: &mut Deadline,
    ) -> Result<Vec<ClientSocket>, IdentityError> {
        let mut coverage = Coverage::Partial;
        loop {
            let sockets = self.kernel.sockets(connection).map_err(IdentityError::Kernel)?;
            match sockets.owners {
                _ if !sockets.found.is_empty() => return Ok(sockets.found),
                _ if coverage == Coverage::Partial => {}
                _ if sockets.unowned => return Err(IdentityError::Unowned),
                0 => return Err(IdentityError::NoNetns),
                _ => return Err(IdentityError::SocketNotInPod),
            }
            coverage = deadline.wait(self.kernel.rescan_netns()).await.map_err(|_| IdentityError::TimedOut)?;
        }
    }

    /// The owners of `sockets`. A socket whose cgroup belongs to no container is left out: if several sockets match, such a
    /// socket is one more claim to the address, but no reason to deny the other claimants.
    async fn proofs(&self, sockets: Vec<ClientSocket>, deadline: &mut Deadline) -> Result<Vec<Proof>, IdentityError> {
        let mut coverage = Coverage::Partial;
        loop {
            let known = sockets.iter().filter_map(|socket| {
                self.kernel.identity(socket.cgroup).map(|identity| Proof { socket: *socket, identity })
            });
            let known: Vec<Proof> = known.collect();
            if known.len() == sockets.len() || coverage == Coverage::Complete {
                return Ok(known);
            }
            coverage = deadline.wait(self.kernel.rescan_cgroups()).await.map_err(|_| IdentityError::TimedOut)?;
        }
    }
}

// === impl IdentityError ===

impl IdentityError {
    /// The error's stable name. It labels the outcome of a request with this error in `podrole_http_requests_total`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel_error",
            Self::NoNetns => "no_namespace",
            Self::SocketNotInPod => "socket_not_in_pod",
            Self::Unowned => "socket_unowned",
            Self::NotAContainer => "not_a_container",
            Self::TimedOut => "proof_timeout",
        }
    }
}
