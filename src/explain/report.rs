//! The report as data. `-o json` prints exactly these fields: they are a public interface.

use serde::Serialize;

use crate::policy::{ContainerRoles, Rules, SessionScope};

/// The explanation of all selected pods.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The name of the schema: `podrole.explain/v1`.
    pub schema: &'static str,
    /// The worst decision among all containers.
    pub decision: Verdict,
    /// The selected pods.
    pub pods: Vec<PodReport>,
    /// The rules that the decisions are based on.
    pub rules: RulesReport,
    /// The assumptions behind the decisions, as sentences.
    pub assumed: Vec<String>,
}

/// A decision, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The container gets the role.
    Allow,
    /// The container's role is undecided, because something is not known yet.
    #[serde(rename = "not-yet")]
    NotReady,
    /// The container gets nothing.
    Deny,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodReport {
    /// `Pod`, or the kind of the workload whose template describes the pod.
    pub kind: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The name of the pod or the workload.
    pub name: String,
    /// The pod's UID; `None` if it is not created yet.
    pub uid: Option<String>,
    /// The pod's node; `None` if it is not scheduled yet.
    pub node: Option<String>,
    /// The pod's IP addresses.
    pub ips: Vec<String>,
    /// The name of the pod's service account.
    pub service_account: String,
    /// Whether the pod uses the node's network.
    pub host_network: bool,
    /// All allow lists that apply to the pod's namespace.
    pub lists: Vec<ListReport>,
    /// The selected containers.
    pub containers: Vec<ContainerReport>,
    /// Warnings and remarks, as sentences.
    pub notes: Vec<String>,
}

/// One allow list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListReport {
    /// The annotation's key, or `--allow`.
    pub source: &'static str,
    /// The list as written, truncated if long.
    pub value: String,
    /// The parse error, if the list is invalid and therefore allows nothing.
    pub error: Option<String>,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerReport {
    /// The container's name.
    pub name: String,
    /// The container's id; `None` if it has not started.
    pub id: Option<String>,
    /// podrole's answer now.
    #[serde(flatten)]
    pub answer: Answer,
    /// podrole's answer after the container has started, if the start changes the answer.
    pub once_started: Option<Answer>,
}

/// podrole's answer to one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The annotation that requests the role.
    pub requested: Option<Requested>,
    /// The ARN of the requested role, if the request is valid.
    pub role: Option<String>,
    /// Whether the role matches `--role-ceiling`.
    pub under_ceiling: Option<bool>,
    /// The allow lists that allow the role.
    pub on_lists: Vec<&'static str>,
    /// The decision.
    pub decision: Verdict,
    /// The stable name of the reason: the denial's name, or the request's `outcome` label in the metrics.
    pub reason: Option<&'static str>,
    /// The reason in a sentence.
    pub why: Option<String>,
    /// What the user can do about the problem.
    pub fix: Option<String>,
    /// A command that fixes the problem.
    pub command: Option<String>,
    /// The session name; `None` without a grant or if the name is not known yet.
    pub session_name: Option<String>,
    /// Whether an external id is sent. Its value is not shown, because it may be confidential.
    pub external_id_set: Option<bool>,
    /// Where the external id comes from: `namespace` or `pod`.
    pub external_id_from: Option<&'static str>,
}

/// An annotation that requests a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requested {
    /// The source of the request: `container`, `pod` or `service-account`.
    pub source: &'static str,
    /// The annotation's key.
    pub annotation: String,
    /// The annotation's value, truncated if long.
    pub value: String,
}

/// The administrator's settings.
#[derive(Clone, Debug, Serialize)]
pub struct RulesReport {
    /// The ARN prefix that completes bare role names.
    pub base: String,
    /// The patterns of the ceiling.
    pub ceiling: Vec<String>,
    /// The roles that no pod may have, if the user gave any.
    pub own_roles: Vec<String>,
    /// Whether a namespace without any list allows nothing.
    pub require_allow: bool,
    /// The value of `--container-roles`: `shared` or `strict`.
    pub container_roles: &'static str,
    /// The value of `--session-scope`: `pod`, `service-account` or `role`.
    pub session_scope: &'static str,
    /// Whether service accounts are a source of roles.
    pub service_account_roles: bool,
}

// === impl Report ===

impl Report {
    pub(super) fn new(pods: Vec<PodReport>, rules: &Rules, service_accounts: bool, assumed: Vec<String>) -> Self {
        let containers = pods.iter().flat_map(|pod| &pod.containers);
        let worst = containers.map(|container| container.answer.decision).max().unwrap_or(Verdict::NotReady);
        Self {
            schema: "podrole.explain/v1",
            decision: worst,
            pods,
            rules: RulesReport::new(rules, service_accounts),
            assumed,
        }
    }
}

// === impl RulesReport ===

impl RulesReport {
    fn new(rules: &Rules, service_accounts: bool) -> Self {
        Self {
            base: rules.base.as_str().into(),
            ceiling: rules.ceiling.iter().map(|glob| glob.as_str().into()).collect(),
            own_roles: rules.own_roles.iter().map(ToString::to_string).collect(),
            require_allow: rules.require_allow,
            container_roles: match rules.container_roles {
                ContainerRoles::Shared => "shared",
                ContainerRoles::Strict => "strict",
            },
            session_scope: match rules.session_scope {
                SessionScope::Pod => "pod",
                SessionScope::ServiceAccount => "service-account",
                SessionScope::Role => "role",
            },
            service_account_roles: service_accounts,
        }
    }
}
