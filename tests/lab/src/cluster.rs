//! The real control plane: etcd and kube-apiserver as child processes, with no container, kubelet or controller; or, by
//! [`Cluster::with_controllers`], with the scheduler and the controllers that a real node needs.
//!
//! What the API double of the lab cannot vouch for is proven here: admission, RBAC, field selectors, the watch cache, the size
//! limits, uids that the server alone assigns. Everything runs in the network namespace of the thread that calls
//! [`Cluster::start`], and ends with the handle: `Drop` kills and waits, and should the test process itself be killed, the kernel
//! ends the children (see `process`).

#![allow(
    clippy::disallowed_methods,
    reason = "real children and real time: the rules for clocks and children are the daemon's"
)]

mod assets;
mod client;
mod controllers;
mod objects;
mod process;
mod scratch;
mod start;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

pub use self::assets::Assets;
pub use self::client::is_status;
pub use self::objects::Created;
pub use self::process::Memory;
pub use self::start::ClusterOptions;

pub(crate) use self::assets::on_path;

use self::client::Session;
use self::controllers::Identities;
use self::process::Child;
use self::scratch::Scratch;

/// Who asks the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// A member of `system:masters`: may do everything.
    Admin,
    /// What the daemon is in a cluster: get, list and watch pods, list and watch namespaces and service accounts, create and patch
    /// Events, and whatever [`Cluster::grant`] adds.
    Podrole,
}

impl User {
    /// The name that RBAC sees.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "lab-admin",
            Self::Podrole => "podrole",
        }
    }
}

/// A running control plane. Dropping it ends every process of it and removes its files.
///
/// Field order is drop order: the server goes before its database, both before their files and the thread they hang on.
#[derive(Debug)]
pub struct Cluster {
    controllers: Vec<Child>,
    identities: Option<Identities>,
    apiserver: Child,
    etcd: Child,
    admin: Session,
    podrole: Session,
    address: SocketAddr,
    scratch: Scratch,
    runtime: Runtime,
}

impl Cluster {
    /// Starts etcd and kube-apiserver in the current network namespace and returns once `/readyz` says ok and the `podrole` user
    /// has its role. Fails after a minute at most, with the end of the log of the process that is to blame.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        start::start(options, None)
    }

    /// The same with kube-scheduler and kube-controller-manager, the Node authorizer, and an API server that gives pods their
    /// service account's volume: for a node that really runs its pods. `node` is its name.
    pub fn with_controllers(options: ClusterOptions, node: &str) -> Result<Self> {
        start::start(options, Some(node))
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://address`, which is also the issuer of the service account tokens.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The PEM certificates that the serving certificate hangs on.
    pub fn ca_pem(&self) -> &str {
        self.admin.ca_pem()
    }

    /// The bearer token of `user`.
    pub fn token(&self, user: User) -> &str {
        self.session(user).token()
    }

    /// Where its files are, logs too.
    pub(crate) fn files(&self) -> &Path {
        self.scratch.path()
    }

    /// The ends of the logs of kube-apiserver and etcd, for a failed test's report.
    pub fn log_tail(&self) -> String {
        format!("{}\n{}", self.apiserver.tail(), self.etcd.tail())
    }

    /// Writes a kubeconfig for `user`, readable by its owner only, as client-go, kubectl and `kube` read it.
    pub fn kubeconfig(&self, path: &Path, user: User) -> Result<()> {
        let document = client::kubeconfig(self.address, user.name(), self.ca_pem(), self.token(user));
        // JSON is YAML, and needs no writer of its own.
        let text = serde_json::to_vec_pretty(&document).context("rendering the kubeconfig")?;
        scratch::write_private(path, &text)
    }

    /// Memory of (kube-apiserver, etcd) as the kernel counts it now.
    pub fn memory(&self) -> Result<(Memory, Memory)> {
        Ok((self.apiserver.memory()?, self.etcd.memory()?))
    }

    fn session(&self, user: User) -> &Session {
        match user {
            User::Admin => &self.admin,
            User::Podrole => &self.podrole,
        }
    }
}

/// The thread that the children and the client's connections belong to.
///
/// One worker, made by the thread that starts the cluster: it inherits that thread's network namespace and keeps it, whatever
/// namespaces the callers enter later.
#[derive(Debug)]
struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-cluster")
            .enable_all()
            .build()
            .context("starting the cluster's thread")?;
        Ok(Self(Some(runtime)))
    }

    /// Runs `work` on the cluster's thread and waits for it: callable from plain threads and from inside other runtimes.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, outcome) = std::sync::mpsc::channel();
        let runtime = self.0.as_ref().context("the cluster's thread has ended")?;
        runtime.spawn(async move {
            // A receiver that is gone belongs to a caller that no longer wants the answer.
            let _ = done.send(work.await);
        });
        outcome.recv().context("the cluster's thread dropped the request")?
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Unlike a plain drop, this is allowed inside another runtime too.
            runtime.shutdown_background();
        }
    }
}
