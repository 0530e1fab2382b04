//! A complete setup: a node, the cloud behind it, the Kubernetes API, and the daemon on the node.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let mut rig = podrole_lab::rig::Rig::new(Default::default())?;
//! rig.namespace("team", &["*"])?;
//! let pod = rig.pod_with_role("team", "web", "web-role")?;
//! rig.start(&[])?;
//! let credentials = pod.agent("app")?.credentials()?;
//! assert_eq!(rig.role_of(&credentials).as_deref(), Some("web-role"));
//! # Ok(())
//! # }
//! ```

mod assertions;
mod control_plane;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::agent::Creds;
use crate::cluster::{Cluster, ClusterOptions};
use crate::daemon::{Daemon, DaemonOptions, merge};
use crate::imds::Imds;
use crate::kube::Kube;
use crate::node::{NODE_V4, Node, NodeOptions};
use crate::pod::{Pod, PodSpec};
use crate::secrets;
use crate::sts::{Caller, Sts};
use crate::world;

pub use control_plane::ControlPlane;

/// The annotation in which a pod requests a role.
pub const ROLE: &str = "iam.amazonaws.com/role";
/// The annotation in which a namespace allows roles.
pub const ALLOWED_ROLES: &str = "iam.amazonaws.com/allowed-roles";

/// Pods reach STS at this port too, for tests of what credentials permit.
const STS_PORT: u16 = 4566;
/// Timeout until the daemon is ready. It takes well under a second, but longer on a busy machine.
const READY: Duration = Duration::from_secs(20);

/// Options of a rig.
#[derive(Clone, Debug, Default)]
pub struct RigOptions {
    /// The daemon's binary, usually `env!("CARGO_BIN_EXE_podrole")`; `None` looks for it beside this program.
    pub binary: Option<PathBuf>,
    /// The node's options.
    pub node: NodeOptions,
    /// Flags of `run` for every start.
    pub flags: Vec<String>,
    /// Additional environment variables of the daemon.
    pub env: Vec<(String, String)>,
}

/// A node with everything around it. `A` provides the Kubernetes API. A world can have one rig.
///
/// Fields are dropped in order: the daemon ends before its servers.
pub struct Rig<A: ControlPlane = Kube> {
    daemon: Option<Daemon>,
    options: DaemonOptions,
    /// The Kubernetes API.
    pub kube: A,
    /// The cloud's credentials service.
    pub sts: Sts,
    /// The cloud's metadata service.
    pub imds: Imds,
    /// The node.
    pub node: Node,
}

/// Every trial ends with a search for all known secrets in everything that its daemons wrote and served.
impl<A: ControlPlane> Drop for Rig<A> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(daemon) = &self.daemon {
            // A trial may have suspended the daemon. The call fails if the daemon has ended, which is fine.
            daemon.resume().ok();
        }
        let searched = secrets::none_got_out(self, &[]);
        assert!(searched.is_ok(), "{searched:?}");
    }
}

impl Rig {
    /// A rig with the API double.
    pub fn new(options: RigOptions) -> Result<Self> {
        Self::assemble(options, || Kube::start(SocketAddr::from(([127, 0, 0, 1], 0))))
    }
}

impl Rig<Cluster> {
    /// A rig with a real kube-apiserver.
    pub fn real(options: RigOptions) -> Result<Self> {
        Self::assemble(options, || Cluster::start(ClusterOptions::loopback()?))
    }
}

impl<A: ControlPlane> Rig<A> {
    fn assemble(options: RigOptions, kube: impl FnOnce() -> Result<A>) -> Result<Self> {
        let node = Node::new(options.node)?;
        let (imds, sts) = cloud(&node)?;
        let kube = kube()?;
        let config = world::scratch().join("kubeconfig");
        kube.kubeconfig(&config)?;
        let defaults = [
            ("--node-name", node.name().to_owned()),
            ("--kubeconfig", config.display().to_string()),
            ("--platform", "ec2".to_owned()),
            ("--state-dir", world::scratch().join("state").display().to_string()),
            // The most verbose level, because every trial ends with a search of the log for secrets.
            ("--log", "trace".to_owned()),
            ("--log-format", "text".to_owned()),
        ];
        let flags: Vec<String> = defaults.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let more: Vec<&str> = options.flags.iter().map(String::as_str).collect();
        let mut env = vec![("AWS_ENDPOINT_URL_STS".to_owned(), sts.endpoint())];
        env.extend(options.env);
        let options =
            DaemonOptions { binary: options.binary, flags: merge(&flags, &more), env, ..DaemonOptions::default() };
        Ok(Self { daemon: None, options, kube, sts, imds, node })
    }

    /// Creates a Kubernetes namespace whose pods may have these roles (globs). If `allowed` is empty, the namespace has
    /// no allow list.
    pub fn namespace(&self, name: &str, allowed: &[&str]) -> Result<()> {
        if allowed.is_empty() {
            return self.kube.namespace(name, &[]);
        }
        self.kube.namespace(name, &[(ALLOWED_ROLES, &json!(allowed).to_string())])
    }

    /// Starts a pod and publishes it in the API, running, with its addresses.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        self.kube.pod(&self.node, spec)
    }

    /// Starts a pod that requests a role.
    pub fn pod_with_role(&self, namespace: &str, name: &str, role: &str) -> Result<Pod> {
        self.pod(PodSpec::new(namespace, name).annotation(ROLE, role))
    }

    /// Ends a pod and removes it from the API.
    pub fn delete(&self, pod: Pod) -> Result<()> {
        self.kube.delete_pod(pod.namespace(), pod.name())?;
        pod.delete()
    }

    /// Starts the daemon with these additional flags and waits until it is ready.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.launch(flags)?;
        self.daemon_mut()?.wait_ready(READY)
    }

    /// Starts the daemon without waiting until it is ready.
    pub fn launch(&mut self, flags: &[&str]) -> Result<()> {
        // End the previous daemon first: both would bind the same admin address.
        self.daemon = None;
        self.daemon = Some(Daemon::start(&self.node, self.options.with(flags))?);
        Ok(())
    }

    /// Starts the same daemon again after it has ended, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        let daemon = self.daemon_mut()?;
        daemon.restart()?;
        daemon.wait_ready(READY)
    }

    /// Starts another daemon beside the first, with its own admin address. The caller owns it.
    pub fn beside(&self, admin: SocketAddr, flags: &[&str]) -> Result<Daemon> {
        let options = self.options.with(&["--admin-addr", &admin.to_string()]).with(flags);
        Daemon::start(&self.node, DaemonOptions { admin, ..options })
    }

    /// Runs a subcommand to its end. Any exit code is accepted.
    pub fn podrole(&self, args: &[&str]) -> Result<Output> {
        self.options.run(&self.node, args)
    }

    /// The options with which the daemon is started.
    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// The options for the next start of the daemon.
    pub fn options_mut(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// The daemon.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon was started")
    }

    /// The daemon.
    pub fn daemon_mut(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("no daemon was started")
    }

    /// The name of the role for which STS issued these credentials, or `None` if STS never issued them.
    pub fn role_of(&self, credentials: &Creds) -> Option<String> {
        self.role_of_key(&credentials.access_key_id)
    }

    /// The name of the role for which STS issued this access key, or `None`.
    pub fn role_of_key(&self, access_key_id: &str) -> Option<String> {
        let issued = self.sts.who(access_key_id)?;
        issued.role_arn.rsplit('/').next().map(str::to_owned)
    }
}

/// Starts a node's metadata service, and an STS that knows the node role's credentials: the daemon gets its base
/// credentials as any program on a node does.
pub(crate) fn cloud(node: &Node) -> Result<(Imds, Sts)> {
    let imds = Imds::start(node)?;
    let sts = Sts::start(SocketAddr::from((NODE_V4, STS_PORT)))?;
    let (keys, facts) = (imds.credentials(), imds.facts());
    let role = facts.role.as_deref().unwrap_or("node-role");
    let caller = Caller::assumed_role(&facts.account, role, &facts.instance_id);
    sts.register_base(&keys.access_key_id, &keys.secret_access_key, Some(&keys.token), caller);
    Ok((imds, sts))
}

impl<A: ControlPlane> fmt::Debug for Rig<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").field("node", &self.node).field("daemon", &self.daemon).finish_non_exhaustive()
    }
}
