//! The way to the API server: who is asked, by which kubeconfig, and a client that does not wait for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A silent API server is given up after these: to connect, and between two reads. The second is longer than a watch, which the
/// server ends or marks by then; without it a list that is never answered would hang for as long as the peer's kernel lives.
const KUBE_CONNECT: Duration = Duration::from_secs(5);
const KUBE_READ: Duration = Duration::from_secs(90);

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Kubeconfigs, merged as kubectl does; empty: the service account of the pod we run in.
    pub kubeconfigs: Vec<PathBuf>,
    /// One of their contexts; `None`: the current one.
    pub context: Option<String>,
}

/// A client for the API server named by `kubeconfig`, or by the pod we run in.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    finish(of_daemon(kubeconfig).await?)
}

/// The same for calls that count: one that fails is not repeated behind the caller's back.
pub async fn client_of_single_attempts(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = of_daemon(kubeconfig).await?;
    config.default_retry = false;
    finish(config)
}

async fn of_daemon(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Config> {
    let reach = Reach { kubeconfigs: kubeconfig.map(Into::into).into_iter().collect(), context: None };
    reach.config("not in a pod with a service account: set --kubeconfig").await
}

/// A client that does not wait for ever.
pub(super) fn finish(mut config: kube::Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(KUBE_CONNECT);
    config.read_timeout = Some(KUBE_READ);
    // A pooled connection's idle time is not the server's silence.
    config.reset_reader_on_write = true;
    config.headers.push((http::header::USER_AGENT, concat!("podrole/", env!("CARGO_PKG_VERSION")).parse()?));
    Ok(Client::try_from(config)?)
}

// === impl Reach ===

impl Reach {
    /// What is there to connect with. `nowhere` is said where no kubeconfig is named and this is no pod either.
    pub(super) async fn config(&self, nowhere: &'static str) -> anyhow::Result<kube::Config> {
        let Some((first, rest)) = self.kubeconfigs.split_first() else {
            return kube::Config::incluster().context(nowhere);
        };
        let read =
            |path: &PathBuf| Kubeconfig::read_from(path).with_context(|| format!("cannot use {}", path.display()));
        let merged = rest.iter().try_fold(read(first)?, |merged, path| {
            merged.merge(read(path)?).with_context(|| format!("cannot use {} beside the others", path.display()))
        })?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        kube::Config::from_custom_kubeconfig(merged, &options).await.context("cannot use the kubeconfig")
    }
}
