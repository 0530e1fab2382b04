//! Determines the pod that a connection belongs to, from the kernel's proofs and the watched objects. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use super::request::Caller;
use super::unresolved::{Claimant, Denied, NotReady, Unresolved};
use crate::caller::Proof;
use crate::caller::resolver::Proofs;
use crate::pods::index::{Index, Lookup};
use crate::types::{DenialReason, PodEntry};

/// The pod that a connection belongs to.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    pub(super) pod: &'a Arc<PodEntry>,
    /// The proof that led to this pod; `None` if callers are identified by address.
    pub(super) proof: Option<&'a Proof>,
}

/// A pod that claims the connection, and the proof that its claim rests on.
type Claim<'a> = (&'a Arc<PodEntry>, Option<&'a Proof>);

/// Determines from `index` which pod the caller at `peer` is.
pub(super) fn resolve_owner<'a>(index: &'a Index, caller: &'a Caller, peer: IpAddr) -> Result<Owner<'a>, Unresolved> {
    match caller {
        Caller::Kernel(Proofs::One(proof)) => by_proof(index, proof, peer),
        Caller::Kernel(Proofs::Several(proofs)) => by_claims(index, proofs, peer),
        Caller::Address => by_address(index, peer),
    }
}

fn by_proof<'a>(index: &'a Index, proof: &'a Proof, peer: IpAddr) -> Result<Owner<'a>, Unresolved> {
    match index.pod(&proof.identity.pod) {
        Lookup::Found(pod) if owns_netns(pod, proof, peer) => found((pod, Some(proof))),
        Lookup::Found(pod) => denied(DenialReason::ForeignNamespace, [(pod, Some(proof))]),
        Lookup::Ambiguous(pods) => denied(DenialReason::Ambiguous, pods.into_iter().map(|pod| (pod, Some(proof)))),
        Lookup::Unknown => Err(NotReady::Pod.into()),
    }
}

/// The cgroup identifies the pod; the netns must be the pod's own as well. The API server publishes addresses late, so a pod
/// without any address may own the netns; a pod with only other addresses does not.
fn owns_netns(pod: &PodEntry, proof: &Proof, peer: IpAddr) -> bool {
    pod.host_network == proof.socket.host && (pod.host_network || pod.ips.is_empty() || pod.ips.contains(&peer))
}

/// Chooses among several network namespaces that hold the address and have a matching socket. The pod that has published the
/// address is the owner; if no pod or more than one pod has published it, no pod is served.
fn by_claims<'a>(index: &'a Index, proofs: &'a [Proof], peer: IpAddr) -> Result<Owner<'a>, Unresolved> {
    let mut owners: Vec<Claim<'a>> = Vec::with_capacity(1);
    let mut others: Vec<Claim<'a>> = Vec::new();
    let mut may_change = false;
    for proof in proofs {
        match index.pod(&proof.identity.pod) {
            Lookup::Found(pod) if !proof.socket.host && !pod.host_network && pod.ips.contains(&peer) => {
                owners.push((pod, Some(proof)));
            }
            Lookup::Found(pod) => {
                may_change |= pod.ips.is_empty();
                others.push((pod, Some(proof)));
            }
            Lookup::Unknown => may_change = true,
            Lookup::Ambiguous(pods) => others.extend(pods.into_iter().map(|pod| (pod, Some(proof)))),
        }
    }
    match owners[..] {
        [owner] => found(owner),
        [] if may_change => Err(NotReady::Address.into()),
        [] | [_, _, ..] => denied(DenialReason::AddressConflict, owners.into_iter().chain(others)),
    }
}

/// Decides in the weaker mode: podrole serves a pod only if it is the only live pod with this address.
fn by_address(index: &Index, peer: IpAddr) -> Result<Owner<'_>, Unresolved> {
    let mut holders = index.pods().filter(|pod| !pod.host_network && !pod.finished && pod.ips.contains(&peer));
    match (holders.next(), holders.next()) {
        (None, _) => Err(NotReady::Pod.into()),
        (Some(pod), None) => found((pod, None)),
        (Some(one), Some(other)) => {
            denied(DenialReason::Ambiguous, [one, other].into_iter().chain(holders).map(|pod| (pod, None)))
        }
    }
}

fn found<'a>((pod, proof): Claim<'a>) -> Result<Owner<'a>, Unresolved> {
    Ok(Owner { pod, proof })
}

fn denied<'a>(reason: DenialReason, claims: impl IntoIterator<Item = Claim<'a>>) -> Result<Owner<'a>, Unresolved> {
    let claimant = |(pod, proof): Claim<'a>| Claimant {
        pod: pod.clone(),
        container: proof.map(|proof| proof.identity.container.clone()),
    };
    Err(Denied { reason, claimants: claims.into_iter().map(claimant).collect() }.into())
}
