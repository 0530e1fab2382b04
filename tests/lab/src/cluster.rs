//! The real control plane: etcd and kube-apiserver as child processes, without containers, kubelet or controllers.
//! [`Cluster::with_controllers`] adds the scheduler and the controllers that a real node needs.
//!
//! It covers what the lab's API double cannot vouch for: admission, RBAC, field selectors, the watch cache, size
//! limits, and UIDs that only the server assigns. Everything runs in the network namespace of the thread that calls
//! [`Cluster::start`] and ends with the handle: `Drop` kills the children and waits for them. If the test process
//! itself is killed, the kernel kills the children (see `process`).

#![allow(
    clippy::disallowed_methods,
    reason = "the lab uses real child processes and real time; these rules apply to the daemon only"
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

/// The user of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// A member of `system:masters`, who may do everything.
    Admin,
    /// The daemon's user. It may get, list and watch pods, list and watch namespaces and service accounts, create and
    /// patch Events, and do what [`Cluster::grant`] adds.
    Podrole,
}

impl User {
    /// The user name that RBAC sees.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "lab-admin",
            Self::Podrole => "podrole",
        }
    }
}

/// A running control plane. Dropping it kills all its processes and removes its files.
///
/// Fields are dropped in order: the API server before its database, both before their files and their thread.
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
    /// Starts etcd and kube-apiserver in the current network namespace. Returns once `/readyz` succeeds and the
    /// `podrole` user has its role. Fails after a minute at most; the error holds the end of the failed process's log.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        start::start(options, None)
    }

    /// Like [`Cluster::start`], plus kube-scheduler, kube-controller-manager, the Node authorizer, and service account
    /// volumes in pods: for a node named `node` that really runs its pods.
    pub fn with_controllers(options: ClusterOptions, node: &str) -> Result<Self> {
        start::start(options, Some(node))
    }

    /// The address on which the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://address`, which is also the issuer of the service account tokens.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA certificates, as PEM, that the serving certificate is signed by.
    pub fn ca_pem(&self) -> &str {
        self.admin.ca_pem()
    }

    /// The bearer token of `user`.
    pub fn token(&self, user: User) -> &str {
        self.session(user).token()
    }

    /// The directory with all files, including logs.
    pub(crate) fn files(&self) -> &Path {
        self.scratch.path()
    }

    /// The ends of the logs of kube-apiserver and etcd, for the report of a failed test.
    pub fn log_tail(&self) -> String {
        format!("{}\n{}", self.apiserver.tail(), self.etcd.tail())
    }

    /// Writes a kubeconfig for `user` that client-go, kubectl and `kube` can read. Only its owner may read the file.
    pub fn kubeconfig(&self, path: &Path, user: User) -> Result<()> {
        let document = client::kubeconfig(self.address, user.name(), self.ca_pem(), self.token(user));
        // JSON is valid YAML, so no YAML serializer is needed.
        let text = serde_json::to_vec_pretty(&document).context("rendering the kubeconfig")?;
        scratch::write_private(path, &text)
    }

    /// The current memory of (kube-apiserver, etcd) according to the kernel.
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

/// The thread that owns the children and the client's connections.
///
/// The runtime has one worker, created by the thread that starts the cluster. It inherits that thread's network
/// namespace and keeps it when callers enter another one later.
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

    /// Runs `work` on the cluster's thread and waits for it. Works from plain threads and from inside other runtimes.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, outcome) = std::sync::mpsc::channel();
        let runtime = self.0.as_ref().context("the cluster's thread has ended")?;
        runtime.spawn(async move {
            // Sending fails only if the caller no longer waits for the result.
            let _ = done.send(work.await);
        });
        outcome.recv().context("the cluster's thread dropped the request")?
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Unlike a plain drop, this is allowed inside another runtime.
            runtime.shutdown_background();
        }
    }
}
