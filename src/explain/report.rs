//! The answer as data. `-o json` is this, field by field: what is here is an interface.

use serde::Serialize;

use crate::policy::{ContainerRoles, Rules, SessionScope};

/// What was found out about everything that was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `podrole.explain/v1`.
    pub schema: &'static str,
    /// The worst of all containers.
    pub decision: Verdict,
    /// What was asked about.
    pub pods: Vec<PodReport>,
    /// By what was decided.
    pub rules: RulesReport,
    /// What had to be assumed.
    pub assumed: Vec<String>,
}

/// A decision. The last is the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The role is given.
    Allow,
    /// Neither: something has not been seen yet.
    #[serde(rename = "not-yet")]
    NotReady,
    /// Nothing is given.
    Deny,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodReport {
    /// `Pod`, or the workload whose template it is.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name, or the workload's.
    pub name: String,
    /// `None`: it is not made yet.
    pub uid: Option<String>,
    /// `None`: it is not scheduled yet.
    pub node: Option<String>,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Its service account.
    pub service_account: String,
    /// Whether it is on the node's network.
    pub host_network: bool,
    /// What its namespace allows, by every list that there is.
    pub lists: Vec<ListReport>,
    /// Its containers.
    pub containers: Vec<ContainerReport>,
    /// What else to know.
    pub notes: Vec<String>,
}

/// One list of roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListReport {
    /// An annotation's key, or `--allow`.
    pub source: &'static str,
    /// What it says; long ones are cut.
    pub value: String,
    /// Why it allows nothing: it cannot be read.
    pub error: Option<String>,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: String,
    /// Its id; `None`: it has not started.
    pub id: Option<String>,
    /// What podrole answers now.
    #[serde(flatten)]
    pub answer: Answer,
    /// What it will answer once the container has started, where that is not known from the answer now.
    pub once_started: Option<Answer>,
}

/// What is answered to one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What asks for the role.
    pub requested: Option<Requested>,
    /// The role's ARN, where what is asked for is one.
    pub role: Option<String>,
    /// Whether `--role-ceiling` holds the role.
    pub under_ceiling: Option<bool>,
    /// Which lists hold the role.
    pub on_lists: Vec<&'static str>,
    /// The decision.
    pub decision: Verdict,
    /// Its stable name: a denial's, or the outcome of such a request in the metrics.
    pub reason: Option<&'static str>,
    /// The reason in words.
    pub why: Option<String>,
    /// What to do.
    pub fix: Option<String>,
    /// A command that does it.
    pub command: Option<String>,
    /// The session's name; `None` also where it depends on what is not known yet.
    pub session_name: Option<String>,
    /// Whether an external id is sent. Its value is nobody's business here.
    pub external_id_set: Option<bool>,
    /// Whose it is: `namespace` or `pod`.
    pub external_id_from: Option<&'static str>,
}

/// An annotation that asks for a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requested {
    /// `container`, `pod` or `service-account`.
    pub source: &'static str,
    /// The annotation's key.
    pub annotation: String,
    /// What it says; long ones are cut.
    pub value: String,
}

/// The administrator's side.
#[derive(Clone, Debug, Serialize)]
pub struct RulesReport {
    /// What role names are completed with.
    pub base: String,
    /// What bounds every role.
    pub ceiling: Vec<String>,
    /// Roles no pod may have, as far as they are known here.
    pub own_roles: Vec<String>,
    /// Whether a namespace without any list allows nothing.
    pub require_allow: bool,
    /// `shared` or `strict`.
    pub container_roles: &'static str,
    /// `pod`, `service-account` or `role`.
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
