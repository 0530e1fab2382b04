//! Answers one question: whose connection is this? Waits only where something is not known yet.

use std::io;

use super::{ClientSocket, Connection, Kernel, Proof};
use crate::deadline::Deadline;
use crate::types::KernelIdentity;

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
    /// Several network namespaces hold the peer's address, and each has a matching socket. The pods' published addresses must
    /// decide between them.
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
    /// There is a socket of the connection, but its owner has closed it, or several match it.
    #[error("the kernel does not report one owner of the connection's socket")]
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

    /// Identifies the owner of `connection`. Returns at once where its network namespace and cgroup are known; otherwise asks for a
    /// scan and waits for it, until `deadline` at the latest.
    pub async fn prove(&self, connection: &Connection, deadline: &mut Deadline) -> Result<Proofs, IdentityError> {
        let sockets = self.sockets(connection, deadline).await?;
        let mut proofs = Vec::with_capacity(sockets.len());
        for socket in sockets {
            proofs.push(Proof { identity: self.identity(&socket, deadline).await?, socket });
        }
        match <[Proof; 1]>::try_from(proofs) {
            Ok([proof]) => Ok(Proofs::One(proof)),
            Err(proofs) => Ok(Proofs::Several(proofs)),
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
        let mut sockets = self.kernel.sockets(connection).map_err(IdentityError::Kernel)?;
        if sockets.found.is_empty() {
            deadline.wait(self.kernel.rescan_netns()).await.map_err(|_| IdentityError::TimedOut)?;
            sockets = self.kernel.sockets(connection).map_err(IdentityError::Kernel)?;
        }
        match sockets.owners {
            _ if !sockets.found.is_empty() => Ok(sockets.found),
            _ if sockets.unowned => Err(IdentityError::Unowned),
            0 => Err(IdentityError::NoNetns),
            _ => Err(IdentityError::SocketNotInPod),
        }
    }

    async fn identity(&self, socket: &ClientSocket, deadline: &mut Deadline) -> Result<KernelIdentity, IdentityError> {
        if let Some(identity) = self.kernel.identity(socket.cgroup) {
            return Ok(identity);
        }
        deadline.wait(self.kernel.rescan_cgroups()).await.map_err(|_| IdentityError::TimedOut)?;
        self.kernel.identity(socket.cgroup).ok_or(IdentityError::NotAContainer)
    }
}

// === impl IdentityError ===

impl IdentityError {
    /// The stable name: the outcome of such a request in `podrole_http_requests_total`.
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
