//! Checks the API server and podrole's rights there.

use std::time::Duration;

use crate::config::Config;
use crate::pods::access::{Access, Right};
use crate::pods::client;

use super::table::Check;
use super::{Findings, Outcome};

/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn check_kubernetes(config: &Config, findings: &Findings) {
    let access = match reach(config).await {
        Ok((access, version)) => {
            findings.put(Check::ApiServer, Outcome::ok(version));
            access
        }
        Err(error) => {
            findings.put(Check::ApiServer, Outcome::failed(error));
            let others = [
                Check::PodsAccess,
                Check::NamespacesAccess,
                Check::ServiceAccountsAccess,
                Check::EventsAccess,
                Check::NodePods,
            ];
            return findings.skip(&others, "the API server does not answer (PR-K01)");
        }
    };
    let accounts = async {
        if config.policy.service_account_roles {
            rights(&access, "", "serviceaccounts", &["list", "watch"]).await
        } else {
            Outcome::skipped("not used without --service-account-roles=true")
        }
    };
    let events = async {
        if config.events {
            rights(&access, "events.k8s.io", "events", &["create", "patch"]).await
        } else {
            Outcome::skipped("not used with --events=false")
        }
    };
    let (pods, namespaces, accounts, events, node_pods) = tokio::join!(
        rights(&access, "", "pods", &["list", "watch"]),
        rights(&access, "", "namespaces", &["list", "watch"]),
        accounts,
        events,
        node_pods(&access, &config.node),
    );
    // A missing right to list pods is reported as PR-K02.
    let node_pods = match (&pods, node_pods) {
        (Outcome::Failed { .. }, Outcome::Skipped(_)) => Outcome::skipped("podrole may not list pods (PR-K02)"),
        (_, outcome) => outcome,
    };
    findings.put(Check::PodsAccess, pods);
    findings.put(Check::NamespacesAccess, namespaces);
    findings.put(Check::ServiceAccountsAccess, accounts);
    findings.put(Check::EventsAccess, events);
    findings.put(Check::NodePods, node_pods);
}

async fn reach(config: &Config) -> Result<(Access, String), String> {
    let client = bounded(client::client(config.kubeconfig.as_deref())).await?;
    let access = Access::new(client);
    let version = bounded(access.version()).await?;
    Ok((access, version))
}

async fn rights(access: &Access, group: &'static str, resource: &'static str, verbs: &[&'static str]) -> Outcome {
    let mut lacking = Vec::new();
    for verb in verbs {
        let right = Right { group, resource, verb };
        match bounded(access.allows(right)).await {
            Ok(true) => {}
            Ok(false) => lacking.push(right.to_string()),
            Err(error) => {
                return Outcome::skipped(format!("cannot ask the API server whether podrole may {right}: {error}"));
            }
        }
    }
    if lacking.is_empty() {
        Outcome::ok(verbs.join(", "))
    } else {
        Outcome::failed(format!("not allowed to {}", lacking.join(", nor to ")))
    }
}

async fn node_pods(access: &Access, node: &str) -> Outcome {
    match bounded(access.has_pods(node)).await {
        Ok(true) => Outcome::ok(format!("pods of {node} exist")),
        Ok(false) => Outcome::failed(format!("no pod has the spec.nodeName {node:?}")),
        Err(error) => Outcome::skipped(format!("cannot list pods: {error}")),
    }
}

async fn bounded<T>(call: impl Future<Output = anyhow::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
    }
}
