//! From (pod, container, service account, namespace) to a role or to one named reason why not.

use super::{ContainerRoles, Rules, SessionScope};
use crate::types::{
    AllowList, Annotation, BadAnnotation, ContainerId, ContainerRole, Denial, ExternalId, NamespaceEntry, PodEntry,
    RoleArn, RoleRef, ServiceAccountEntry, SessionName,
};

/// Whom a decision is about. `None` means "the watch has not shown it", never "it does not exist".
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a PodEntry,
    /// The container that asks; `None` where only the pod is known (`--identity=ip`).
    pub container: Option<&'a ContainerId>,
    /// The pod's namespace.
    pub namespace: Option<&'a NamespaceEntry>,
    /// The pod's service account, where service accounts are a source of roles.
    pub service_account: ServiceAccount<'a>,
}

/// What is known of the pod's service account.
#[derive(Clone, Copy, Debug)]
pub enum ServiceAccount<'a> {
    /// Service accounts are no source of roles here.
    Off,
    /// A source, and not seen yet.
    Unseen,
    /// As the watch shows it.
    Seen(&'a ServiceAccountEntry),
}

/// Where a container's role is asked for: the first place that is set, also when what it says is "none" or cannot be read. Falling
/// through to the next one would give a pod a role that its owner meant to replace.
#[derive(Clone, Copy, Debug)]
pub enum RoleSource<'a> {
    /// The pod's annotation for this container.
    Container(&'a ContainerRole),
    /// The pod's annotation.
    Pod(&'a Annotation<RoleRef>),
    /// The service account's annotation.
    ServiceAccount(&'a Annotation<RoleRef>),
    /// Nowhere.
    Nowhere,
}

/// The answer to "which role?".
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// This role, with these inputs to STS.
    Allow(Grant),
    /// Nothing, for this reason; it holds until an object changes.
    Deny(DenyReason),
    /// Not decidable yet: hold the request, the watch will tell.
    NotYet(NotYet),
}

/// Everything of an STS call that depends on the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: RoleArn,
    /// The session's name.
    pub session_name: SessionName,
    /// The external id.
    pub external_id: Option<ExternalId>,
}

/// Why a pod gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// A role above `--role-ceiling`.
    AboveCeiling(RoleArn),
    /// The namespace's list cannot be read, and no other list allows the role.
    BadAllowList(BadAnnotation),
    /// The external id cannot be used.
    BadExternalId(BadAnnotation),
    /// The role cannot be read.
    BadRole(BadAnnotation),
    /// The session name cannot be used.
    BadSessionName(BadAnnotation),
    /// `--container-roles=strict`, and a container of the pod may sniff.
    ContainerRolesRefused,
    /// No list of the namespace, nor the administrator's, allows the role.
    NamespaceNotPermitted(RoleArn),
    /// The pod asks for no role.
    NoRole,
    /// The role is podrole's own, its first hop's, or the node's.
    OwnRole(RoleArn),
    /// The pod has ended.
    PodFinished,
}

/// What a decision waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// The pod has per-container roles and its statuses do not show this container yet.
    Container,
    /// The watch has not shown the namespace.
    Namespace,
    /// The watch has not shown the service account.
    ServiceAccount,
}

/// A list that may allow a namespace's pods a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListSource {
    /// The namespace's annotation with globs.
    AllowedRoles,
    /// The namespace's annotation with a regular expression.
    Permitted,
    /// The administrator's `--allow`.
    Admin,
}

// === impl ServiceAccount ===

impl<'a> ServiceAccount<'a> {
    /// `seen` as the watch shows it, if service accounts are `enabled` as a source of roles.
    pub fn of(enabled: bool, seen: Option<&'a ServiceAccountEntry>) -> Self {
        match (enabled, seen) {
            (false, _) => Self::Off,
            (true, None) => Self::Unseen,
            (true, Some(account)) => Self::Seen(account),
        }
    }
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// Where the role is asked for.
    pub fn source(self) -> Result<RoleSource<'a>, NotYet> {
        let pod = self.pod;
        if !pod.container_roles.is_empty() {
            // An id that the statuses do not show may be the container with the override: the pod's role would be the wrong one.
            let name = self.container.and_then(|id| pod.container_name(id)).ok_or(NotYet::Container)?;
            if let Some(over) = pod.container_roles.iter().find(|over| over.container == *name) {
                return Ok(RoleSource::Container(over));
            }
        }
        if let Some(role) = &pod.role {
            return Ok(RoleSource::Pod(role));
        }
        match self.service_account {
            ServiceAccount::Off => Ok(RoleSource::Nowhere),
            ServiceAccount::Unseen => Err(NotYet::ServiceAccount),
            ServiceAccount::Seen(account) => {
                Ok(account.role.as_ref().map_or(RoleSource::Nowhere, RoleSource::ServiceAccount))
            }
        }
    }
}

// === impl Rules ===

impl Rules {
    /// Decides. Pure: the same inputs give the same answer.
    pub fn decide(&self, subject: Subject<'_>) -> Decision {
        match self.grant(subject) {
            Ok(grant) => Decision::Allow(grant),
            Err(Refusal::Deny(reason)) => Decision::Deny(reason),
            Err(Refusal::NotYet(what)) => Decision::NotYet(what),
        }
    }

    fn grant(&self, subject: Subject<'_>) -> Result<Grant, Refusal> {
        let pod = subject.pod;
        // First, as whoever serves requests must have seen it before it asks here.
        let namespace = subject.namespace.ok_or(Refusal::NotYet(NotYet::Namespace))?;
        if pod.finished {
            return Err(DenyReason::PodFinished.into());
        }
        match self.container_roles {
            ContainerRoles::Strict if pod.can_sniff && !pod.container_roles.is_empty() => {
                return Err(DenyReason::ContainerRolesRefused.into());
            }
            ContainerRoles::Strict | ContainerRoles::Shared => {}
        }
        let role = self.role_of(subject.source().map_err(Refusal::NotYet)?)?;
        self.check(&role, namespace)?;
        Ok(Grant { session_name: self.session_name(pod)?, external_id: external_id(pod, namespace)?, role })
    }

    /// The whole ARN of the role that `source` asks for.
    pub fn role_of(&self, source: RoleSource<'_>) -> Result<RoleArn, DenyReason> {
        let role = match source {
            RoleSource::Container(over) => over.role.as_ref().map(Option::as_ref),
            RoleSource::Pod(role) | RoleSource::ServiceAccount(role) => role.as_ref().map(Some),
            RoleSource::Nowhere => Ok(None),
        };
        let role = role.map_err(|bad| DenyReason::BadRole(bad.clone()))?.ok_or(DenyReason::NoRole)?;
        role.resolve(&self.base).map_err(|error| {
            DenyReason::BadRole(BadAnnotation::Role { key: "role, completed with --base-role-arn,".into(), error })
        })
    }

    /// Whether some namespace could be allowed `role` at all.
    pub fn under_ceiling(&self, role: &RoleArn) -> bool {
        self.ceiling.iter().any(|glob| glob.matches(role, &self.base))
    }

    /// The lists of the namespace called `name`; of its own as far as `namespace` shows them.
    pub fn lists<'a>(
        &'a self,
        name: &str,
        namespace: Option<&'a NamespaceEntry>,
    ) -> impl Iterator<Item = (ListSource, Result<&'a AllowList, &'a BadAnnotation>)> {
        let own = |list: fn(&NamespaceEntry) -> &Option<Annotation<AllowList>>| {
            namespace.and_then(|namespace| list(namespace).as_ref()).map(Result::as_ref)
        };
        let all = [
            (ListSource::AllowedRoles, own(|namespace| &namespace.allowed_roles)),
            (ListSource::Permitted, own(|namespace| &namespace.permitted)),
            (ListSource::Admin, self.allow.get(name).map(Ok)),
        ];
        all.into_iter().filter_map(|(source, list)| Some((source, list?)))
    }

    /// Those of [`lists`](Self::lists) that allow `role`.
    pub fn lists_holding<'a>(
        &'a self,
        role: &RoleArn,
        name: &str,
        namespace: Option<&'a NamespaceEntry>,
    ) -> impl Iterator<Item = ListSource> {
        let holds = |list: Result<&AllowList, &BadAnnotation>| list.is_ok_and(|list| list.allows(role, &self.base));
        self.lists(name, namespace).filter(move |(_, list)| holds(*list)).map(|(source, _)| source)
    }

    fn check(&self, role: &RoleArn, namespace: &NamespaceEntry) -> Result<(), DenyReason> {
        if self.own_roles.iter().any(|own| own.is_same_role(role)) {
            return Err(DenyReason::OwnRole(role.clone()));
        }
        if !self.under_ceiling(role) {
            return Err(DenyReason::AboveCeiling(role.clone()));
        }
        if self.lists_holding(role, &namespace.name, Some(namespace)).next().is_some() {
            return Ok(());
        }
        let mut lists = self.lists(&namespace.name, Some(namespace)).map(|(_, list)| list).peekable();
        if lists.peek().is_none() && !self.require_allow {
            return Ok(());
        }
        // A list that cannot be read is a list: somebody meant to restrict.
        Err(match lists.find_map(Result::err) {
            Some(bad) => DenyReason::BadAllowList(bad.clone()),
            None => DenyReason::NamespaceNotPermitted(role.clone()),
        })
    }

    fn session_name(&self, pod: &PodEntry) -> Result<SessionName, DenyReason> {
        if let Some(custom) = &pod.session_name {
            let text = custom.as_ref().map_err(|bad| DenyReason::BadSessionName(bad.clone()))?;
            return SessionName::custom(text, &pod.uid).map_err(|error| {
                DenyReason::BadSessionName(BadAnnotation::Session {
                    key: "iam.amazonaws.com/session-name".into(),
                    error,
                })
            });
        }
        Ok(match self.session_scope {
            SessionScope::Pod => SessionName::of_pod(&pod.namespace, &pod.service_account, &pod.uid),
            SessionScope::ServiceAccount => SessionName::of_service_account(&pod.namespace, &pod.service_account),
            SessionScope::Role => SessionName::of_node(&self.node),
        })
    }
}

/// The namespace's id wins: it is the namespace's owner who vouches for what its pods may claim to be.
fn external_id(pod: &PodEntry, namespace: &NamespaceEntry) -> Result<Option<ExternalId>, DenyReason> {
    let id = namespace.external_id.as_ref().or(pod.external_id.as_ref());
    id.cloned().transpose().map_err(DenyReason::BadExternalId)
}

enum Refusal {
    Deny(DenyReason),
    NotYet(NotYet),
}

impl From<DenyReason> for Refusal {
    fn from(reason: DenyReason) -> Self {
        Self::Deny(reason)
    }
}

// === impl DenyReason ===

impl DenyReason {
    /// The same in the closed list that all of podrole shares.
    pub fn denial(&self) -> Denial {
        match self {
            Self::AboveCeiling(_) => Denial::AboveCeiling,
            Self::BadAllowList(_) => Denial::BadAllowList,
            Self::BadExternalId(_) => Denial::BadExternalId,
            Self::BadRole(_) => Denial::BadRole,
            Self::BadSessionName(_) => Denial::BadSessionName,
            Self::ContainerRolesRefused => Denial::ContainerRolesRefused,
            Self::NamespaceNotPermitted(_) => Denial::NamespaceNotPermitted,
            Self::NoRole => Denial::NoRole,
            Self::OwnRole(_) => Denial::OwnRole,
            Self::PodFinished => Denial::PodFinished,
        }
    }

    /// One sentence for people: what, why, and what to do.
    pub fn explain(&self) -> String {
        match self {
            Self::AboveCeiling(role) => {
                format!("role {role} is outside --role-ceiling; ask the cluster's administrator")
            }
            Self::BadAllowList(bad) => format!("the namespace's list of roles is unusable: {bad}"),
            Self::BadExternalId(bad) => format!("the external id is unusable: {bad}"),
            Self::BadRole(bad) => format!("the role is unusable: {bad}"),
            Self::BadSessionName(bad) => format!("the session name is unusable: {bad}"),
            Self::ContainerRolesRefused => {
                "--container-roles=strict: a container of this pod may read its siblings' packets; \
                 drop NET_RAW in every container, or use one role for the pod"
                    .into()
            }
            Self::NamespaceNotPermitted(role) => format!(
                "no list allows role {role} in this namespace; add it to the namespace's annotation \
                 iam.amazonaws.com/allowed-roles"
            ),
            Self::NoRole => "the pod asks for no role; annotate it with iam.amazonaws.com/role".into(),
            Self::OwnRole(role) => {
                format!("role {role} is podrole's own or the node's, and is given to no pod; choose another")
            }
            Self::PodFinished => "the pod has ended".into(),
        }
    }
}

// === impl NotYet ===

impl NotYet {
    /// The stable name: the outcome of such a request in `podrole_http_requests_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container_unknown",
            Self::Namespace => "namespace_unknown",
            Self::ServiceAccount => "service_account_unknown",
        }
    }
}

#[cfg(test)]
mod tests;
