//! From (pod, container, service account, namespace) to a role or to one named reason why not.

use super::{ContainerRoles, Rules, SessionScope};
use crate::types::{
    AllowList, Annotation, AnnotationKey, BadAnnotation, ContainerId, ContainerRole, DenialReason, ExternalId,
    NamespaceEntry, PodEntry, RoleArn, RoleRef, ServiceAccountEntry, SessionName, closed_set,
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
    Deny(DenialReason),
    /// Not known yet: the request waits until the watch shows more.
    NotReady(NotReady),
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

closed_set! {
    /// What a decision waits for. The name is the outcome of such a request in `podrole_http_requests_total`.
    pub enum NotReady {
        /// The pod has per-container roles, and its status does not show this container yet.
        Container = "container_unknown",
        /// The watch has not shown the namespace.
        Namespace = "namespace_unknown",
        /// The watch has not shown the service account.
        ServiceAccount = "service_account_unknown",
    }
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
    pub fn source(self) -> Result<RoleSource<'a>, NotReady> {
        let pod = self.pod;
        if !pod.container_roles.is_empty() {
            // An id that the statuses do not show may be the container with the override: the pod's role would be the wrong one.
            let name = self.container.and_then(|id| pod.container_name(id)).ok_or(NotReady::Container)?;
            if let Some(over) = pod.container_roles.iter().find(|over| over.container == *name) {
                return Ok(RoleSource::Container(over));
            }
        }
        if let Some(role) = &pod.role {
            return Ok(RoleSource::Pod(role));
        }
        match self.service_account {
            ServiceAccount::Off => Ok(RoleSource::Nowhere),
            ServiceAccount::Unseen => Err(NotReady::ServiceAccount),
            ServiceAccount::Seen(account) => {
                Ok(account.role.as_ref().map_or(RoleSource::Nowhere, RoleSource::ServiceAccount))
            }
        }
    }
}

// === impl RoleSource ===

impl RoleSource<'_> {
    /// The key of the annotation that asks for the role.
    pub fn key(self) -> Option<String> {
        match self {
            Self::Container(over) => Some(format!("{}{}", AnnotationKey::ContainerRole, over.container)),
            Self::Pod(_) => Some(AnnotationKey::Role.to_string()),
            Self::ServiceAccount(_) => Some(AnnotationKey::ServiceAccountRole.to_string()),
            Self::Nowhere => None,
        }
    }
}

// === impl Rules ===

impl Rules {
    /// Decides. Pure: the same inputs give the same answer.
    pub fn decide(&self, subject: Subject<'_>) -> Decision {
        match self.grant(subject) {
            Ok(grant) => Decision::Allow(grant),
            Err(NoGrant::Denied(reason)) => Decision::Deny(reason),
            Err(NoGrant::NotReady(what)) => Decision::NotReady(what),
        }
    }

    fn grant(&self, subject: Subject<'_>) -> Result<Grant, NoGrant> {
        let pod = subject.pod;
        // First, because the metadata service waits for the namespace before it asks for a decision.
        let namespace = subject.namespace.ok_or(NotReady::Namespace)?;
        if pod.finished {
            return Err(DenialReason::PodFinished.into());
        }
        match self.container_roles {
            ContainerRoles::Strict if pod.can_sniff && !pod.container_roles.is_empty() => {
                return Err(DenialReason::ContainerRolesRefused.into());
            }
            ContainerRoles::Strict | ContainerRoles::Shared => {}
        }
        let role = self.role_of(subject.source()?)?;
        self.check(&role, namespace)?;
        Ok(Grant { session_name: self.session_name(pod)?, external_id: external_id(pod, namespace)?, role })
    }

    /// The whole ARN of the role that `source` asks for.
    pub fn role_of(&self, source: RoleSource<'_>) -> Result<RoleArn, DenialReason> {
        let role = match source {
            RoleSource::Container(over) => over.role.as_ref().map(Option::as_ref),
            RoleSource::Pod(role) | RoleSource::ServiceAccount(role) => role.as_ref().map(Some),
            RoleSource::Nowhere => Ok(None),
        };
        let role = role.map_err(|bad| DenialReason::BadRole { bad: bad.clone() })?.ok_or(DenialReason::NoRole)?;
        role.resolve(&self.base).map_err(|error| {
            let key = source.key().unwrap_or_default();
            let key = format!("{key}, completed with --base-role-arn,").into();
            DenialReason::BadRole { bad: BadAnnotation::Role { key, error } }
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

    fn check(&self, role: &RoleArn, namespace: &NamespaceEntry) -> Result<(), DenialReason> {
        if self.own_roles.iter().any(|own| own.is_same_role(role)) {
            return Err(DenialReason::OwnRole { role: role.clone() });
        }
        if !self.under_ceiling(role) {
            return Err(DenialReason::AboveCeiling { role: role.clone() });
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
            Some(bad) => DenialReason::BadAllowList { bad: bad.clone() },
            None => DenialReason::NamespaceNotPermitted { role: role.clone() },
        })
    }

    fn session_name(&self, pod: &PodEntry) -> Result<SessionName, DenialReason> {
        if let Some(custom) = &pod.session_name {
            let text = custom.as_ref().map_err(|bad| DenialReason::BadSessionName { bad: bad.clone() })?;
            return SessionName::custom(text, &pod.uid).map_err(|error| {
                let bad = BadAnnotation::Session { key: AnnotationKey::SessionName.name().into(), error };
                DenialReason::BadSessionName { bad }
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
fn external_id(pod: &PodEntry, namespace: &NamespaceEntry) -> Result<Option<ExternalId>, DenialReason> {
    let id = namespace.external_id.as_ref().or(pod.external_id.as_ref());
    id.cloned().transpose().map_err(|bad| DenialReason::BadExternalId { bad })
}

/// Why there is no grant.
enum NoGrant {
    Denied(DenialReason),
    NotReady(NotReady),
}

impl From<DenialReason> for NoGrant {
    fn from(reason: DenialReason) -> Self {
        Self::Denied(reason)
    }
}

impl From<NotReady> for NoGrant {
    fn from(what: NotReady) -> Self {
        Self::NotReady(what)
    }
}

#[cfg(test)]
mod tests;
