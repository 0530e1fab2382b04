//! Makes a decision from the pod, container, service account and namespace: a grant, a denial with its reason, or not ready.

use super::{ContainerRoles, Rules, SessionScope};
use crate::types::{
    AllowList, Annotation, AnnotationKey, BadAnnotation, ContainerId, ContainerRole, DenialReason, ExternalId,
    NamespaceEntry, PodEntry, RoleArn, RoleRef, ServiceAccountEntry, SessionName, closed_set,
};

/// The pod that a decision is about, with the other objects that the decision depends on. `None` means that the watch has not shown
/// the object yet, not that it does not exist.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a PodEntry,
    /// The calling container; `None` if only the pod is known (`--identity=ip`).
    pub container: Option<&'a ContainerId>,
    /// The pod's namespace.
    pub namespace: Option<&'a NamespaceEntry>,
    /// The pod's service account, if service accounts are a source of roles.
    pub service_account: ServiceAccount<'a>,
}

/// The state of knowledge about the pod's service account.
#[derive(Clone, Copy, Debug)]
pub enum ServiceAccount<'a> {
    /// Service accounts are not a source of roles (`--service-account-roles=false`).
    Off,
    /// The watch has not shown the service account yet.
    Unseen,
    /// The watch has shown the service account.
    Seen(&'a ServiceAccountEntry),
}

/// The source of the request for a container's role. The first source that is set counts, even if its value is "none" or invalid.
/// Falling back to the next source would give the pod a role that its owner meant to replace.
#[derive(Clone, Copy, Debug)]
pub enum RoleSource<'a> {
    /// The pod's annotation for this container.
    Container(&'a ContainerRole),
    /// The pod's annotation.
    Pod(&'a Annotation<RoleRef>),
    /// The service account's annotation.
    ServiceAccount(&'a Annotation<RoleRef>),
    /// No role is requested.
    Nowhere,
}

/// The policy's decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The pod gets this grant.
    Allow(Grant),
    /// The pod gets nothing, for this reason, until an object changes.
    Deny(DenialReason),
    /// The decision is not known yet. The request waits until the watch shows more.
    NotReady(NotReady),
}

/// All inputs of an STS call that depend on the pod.
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
    /// The information that a decision waits for. A request that gets no decision for this reason has the variant's name as its
    /// outcome in `podrole_http_requests_total`.
    pub enum NotReady {
        /// The pod has per-container roles, and its status does not show this container yet.
        Container = "container_unknown",
        /// The watch has not shown the namespace.
        Namespace = "namespace_unknown",
        /// The watch has not shown the service account.
        ServiceAccount = "service_account_unknown",
    }
}

/// The source of a list that may allow roles to the pods of a namespace.
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
    /// `enabled` says whether service accounts are a source of roles; `seen` is the service account if the watch has shown it.
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
    /// The source of the request for the role.
    pub fn source(self) -> Result<RoleSource<'a>, NotReady> {
        let pod = self.pod;
        if !pod.container_roles.is_empty() {
            // A container whose id is not in the statuses may have its own role, so it must not get the pod's role.
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
    /// The key of the annotation that requests the role.
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
    /// Makes the decision about `subject`. Pure: the same inputs give the same decision.
    pub fn decide(&self, subject: Subject<'_>) -> Decision {
        match self.grant(subject) {
            Ok(grant) => Decision::Allow(grant),
            Err(NoGrant::Denied(reason)) => Decision::Deny(reason),
            Err(NoGrant::NotReady(what)) => Decision::NotReady(what),
        }
    }

    fn grant(&self, subject: Subject<'_>) -> Result<Grant, NoGrant> {
        let pod = subject.pod;
        // The missing namespace is reported first, because the metadata service waits for the namespace before it asks for a
        // decision.
        let namespace = subject.namespace.ok_or(NotReady::Namespace)?;
        if pod.finished {
            return Err(DenialReason::PodFinished.into());
        }
        match self.container_roles {
            ContainerRoles::Strict if pod.siblings_may_read && !pod.container_roles.is_empty() => {
                return Err(DenialReason::ContainerRolesRefused.into());
            }
            ContainerRoles::Strict | ContainerRoles::Shared => {}
        }
        let role = self.role_of(subject.source()?)?;
        self.check(&role, namespace)?;
        Ok(Grant { session_name: self.session_name(pod)?, external_id: external_id(pod, namespace)?, role })
    }

    /// The full ARN of the role that `source` requests.
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

    /// Whether `role` matches the ceiling. No namespace can use a role outside the ceiling.
    pub fn under_ceiling(&self, role: &RoleArn) -> bool {
        self.ceiling.iter().any(|glob| glob.matches(role, &self.base))
    }

    /// The allow lists for the namespace `name`: the administrator's and, if `namespace` is known, those of its annotations.
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

    /// The [`lists`](Self::lists) that allow `role`.
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
        // A list that cannot be parsed still restricts the namespace, because its author meant to restrict it.
        Err(match lists.find_map(Result::err) {
            Some(bad) => DenialReason::BadAllowList { bad: bad.clone() },
            None => DenialReason::NamespaceNotPermitted { role: role.clone() },
        })
    }

    fn session_name(&self, pod: &PodEntry) -> Result<SessionName, DenialReason> {
        if let Some(custom) = &pod.session_name {
            let text = custom.as_ref().map_err(|bad| DenialReason::BadSessionName { bad: bad.clone() })?;
            return SessionName::custom(&pod.namespace, text, &pod.uid).map_err(|error| {
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

/// The external id to send. The namespace's external id overrides the pod's, because the namespace's owner vouches for the
/// identity of the pods.
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
