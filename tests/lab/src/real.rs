//! A real node: a [`Rig`](crate::rig::Rig) with a container runtime and an agent that runs the pods bound to the node.
//!
//! No part of Kubernetes is simulated: the scheduler binds pods, controllers create the pods of DaemonSets, and the
//! agent (`nodeagent`, a Go program) runs them in containerd and writes their status. Tests create objects and check
//! the results.

mod query;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cluster::{Assets, Cluster, ClusterOptions, User};
use crate::imds::Imds;
use crate::node::{NODE_V4, NODE_V6, Node, NodeOptions};
use crate::proc::{self, Process};
use crate::rig::{ALLOWED_ROLES, cloud};
use crate::runtime::{Network, Runtime};
use crate::secrets;
use crate::sts::Sts;
use crate::world;

/// Timeout until the node accepts pods.
const STARTUP: Duration = Duration::from_secs(90);

/// The node, its cloud and its cluster. Dropping it ends all of them, the agent first.
pub struct RealNode {
    agent: Process,
    /// The container runtime.
    pub runtime: Runtime,
    /// The control plane.
    pub cluster: Cluster,
    /// AWS STS.
    pub sts: Sts,
    /// The cloud's metadata service.
    pub imds: Imds,
    /// The node itself.
    pub node: Node,
    kubectl: PathBuf,
    config: PathBuf,
    root: PathBuf,
}

impl fmt::Debug for RealNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealNode").field("node", &self.node).field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// As with every rig, the test ends with a search for all known secrets in all logs of the node, its pods, its agent,
/// its runtime and its control plane.
impl Drop for RealNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let searched = self.no_secret_got_out();
        assert!(searched.is_ok(), "{searched:?}");
    }
}

impl RealNode {
    /// What this machine lacks for a real node, and how to install it.
    pub fn missing() -> Option<String> {
        let found = Assets::find().and_then(|assets| {
            for name in ["kube-scheduler", "kube-controller-manager", "kubectl", "nodeagent", "runc-lab", "asker"] {
                assets.program(name)?;
            }
            Ok(())
        });
        found.err().map(|error| format!("{error:#}")).or_else(Runtime::missing)
    }

    /// Starts everything. Returns when the node is ready and accepts pods.
    pub fn start(network: Network) -> Result<Self> {
        let node = Node::new(NodeOptions::default())?;
        let (imds, sts) = cloud(&node)?;
        let assets = Assets::find()?;
        // Pods reach the API server at this address too.
        let options = ClusterOptions { bind: NODE_V4.into(), assets: assets.clone() };
        let cluster = Cluster::with_controllers(options, node.name())?;
        let runtime = Runtime::start(&node, network, &assets.program("runc-lab")?)?;
        let config = world::scratch().join("admin.json");
        cluster.kubeconfig(&config, User::Admin)?;
        let own = world::scratch().join("node.json");
        cluster.node_kubeconfig(&own)?;
        let root = world::scratch().join("nodeagent");
        let mut command = node.command();
        command.arg(assets.program("nodeagent")?);
        command.arg(format!("--kubeconfig={}", own.display()));
        command.arg(format!("--runtime={}", runtime.socket().display()));
        command.arg(format!("--node-name={}", node.name()));
        command.arg(format!("--node-ip={NODE_V4},{NODE_V6}"));
        command.arg(format!("--root-dir={}", root.display()));
        let agent = Process::start("nodeagent", &mut command)?;
        let kubectl = assets.program("kubectl")?;
        let mut site = Self { agent, runtime, cluster, sts, imds, node, kubectl, config, root };
        site.agent.wait_for_log("is registered", STARTUP)?;
        let pause = crate::runtime::Image::pause(&assets.program("asker")?).write()?;
        site.runtime.import(&site.node, &pause)?;
        proc::until("a node that takes pods", STARTUP, || {
            let node = site.cluster.get(User::Admin, "Node", "", site.node.name())?;
            Ok(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty).then_some(()))
        })
        .with_context(|| site.cluster.controllers_tail())?;
        Ok(site)
    }

    /// Runs `kubectl` as the administrator to its end. Returns its output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.node.command();
        command.arg(&self.kubectl).arg("--kubeconfig").arg(&self.config).args(arguments);
        // kubectl caches discovery data there.
        command.env("HOME", world::scratch());
        proc::run(&mut command)
    }

    /// Applies a kustomization as users do: `base` with the patches and images of `overlay`.
    pub fn apply(&self, base: &Path, overlay: &Value) -> Result<String> {
        let dir = world::scratch().join("overlay");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut overlay = overlay.clone();
        overlay["apiVersion"] = json!("kustomize.config.k8s.io/v1beta1");
        overlay["kind"] = json!("Kustomization");
        // Kustomize accepts only relative directories.
        let up = "../".repeat(dir.components().count() - 1);
        let base = base.canonicalize().with_context(|| format!("find {}", base.display()))?;
        overlay["resources"] = json!([format!("{up}{}", base.display().to_string().trim_start_matches('/'))]);
        fs::write(dir.join("kustomization.yaml"), overlay.to_string()).context("write the overlay")?;
        self.kubectl(&["apply", "-k", &dir.display().to_string()])
    }

    /// Creates a namespace whose pods may have these roles, and waits for its service account.
    pub fn namespace(&self, name: &str, allowed: &[&str]) -> Result<()> {
        self.cluster.namespace(name, json!({ALLOWED_ROLES: json!(allowed).to_string()}))?;
        proc::until("the namespace's service account", Duration::from_secs(30), || {
            Ok(self.cluster.get(User::Admin, "ServiceAccount", name, "default").ok().map(drop))
        })
    }

    fn no_secret_got_out(&self) -> Result<()> {
        let planted = secrets::of_the_cloud(&self.imds, &self.sts)?;
        for (place, log) in [("the agent's log", self.agent.log()?), ("containerd's log", self.runtime.log()?)] {
            secrets::none(&secrets::search(&planted, place, log.as_bytes()))?;
        }
        for dir in [&self.root.join("logs"), self.cluster.files()] {
            secrets::none(&secrets::search_logs(dir, &planted)?)?;
        }
        Ok(())
    }

    /// The STS endpoint for pods.
    pub fn sts_endpoint(&self) -> String {
        self.sts.endpoint()
    }
}
