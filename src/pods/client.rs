//! Creates clients for the API server, with the right kubeconfig and with time limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The time limit for a connection attempt.
const KUBE_CONNECT: Duration = Duration::from_secs(5);
/// The time limit for a read. The limit is longer than a watch is ever silent, because the server ends the watch or sends a
/// bookmark earlier. Without a limit, a list that the server never answers would hang forever.
const KUBE_READ: Duration = Duration::from_secs(90);

/// The settings for connecting to the API server.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Kubeconfigs, merged as kubectl merges them. If there are none, the service account of podrole's own pod is used.
    pub kubeconfigs: Vec<PathBuf>,
    /// The context to use; `None` for the current one.
    pub context: Option<String>,
}

/// A client for the API server that `kubeconfig` names or, without a kubeconfig, for the API server that podrole's own pod uses.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    finish(of_daemon(kubeconfig).await?)
}

/// Like [`client`], but without retries, for callers that count their calls.
pub async fn client_of_single_attempts(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = of_daemon(kubeconfig).await?;
    config.default_retry = false;
    finish(config)
}

async fn of_daemon(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Config> {
    let reach = Reach { kubeconfigs: kubeconfig.map(Into::into).into_iter().collect(), context: None };
    reach.config("not in a pod with a service account: set --kubeconfig").await
}

/// Makes a client with time limits.
pub(super) fn finish(mut config: kube::Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(KUBE_CONNECT);
    config.read_timeout = Some(KUBE_READ);
    // The time that a pooled connection was idle does not count as waiting.
    config.reset_reader_on_write = true;
    config.headers.push((http::header::USER_AGENT, concat!("podrole/", env!("CARGO_PKG_VERSION")).parse()?));
    Ok(Client::try_from(config)?)
}

// === impl Reach ===

impl Reach {
    /// The configuration to connect with. `nowhere` is the error if no kubeconfig is named and podrole does not run in a pod.
    pub(super) async fn config(&self, nowhere: &'static str) -> anyhow::Result<kube::Config> {
        let Some((first, rest)) = self.kubeconfigs.split_first() else {
            return kube::Config::incluster().context(nowhere);
        };
        let read = |path: &PathBuf| {
            Kubeconfig::read_from(path).with_context(|| format!("cannot read kubeconfig {}", path.display()))
        };
        let merged = rest.iter().try_fold(read(first)?, |merged, path| {
            merged
                .merge(read(path)?)
                .with_context(|| format!("cannot merge {} into the other kubeconfigs", path.display()))
        })?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        kube::Config::from_custom_kubeconfig(merged, &options).await.context("cannot use the kubeconfig")
    }
}
