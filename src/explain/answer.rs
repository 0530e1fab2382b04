//! Explains the decisions for one pod. Every decision is made by [`Rules::decide`].

use std::sync::Arc;

use serde_json::json;

use super::documents::{InputPod, Objects, started};
use super::report::{Answer, ContainerReport, ListReport, PodReport, Requested, Verdict};
use super::{ExplainError, Origin, Terms};
use crate::pods::index::{Index, Lookup};
use crate::policy::{Decision, ListSource, NotReady, RoleSource, Rules, ServiceAccount, SessionScope, Subject};
use crate::types::{AllowList, AnnotationKey, ContainerId, DenialReason, Glob, NamespaceEntry, PodEntry, RoleArn};

/// The largest number of characters of an annotation to show.
const SHOWN: usize = 256;
/// The largest number of bytes of an allow list to repeat in a suggested command.
const MAX_COMMAND: usize = 1024;

/// Explains `input`: all of its containers, or `container` only.
pub(super) fn pod(
    input: &InputPod,
    index: &Index,
    objects: &Objects,
    rules: &Rules,
    terms: &Terms,
    container: Option<&str>,
) -> Result<PodReport, ExplainError> {
    let entry = match index.pod(&input.entry.uid) {
        Lookup::Found(entry) => entry.as_ref(),
        // These two cases cannot occur, because the index was built from these pods.
        Lookup::Unknown | Lookup::Ambiguous(_) => &input.entry,
    };
    let view = View { input, index, objects, rules, terms };
    let wanted: Vec<&String> =
        input.containers.iter().filter(|name| container.is_none_or(|only| **name == only)).collect();
    if let (Some(only), true) = (container, wanted.is_empty()) {
        let available = input.containers.join(", ");
        return Err(ExplainError::NoContainer { pod: input.title(), container: only.into(), available });
    }
    Ok(PodReport {
        kind: input.kind.clone(),
        namespace: entry.namespace.to_string(),
        name: entry.name.to_string(),
        uid: input.created.then(|| entry.uid.to_string()),
        node: input.node.clone(),
        ips: entry.ips.iter().map(ToString::to_string).collect(),
        service_account: entry.service_account.to_string(),
        host_network: entry.host_network,
        lists: view.lists(entry),
        containers: wanted.into_iter().map(|name| view.container(entry, name)).collect(),
        notes: view.notes(entry),
    })
}

/// All inputs for the explanation of one pod.
struct View<'a> {
    input: &'a InputPod,
    index: &'a Index,
    objects: &'a Objects,
    rules: &'a Rules,
    terms: &'a Terms,
}

// === impl View ===

impl View<'_> {
    fn container(&self, pod: &PodEntry, name: &str) -> ContainerReport {
        let id = pod.containers.iter().find(|(_, known)| **known == *name).map(|(id, _)| id);
        let answer = self.answer(self.subject(pod, id));
        let waits = id.is_none() && answer.reason == Some(NotReady::Container.name());
        let once_started = waits.then(|| {
            let mut later = pod.clone();
            later.containers = started(0, name).into_iter().collect();
            let id = later.containers.first().map(|(id, _)| id);
            self.answer(self.subject(&later, id))
        });
        let id = id.filter(|_| self.input.created).map(ToString::to_string);
        ContainerReport { name: name.into(), id, answer, once_started }
    }

    /// The input of the decision, which is the same as the daemon's for a request.
    fn subject<'a>(&'a self, pod: &'a PodEntry, container: Option<&'a ContainerId>) -> Subject<'a> {
        let account = self.index.service_account(&pod.namespace, &pod.service_account).map(Arc::as_ref);
        let service_account = ServiceAccount::of(self.terms.service_accounts, account);
        Subject { pod, container, namespace: self.index.namespace(&pod.namespace).map(Arc::as_ref), service_account }
    }

    fn answer(&self, subject: Subject<'_>) -> Answer {
        let decision = self.rules.decide(subject);
        let source = subject.source().ok();
        let role = source.and_then(|source| self.rules.role_of(source).ok());
        let mut answer = Answer {
            requested: source.and_then(|source| self.requested(source, subject.pod)),
            under_ceiling: role.as_ref().map(|role| self.rules.under_ceiling(role)),
            on_lists: role.as_ref().map(|role| self.holding(role, subject)).unwrap_or_default(),
            role: role.map(|role| role.to_string()),
            decision: Verdict::Allow,
            reason: None,
            why: None,
            fix: None,
            command: None,
            session_name: None,
            external_id_set: None,
            external_id_from: None,
        };
        match decision {
            Decision::Allow(grant) => {
                answer.session_name = self.knows_session(subject.pod).then(|| grant.session_name.as_str().to_owned());
                answer.external_id_set = Some(grant.external_id.is_some());
                answer.external_id_from = grant.external_id.map(|_| {
                    let by_namespace = subject.namespace.is_some_and(|namespace| namespace.external_id.is_some());
                    if by_namespace { "namespace" } else { "pod" }
                });
            }
            Decision::Deny(reason) => {
                let denial = reason.denial();
                answer.decision = Verdict::Deny;
                answer.reason = Some(denial.name());
                answer.why = Some(reason.to_string());
                answer.fix = Some(denial.fix().into());
                answer.command = subject.namespace.and_then(|namespace| self.command(&reason, namespace));
            }
            Decision::NotReady(what) => {
                let (why, fix) = self.missing(what, subject.pod);
                answer.decision = Verdict::NotReady;
                answer.reason = Some(what.name());
                answer.why = Some(why);
                answer.fix = Some(fix);
            }
        }
        answer
    }

    fn requested(&self, source: RoleSource<'_>, pod: &PodEntry) -> Option<Requested> {
        let annotation = source.key()?;
        let of_pod = || self.input.annotations.get(&annotation).cloned();
        let (source, value) = match source {
            RoleSource::Nowhere => return None,
            RoleSource::Container(_) => ("container", of_pod()),
            RoleSource::Pod(_) => ("pod", of_pod()),
            RoleSource::ServiceAccount(_) => {
                let account = self.objects.service_accounts.iter().rev().map(|object| &object.metadata).find(|meta| {
                    meta.name.as_deref() == Some(&*pod.service_account)
                        && meta.namespace.as_deref() == Some(&*pod.namespace)
                });
                let value = account.and_then(|meta| meta.annotations.as_ref()?.get(&annotation).cloned());
                ("service-account", value)
            }
        };
        Some(Requested { source, annotation, value: clipped(&value.unwrap_or_default()) })
    }

    fn lists(&self, pod: &PodEntry) -> Vec<ListReport> {
        let annotation = |key: &str| {
            let object = self.objects.namespaces.iter().rev().map(|object| &object.metadata);
            let meta = object.into_iter().find(|meta| meta.name.as_deref() == Some(&*pod.namespace))?;
            meta.annotations.as_ref()?.get(key).cloned()
        };
        let namespace = self.index.namespace(&pod.namespace).map(Arc::as_ref);
        let lists = self.rules.lists(&pod.namespace, namespace).map(|(source, list)| {
            let value = match (source, list) {
                (ListSource::Admin, Ok(AllowList::Globs(globs))) => {
                    Some(globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(","))
                }
                (ListSource::AllowedRoles | ListSource::Permitted | ListSource::Admin, _) => {
                    annotation(list_name(source))
                }
            };
            ListReport {
                source: list_name(source),
                value: clipped(&value.unwrap_or_default()),
                error: list.err().map(ToString::to_string),
            }
        });
        lists.collect()
    }

    fn holding(&self, role: &RoleArn, subject: Subject<'_>) -> Vec<&'static str> {
        self.rules.lists_holding(role, &subject.pod.namespace, subject.namespace).map(list_name).collect()
    }

    /// Whether the session name is known yet. It can contain the pod's UID or the node's name.
    fn knows_session(&self, pod: &PodEntry) -> bool {
        match (&pod.session_name, self.rules.session_scope) {
            (Some(_), _) | (None, SessionScope::Pod) => self.input.created,
            (None, SessionScope::ServiceAccount) => true,
            (None, SessionScope::Role) => self.input.node.is_some(),
        }
    }

    /// The reason why there is no decision yet, and what the user can do.
    fn missing(&self, what: NotReady, pod: &PodEntry) -> (String, String) {
        let (namespace, account) = (&pod.namespace, &pod.service_account);
        match (what, self.terms.origin) {
            (NotReady::Container, _) => (
                "the pod has per-container roles, and its status does not show this container's id yet".into(),
                "Wait until the container has started. Until then podrole answers 503, and SDKs retry.".into(),
            ),
            (NotReady::Namespace, Origin::Files) => (
                format!("the files do not contain namespace {namespace}, so what it allows is unknown"),
                format!("Add it: kubectl get namespace {namespace} -o yaml | podrole explain -f FILE -f -"),
            ),
            (NotReady::Namespace, Origin::Api) => {
                (format!("namespace {namespace} does not exist"), "Try again. It may be being deleted.".into())
            }
            (NotReady::ServiceAccount, Origin::Files) => (
                format!(
                    "the files do not contain service account {account} of namespace {namespace}, which may name a role"
                ),
                format!(
                    "Add it: kubectl get -n {namespace} serviceaccount {account} -o yaml | podrole explain -f FILE -f -"
                ),
            ),
            (NotReady::ServiceAccount, Origin::Api) => (
                format!("service account {account} does not exist in namespace {namespace}"),
                "Create the service account again, or annotate the pod with a role.".into(),
            ),
        }
    }

    /// The command that allows the role in the namespace. `None` if it would be too long or unsafe to paste.
    fn command(&self, reason: &DenialReason, namespace: &NamespaceEntry) -> Option<String> {
        let DenialReason::NamespaceNotPermitted { role } = reason else { return None };
        let mut patterns: Vec<&str> = match &namespace.allowed_roles {
            None => Vec::new(),
            Some(Ok(AllowList::Globs(globs))) => globs.iter().map(Glob::as_str).collect(),
            Some(Ok(AllowList::Regex(_)) | Err(_)) => return None,
        };
        patterns.push(role.as_str().strip_prefix(self.rules.base.as_str()).unwrap_or(role.as_str()));
        let value = json!(patterns).to_string();
        let plain = namespace.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let key = AnnotationKey::AllowedRoles;
        let overwrite = if namespace.allowed_roles.is_some() { " --overwrite" } else { "" };
        (plain && !value.contains('\'') && value.len() <= MAX_COMMAND)
            .then(|| format!("kubectl annotate namespace {}{overwrite} '{key}={value}'", namespace.name))
    }

    fn notes(&self, pod: &PodEntry) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.input.created {
            notes.push(
                "not created yet: explained as if every container had started; a session name that ends with the UID is not \
                 known"
                    .into(),
            );
        }
        if pod.host_network {
            notes.push(
                "host network: this version of podrole does not intercept such pods; they reach the node's own metadata service \
                 regardless of the decision"
                    .into(),
            );
        }
        if !pod.container_roles.is_empty() && pod.siblings_may_read {
            notes.push(
                "a container of the pod can read its siblings' credentials: it has NET_RAW, or they share a process namespace"
                    .into(),
            );
        }
        let unknown = pod
            .container_roles
            .iter()
            .filter(|over| !self.input.containers.iter().any(|name| **name == *over.container));
        notes.extend(unknown.map(|over| {
            format!("{}{} does not match any container of this pod", AnnotationKey::ContainerRole, over.container)
        }));
        notes
    }
}

fn list_name(source: ListSource) -> &'static str {
    match source {
        ListSource::AllowedRoles => AnnotationKey::AllowedRoles.name(),
        ListSource::Permitted => AnnotationKey::Permitted.name(),
        ListSource::Admin => "--allow",
    }
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.into();
    }
    let kept: String = text.chars().take(SHOWN).collect();
    format!("{kept}... ({} bytes in total)", text.len())
}
