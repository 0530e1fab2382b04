//! Explains which role a pod gets, and why, from objects that the caller has read. Pure.
//!
//! ```text
//! documents ──► pods::convert ──► pods::index ──► policy::Rules::decide ──► report ──► text or JSON
//!                └──────── the daemon's code: the decision is made in one place ──────┘
//! ```

mod answer;
mod documents;
mod render;
mod report;

pub use documents::Objects;
pub use render::printable;
pub use report::{Answer, ContainerReport, ListReport, PodReport, Report, Requested, RulesReport, Verdict};

use std::sync::Arc;

use thiserror::Error;

use crate::pods::convert::{namespace_entry, service_account_entry};
use crate::pods::index::Index;
use crate::policy::Rules;

/// The input of the decisions, apart from the objects.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The policy. For each pod, its `node` is replaced by the pod's node.
    pub rules: Rules,
    /// Whether service accounts are a source of roles.
    pub service_accounts: bool,
    /// Where the objects come from.
    pub origin: Origin,
    /// The assumptions behind the decisions, as sentences for the user.
    pub assumed: Vec<String>,
}

/// Where the objects come from. The origin decides which advice the user gets for a missing object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server.
    Api,
    /// Files.
    Files,
}

/// The objects to explain. `None` in a field means that the field excludes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// A pod or workload: `NAME` or `KIND/NAME`.
    pub name: Option<&'a str>,
    /// The namespace of the pod or workload.
    pub namespace: Option<&'a str>,
    /// One container of the pod.
    pub container: Option<&'a str>,
}

/// Why nothing can be explained.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// The text is neither JSON nor YAML.
    #[error("{from}: neither JSON nor YAML: {error}")]
    Syntax {
        /// The file.
        from: String,
        /// The parser's message.
        error: String,
    },
    /// An object does not have the fields of its kind.
    #[error("{what}: {error}")]
    Object {
        /// Kind and name of the object.
        what: String,
        /// What is wrong with it.
        error: String,
    },
    /// There is no pod or workload among the objects. Holds the kinds that were found.
    #[error("the input contains no pod or workload; found: {0}")]
    NoPod(String),
    /// The requested pod or workload is not among the objects.
    #[error("{wanted} is not in the input; available: {available}")]
    NotFound {
        /// The requested name.
        wanted: String,
        /// The pods and workloads in the input.
        available: String,
    },
    /// The pod has no such container.
    #[error("{pod} has no container {container}; it has: {available}")]
    NoContainer {
        /// The pod or workload.
        pod: String,
        /// The requested container.
        container: String,
        /// The containers of the pod.
        available: String,
    },
}

/// Explains the roles of the selected pods. Fails when the selection matches nothing in `objects`.
pub fn explain(objects: &Objects, terms: &Terms, selection: Selection<'_>) -> Result<Report, ExplainError> {
    let selected = objects.select(selection)?;
    let mut index = Index::default();
    index.reset_pods(objects.pods.iter().map(|pod| pod.entry.clone()).collect());
    index.reset_namespaces(objects.namespaces.iter().filter_map(namespace_entry).collect());
    index.reset_service_accounts(objects.service_accounts.iter().filter_map(service_account_entry).collect());

    let mut pods = Vec::new();
    for pod in selected {
        let rules = Rules { node: pod.node.as_deref().map_or_else(|| "".into(), Arc::from), ..terms.rules.clone() };
        pods.push(answer::pod(pod, &index, objects, &rules, terms, selection.container)?);
    }
    Ok(Report::new(pods, &terms.rules, terms.service_accounts, terms.assumed.clone()))
}

#[cfg(test)]
mod tests;
