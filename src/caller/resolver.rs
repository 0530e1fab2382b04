//! One question, "whose connection is this?", with every wait it may need and none that it does not.

use std::io;

use tokio::time::{Instant, timeout_at};

use super::{ClientSocket, Connection, Kernel, Proof};

/// Answers for a [`Kernel`].
#[derive(Debug)]
pub struct Resolver<K> {
    kernel: K,
}

/// The sockets that claim a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proofs {
    /// One: the rule.
    One(Proof),
    /// Several namespaces own the address and each has such a socket. The caller decides by what the pods' addresses are.
    Several(Vec<Proof>),
}

/// Why a connection has no proven owner. None of these is a pod's right to anything.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// The kernel could not be asked.
    #[error("the kernel could not be asked who owns the socket: {0}")]
    Kernel(#[source] io::Error),
    /// No namespace of this node owns the peer's address.
    #[error("no network namespace of this node owns the caller's address")]
    NoNamespace,
    /// The namespace is there and the socket is not: it was opened in a nested one (docker in a pod, a VM), or the connection
    /// was forged.
    #[error("no established socket of this connection in the pod's own namespace")]
    SocketNotInPod,
    /// The socket's cgroup is no container's: a process of the node.
    #[error("the socket belongs to no container")]
    NotAContainer,
    /// The time was up first.
    #[error("not known in time")]
    TimedOut,
}

// === impl Resolver ===

impl<K: Kernel> Resolver<K> {
    /// A resolver that asks `kernel`.
    pub fn new(kernel: K) -> Self {
        Self { kernel }
    }

    /// Who owns `connection`, and whether anything was awaited to learn it. Where everything is known nothing is; where a
    /// namespace or cgroup is new this looks again, until `deadline` at the latest.
    pub async fn prove(&self, connection: &Connection, deadline: Instant) -> Result<(Proofs, bool), Unproven> {
        let mut waited = false;
        let sockets = self.sockets(connection, deadline, &mut waited).await?;
        let mut proofs = Vec::with_capacity(sockets.len());
        for socket in sockets {
            proofs.push(Proof { identity: self.identity(&socket, deadline, &mut waited).await?, socket });
        }
        match <[Proof; 1]>::try_from(proofs) {
            Ok([proof]) => Ok((Proofs::One(proof), waited)),
            Err(proofs) => Ok((Proofs::Several(proofs), waited)),
        }
    }

    /// Whether the very socket of `proof` is still there. Anything else, also an error, is a no.
    pub fn still_holds(&self, connection: &Connection, proof: &Proof) -> bool {
        matches!(self.kernel.socket_in(proof.socket.netns, connection), Ok(Some(socket)) if socket == proof.socket)
    }

    async fn sockets(
        &self,
        connection: &Connection,
        deadline: Instant,
        waited: &mut bool,
    ) -> Result<Vec<ClientSocket>, Unproven> {
        let mut sockets = self.kernel.sockets(connection).map_err(Unproven::Kernel)?;
        if sockets.found.is_empty() {
            *waited = true;
            timeout_at(deadline, self.kernel.rescan_namespaces()).await.map_err(|_| Unproven::TimedOut)?;
            sockets = self.kernel.sockets(connection).map_err(Unproven::Kernel)?;
        }
        match sockets.namespaces {
            _ if !sockets.found.is_empty() => Ok(sockets.found),
            0 => Err(Unproven::NoNamespace),
            _ => Err(Unproven::SocketNotInPod),
        }
    }

    async fn identity(
        &self,
        socket: &ClientSocket,
        deadline: Instant,
        waited: &mut bool,
    ) -> Result<crate::types::KernelIdentity, Unproven> {
        if let Some(identity) = self.kernel.identity(socket.cgroup) {
            return Ok(identity);
        }
        *waited = true;
        timeout_at(deadline, self.kernel.rescan_cgroups()).await.map_err(|_| Unproven::TimedOut)?;
        self.kernel.identity(socket.cgroup).ok_or(Unproven::NotAContainer)
    }
}
