//! The rest of the control plane: scheduler and controllers, each with its own identity, and the node's identity.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::assets::Assets;
use super::process::Child;
use super::scratch::{self, Scratch};
use super::{Cluster, client};

/// The controllers, of some forty, that are needed from a DaemonSet to a pod with a token on a ready node, and for
/// garbage collection.
const CONTROLLERS: &str = "serviceaccount-controller,root-ca-certificate-publisher-controller,daemonset-controller,\
    namespace-controller,node-lifecycle-controller,taint-eviction-controller,garbage-collector-controller";
const SCHEDULER: &str = "system:kube-scheduler";
const MANAGER: &str = "system:kube-controller-manager";

/// The tokens of the cluster's components.
pub(super) struct Identities {
    node: (String, String),
    scheduler: String,
    manager: String,
}

impl std::fmt::Debug for Identities {
    /// Omits the tokens, because tests print their values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities").field("node", &self.node.0).finish_non_exhaustive()
    }
}

/// Admits these users, and makes the server apply node authorization and inject service account volumes into pods.
pub(super) fn admit(node: &str, scratch: &Scratch, arguments: &mut Vec<String>) -> Result<Identities> {
    let node = format!("system:node:{node}");
    let identities = Identities {
        node: (node.clone(), scratch::random_token()?),
        scheduler: scratch::random_token()?,
        manager: scratch::random_token()?,
    };
    let path = scratch.join("tokens.csv");
    let mut tokens = fs::OpenOptions::new().append(true).open(&path).context("opening the tokens' file")?;
    let lines = format!(
        "{},{node},{node},\"system:nodes\"\n{},{SCHEDULER},{SCHEDULER}\n{},{MANAGER},{MANAGER}\n",
        identities.node.1, identities.scheduler, identities.manager
    );
    tokens.write_all(lines.as_bytes()).context("writing the tokens' file")?;
    arguments.retain(|argument| {
        !argument.starts_with("--authorization-mode") && !argument.starts_with("--disable-admission-plugins")
    });
    arguments.push("--authorization-mode=Node,RBAC".to_owned());
    arguments.push("--enable-admission-plugins=NodeRestriction".to_owned());
    Ok(identities)
}

/// Starts them. Each finds the server and waits for its dependencies by itself.
pub(super) fn start(cluster: &Cluster, assets: &Assets) -> Result<Vec<Child>> {
    let identities = cluster.identities.as_ref().context("this cluster has no controllers")?;
    let (scheduler, manager) = (assets.program("kube-scheduler")?, assets.program("kube-controller-manager")?);
    let config = |name: &str, user: &str, token: &str| -> Result<String> {
        let path = cluster.scratch.join(name);
        write(cluster, &path, user, token)?;
        Ok(path.display().to_string())
    };
    let certificates = cluster.scratch.join("certificates");
    let common = ["--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
    let mut scheduling = common.to_vec();
    scheduling.push(format!("--kubeconfig={}", config("scheduler.json", SCHEDULER, &identities.scheduler)?));
    let mut managing = common.to_vec();
    managing.extend([
        format!("--kubeconfig={}", config("manager.json", MANAGER, &identities.manager)?),
        format!("--controllers={CONTROLLERS}"),
        "--use-service-account-credentials=true".to_owned(),
        format!("--root-ca-file={}", certificates.join("apiserver.crt").display()),
    ]);
    let (first, second) =
        (cluster.scratch.join("kube-scheduler.log"), cluster.scratch.join("kube-controller-manager.log"));
    cluster.runtime.run(async move {
        Ok(vec![
            Child::spawn("kube-scheduler", &scheduler, &scheduling, first)?,
            Child::spawn("kube-controller-manager", &manager, &managing, second)?,
        ])
    })
}

impl Cluster {
    /// Writes the kubeconfig of the node's agent. The Node authorizer gives it the rights of a kubelet.
    pub fn node_kubeconfig(&self, path: &Path) -> Result<()> {
        let (user, token) = &self.identities.as_ref().context("this cluster has no controllers, and no node")?.node;
        write(self, path, user, token)
    }

    /// The ends of the logs of scheduler and controllers, for the report of a failed test.
    pub fn controllers_tail(&self) -> String {
        self.controllers.iter().map(Child::tail).collect::<Vec<_>>().join("\n")
    }
}

fn write(cluster: &Cluster, path: &Path, user: &str, token: &str) -> Result<()> {
    let document = client::kubeconfig(cluster.address, user, cluster.ca_pem(), token);
    let text = serde_json::to_vec_pretty(&document).context("rendering a kubeconfig")?;
    scratch::write_private(path, &text)
}
