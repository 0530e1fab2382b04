//! Which role a pod gets, and why: put into words, out of objects that somebody else has read. Pure.
//!
//! ```text
//! documents ──► pods::convert ──► pods::index ──► policy::Rules::decide ──► report ──► text or JSON
//!                └──────── the daemon's own: nothing is decided a second time ───────┘
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

/// By what is decided.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The policy. Its node is replaced by each pod's.
    pub rules: Rules,
    /// Whether service accounts are a source of roles.
    pub service_accounts: bool,
    /// Where the objects come from.
    pub origin: Origin,
    /// What had to be assumed: sentences for people.
    pub assumed: Vec<String>,
}

/// Where objects come from, which is where to look for those that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server.
    Api,
    /// Files.
    Files,
}

/// What is asked about; `None`: everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// A pod or workload: `NAME` or `KIND/NAME`.
    pub name: Option<&'a str>,
    /// In this namespace.
    pub namespace: Option<&'a str>,
    /// One container of it.
    pub container: Option<&'a str>,
}

/// Why there is nothing to explain.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// A text that is neither JSON nor YAML.
    #[error("{from}: neither JSON nor YAML: {error}")]
    Syntax {
        /// Which file.
        from: String,
        /// What the parser says.
        error: String,
    },
    /// An object that is not what its kind says.
    #[error("{what}: {error}")]
    Object {
        /// Which.
        what: String,
        /// What is wrong with it.
        error: String,
    },
    /// No pod among the objects.
    #[error("no pod, and nothing that makes pods, in what was given; found: {0}")]
    NoPod(String),
    /// Not the one that was asked for.
    #[error("{asked} is not in what was given; there are: {there}")]
    NotThere {
        /// What was asked for.
        asked: String,
        /// What there is.
        there: String,
    },
    /// The pod has no such container.
    #[error("{pod} has no container {container}; it has: {there}")]
    NoContainer {
        /// Which pod.
        pod: String,
        /// What was asked for.
        container: String,
        /// What there is.
        there: String,
    },
}

/// Explains what was asked about.
pub fn explain(objects: &Objects, terms: &Terms, selection: Selection<'_>) -> Result<Report, ExplainError> {
    let asked = objects.select(selection)?;
    let mut index = Index::default();
    index.reset_pods(objects.pods.iter().map(|pod| pod.entry.clone()).collect());
    index.reset_namespaces(objects.namespaces.iter().filter_map(namespace_entry).collect());
    index.reset_service_accounts(objects.service_accounts.iter().filter_map(service_account_entry).collect());

    let mut pods = Vec::new();
    for pod in asked {
        let rules = Rules { node: pod.node.as_deref().map_or_else(|| "".into(), Arc::from), ..terms.rules.clone() };
        pods.push(answer::pod(pod, &index, objects, &rules, terms, selection.container)?);
    }
    Ok(Report::new(pods, &terms.rules, terms.service_accounts, terms.assumed.clone()))
}

#[cfg(test)]
mod tests;
