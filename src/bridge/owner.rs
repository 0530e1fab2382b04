//! Which pod a connection is, out of what the kernel proved and what the watch shows. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use super::Unready;
use crate::caller::resolver::Proofs;
use crate::caller::{Connection, Proof};
use crate::pods::index::{Index, Lookup};
use crate::types::{ContainerId, Denial, NamespaceEntry, PodEntry, ServiceAccountEntry};

/// A caller on its way through one request.
#[derive(Debug)]
pub(super) struct Caller {
    /// What the kernel proved; `None` in address mode.
    pub(super) proofs: Option<Proofs>,
    /// Something was awaited since, so everything must be checked again before a secret is written.
    pub(super) waited: bool,
}

/// A caller whose pod and namespace are known.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) pod: Arc<PodEntry>,
    pub(super) namespace: Arc<NamespaceEntry>,
    pub(super) proof: Option<Proof>,
    pub(super) service_account: Option<Arc<ServiceAccountEntry>>,
}

/// Whose a connection is.
#[derive(Debug)]
pub(super) enum Ownership<'a> {
    /// This pod's.
    Owned { pod: &'a Arc<PodEntry>, proof: Option<&'a Proof> },
    /// The watch may still tell.
    NotYet(Unready),
    /// Nobody's that we may serve.
    Refused(RefusedOwner<'a>),
}

/// Why a connection is nobody's, and the pods that it could have been of: each of them is told.
#[derive(Debug)]
pub(super) struct RefusedOwner<'a> {
    pub(super) why: NotOwner,
    pub(super) claimants: Vec<(&'a Arc<PodEntry>, Option<&'a Proof>)>,
}

/// Why a proven process is not served as its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOwner {
    /// Two pods say that this cgroup is theirs.
    Ambiguous,
    /// The process is in another pod's network namespace, or in the node's without being a host-network pod: a mesh proxy, a CNI
    /// agent, or an attack.
    ForeignNamespace,
    /// Several namespaces own the address, and none by right.
    AddressConflict,
}

// === impl Owned ===

impl Owned {
    pub(super) fn container(&self) -> Option<&ContainerId> {
        self.proof.as_ref().map(|proof| &proof.identity.container)
    }
}

/// Decides by `index`.
pub(super) fn of<'a>(index: &'a Index, caller: &'a Caller, connection: &Connection) -> Ownership<'a> {
    let peer = connection.peer.ip();
    match &caller.proofs {
        None => by_address(index, peer),
        Some(Proofs::One(proof)) => by_proof(index, proof, peer),
        Some(Proofs::Several(proofs)) => by_claim(index, proofs, peer),
    }
}

fn by_proof<'a>(index: &'a Index, proof: &'a Proof, peer: IpAddr) -> Ownership<'a> {
    match index.pod(&proof.identity.pod) {
        Lookup::Unknown => Ownership::NotYet(Unready::Pod),
        Lookup::Ambiguous(pods) => refused(NotOwner::Ambiguous, pods.into_iter().map(|pod| (pod, Some(proof)))),
        Lookup::Found(pod) if owns_namespace(pod, proof, peer) => Ownership::Owned { pod, proof: Some(proof) },
        Lookup::Found(pod) => refused(NotOwner::ForeignNamespace, [(pod, Some(proof))]),
    }
}

/// The identity is the cgroup's; that the namespace is this pod's own is asked besides. Addresses come late, so none is no
/// contradiction; one that differs is.
fn owns_namespace(pod: &PodEntry, proof: &Proof, peer: IpAddr) -> bool {
    pod.host_network == proof.socket.host && (pod.host_network || pod.ips.is_empty() || pod.ips.contains(&peer))
}

/// Several namespaces own the address and each holds such a socket. The address is one pod's by the API server's word; without
/// that word nobody is served.
fn by_claim<'a>(index: &'a Index, proofs: &'a [Proof], peer: IpAddr) -> Ownership<'a> {
    let mut owners = Vec::with_capacity(1);
    let mut others = Vec::new();
    let mut undecided = false;
    for proof in proofs {
        match index.pod(&proof.identity.pod) {
            Lookup::Found(pod) if !proof.socket.host && !pod.host_network && pod.ips.contains(&peer) => {
                owners.push((pod, Some(proof)));
            }
            Lookup::Found(pod) => {
                undecided |= pod.ips.is_empty();
                others.push((pod, Some(proof)));
            }
            Lookup::Unknown => undecided = true,
            Lookup::Ambiguous(pods) => others.extend(pods.into_iter().map(|pod| (pod, Some(proof)))),
        }
    }
    match owners[..] {
        [(pod, proof)] => Ownership::Owned { pod, proof },
        [] if undecided => Ownership::NotYet(Unready::Address),
        [] | [_, _, ..] => refused(NotOwner::AddressConflict, owners.into_iter().chain(others)),
    }
}

/// The weaker mode: exactly one live pod has this address, or nobody is served.
fn by_address(index: &Index, peer: IpAddr) -> Ownership<'_> {
    let mut holders = index.pods().filter(|pod| !pod.host_network && !pod.finished && pod.ips.contains(&peer));
    match (holders.next(), holders.next()) {
        (None, _) => Ownership::NotYet(Unready::Pod),
        (Some(pod), None) => Ownership::Owned { pod, proof: None },
        (Some(one), Some(other)) => {
            refused(NotOwner::Ambiguous, [one, other].into_iter().chain(holders).map(|pod| (pod, None)))
        }
    }
}

fn refused<'a>(
    why: NotOwner,
    claimants: impl IntoIterator<Item = (&'a Arc<PodEntry>, Option<&'a Proof>)>,
) -> Ownership<'a> {
    Ownership::Refused(RefusedOwner { why, claimants: claimants.into_iter().collect() })
}

// === impl NotOwner ===

impl NotOwner {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::ForeignNamespace => "foreign_namespace",
            Self::AddressConflict => "address_conflict",
        }
    }

    /// The same in the closed list that all of podrole shares.
    pub(super) fn denial(self) -> Denial {
        match self {
            Self::Ambiguous => Denial::Ambiguous,
            Self::ForeignNamespace => Denial::ForeignNamespace,
            Self::AddressConflict => Denial::AddressConflict,
        }
    }

    /// One sentence for people.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Self::Ambiguous => "two pods claim to be this one",
            Self::ForeignNamespace => {
                "a process of this pod asked from a network namespace or an address that is not the pod's own: a mesh proxy, a CNI \
                 agent, or an attack"
            }
            Self::AddressConflict => "several network namespaces own the address, and none by right",
        }
    }
}
