//! The composition root of `run`: builds every part, starts the parts in order, and stops them.
//!
//! ```text
//! main thread: the single-threaded runtime of the data plane; runs pods' requests and nothing else
//! podrole-control: runs kube watches, STS calls, admin and timers; parses large lists and makes TLS handshakes
//! podrole-netns, podrole-cgroup, podrole-inotify, podrole-audit: plain threads, which make the blocking calls
//! ```

mod discover;
mod harden;
mod keys;
mod plumbing;
mod signals;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tracing::{info, warn};

use crate::admin::{Admin, Endpoints, Pulse};
use crate::audit::Audit;
use crate::caller::netns::{self, NodeKernel};
use crate::caller::resolver::Resolver;
use crate::caller::self_test;
use crate::caller::shortages::Shortages;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, IdentityMode};
use crate::events::Events;
use crate::events::api::KubeEvents;
use crate::events::schedule::Limits;
use crate::imds::{Facts, KeyRing};
use crate::metrics::{Fault, Metrics};
use crate::pods::store::Store;
use crate::pods::{client, taint, watch};
use crate::readiness::{self, BlockReady, Readiness};
use crate::server::Server;
use crate::service::{Deps, Identity, MetadataService, on_pod_change};
use crate::state;
use crate::tasks::{Drain, Supervisor};
use crate::telemetry::{self, Logs};

use discover::{Discovered, LiveIssuer};
use plumbing::PodSockets;
use signals::Signals;

/// How long a stop waits for open connections: less than a DaemonSet's usual termination grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a stop waits for STS calls under way, so that the credentials they issue get their audit lines.
const CALLS: Duration = Duration::from_secs(5);
/// How often lost log lines are counted.
const LOST_LINES: Duration = Duration::from_secs(5);
/// How long a stop waits for the last audit lines to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// The longest duration of a stop. A pod's termination grace period must not be shorter.
pub const LONGEST_STOP: Duration = DRAIN.saturating_add(CALLS).saturating_add(FLUSH).saturating_add(telemetry::FLUSH);

/// Node facts that pods may read; empty until they are discovered.
type SharedFacts = Arc<ArcSwap<Facts>>;

/// Runs the daemon until a signal stops it.
///
/// # Errors
///
/// Fails if the daemon cannot start, or if a task that the daemon needs ends.
pub fn run(config: Config, logs: Logs) -> anyhow::Result<()> {
    harden::process();
    // All parts use one TLS provider. Install it before a library can install another provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        warn!("A TLS provider was already installed; using that provider");
    }
    let health = Health::new(&config);
    let identity = prove_identity(&config, &health)?;
    let control = Builder::new_multi_thread().worker_threads(1).thread_name("podrole-control").enable_all().build();
    let control = control.context("cannot start the control runtime")?;
    let data = Builder::new_current_thread().enable_all().build().context("cannot start the data runtime")?;
    let result = data.block_on(serve(config, logs, health, identity, control.handle()));
    // Do not wait for control tasks: the drain has already waited for all work that must finish.
    control.shutdown_background();
    result
}

/// The handles through which the parts report their state.
struct Health {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    start: readiness::Start,
}

// === impl Health ===

impl Health {
    fn new(config: &Config) -> Self {
        let (readiness, start) = Readiness::new(config.policy.service_account_roles);
        Self { metrics: Arc::new(Metrics::new()), readiness, start }
    }
}

/// Checks that this node supports the configured identity mode. The error lists everything that is missing.
fn prove_identity(config: &Config, health: &Health) -> anyhow::Result<Identity<NodeKernel>> {
    match config.identity {
        IdentityMode::Ip => {
            let missing: Vec<String> = self_test::missing_capabilities(false).map(|error| error.to_string()).collect();
            anyhow::ensure!(missing.is_empty(), "{}", missing.join("; "));
            warn!(
                "--identity=ip identifies callers by source address only; a pod that takes another pod's address also gets its role"
            );
            Ok(Identity::Address)
        }
        IdentityMode::Kernel => {
            let tested = self_test::run(&config.cgroup_root);
            if let Err(missing) = tested {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                anyhow::bail!("this node cannot identify callers: {}", missing.join("; "));
            }
            let settings =
                netns::Settings { netns_dir: config.netns_dir.clone(), cgroup_root: config.cgroup_root.clone() };
            let shortages = Shortages::new(health.metrics.clone(), health.readiness.clone());
            let kernel =
                NodeKernel::start(&settings, Arc::new(shortages)).context("cannot watch network namespaces")?;
            info!(netns = kernel.netns_count(), "Identifying callers through the kernel");
            Ok(Identity::Kernel(Resolver::new(kernel)))
        }
    }
}

/// Starts every part in order, waits for a signal or a failure that ends the daemon, and drains.
async fn serve(
    config: Config,
    logs: Logs,
    health: Health,
    identity: Identity<NodeKernel>,
    control: &Handle,
) -> anyhow::Result<()> {
    // Catch signals before anything else, so that a signal that arrives during the start is remembered, not ignored.
    let signals = Signals::new()?;
    let Health { metrics, readiness, start } = health;
    let (supervisor, mut ended) = Supervisor::new(control.clone());
    let shared = Shared::build(config, metrics, readiness, supervisor)?;

    // Bind every socket before starting any task: a conflict stops the start while nothing depends on it yet.
    let sockets = Sockets::bind(&shared.config, control).await?;
    let port = sockets.pods.port();
    serve_admin(&shared, sockets.admin, sockets.metrics);

    let drain = Drain::default();
    serve_pods(&shared, identity, sockets.pods, &drain)?;
    drop(start.listener);

    // Redirect pods' packets only now, so that the packets at worst reach a daemon that answers "not ready", never a closed port.
    redirect(&shared, port).await?;
    drop(start.redirect);

    let first =
        watch::FirstLists { pods: start.pods, namespaces: start.namespaces, service_accounts: start.service_accounts };
    start_watches(&shared, first).await?;
    start_events(&shared).await?;
    start_housekeeping(&shared, logs, start.routing);
    start_discovery(&shared, start.identity);

    let end = signals.wait(&mut ended).await;
    stop(&shared, &drain).await;
    end?;
    info!("Stopped; firewall rules left in place, pods remain blocked");
    Ok(())
}

/// State that several stages of the start use.
struct Shared {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    supervisor: Supervisor,
    audit: Arc<Audit>,
    /// `None` with `--events=false`.
    events: Option<Arc<Events>>,
    discovered: Discovered,
    keys: Arc<ArcSwap<KeyRing>>,
    store: Arc<Store>,
}

// === impl Shared ===

impl Shared {
    fn build(
        config: Config,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        supervisor: Supervisor,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let audit = Audit::new(std::io::stdout(), config.node.clone(), clock.clone(), metrics.clone());
        let audit = Arc::new(audit.context("cannot start the audit log")?);
        let events = config.events.then(|| Events::new(Limits::default(), clock.clone(), metrics.clone()));
        let events = events.map(Arc::new);
        let discovered = Discovered::default();
        let keys = Arc::new(ArcSwap::from_pointee(keys::load(&config.state_dir, &[], &metrics)?));
        let store =
            Arc::new(Store::new(on_pod_change(discovered.active_policy.clone(), audit.clone(), events.clone())));
        let config = Arc::new(config);
        Ok(Self { config, clock, metrics, readiness, supervisor, audit, events, discovered, keys, store })
    }

    fn service(&self, identity: Identity<NodeKernel>) -> MetadataService<NodeKernel, LiveIssuer, SystemClock> {
        MetadataService::new(Deps {
            identity,
            store: self.store.clone(),
            active_policy: self.discovered.active_policy.clone(),
            keys: self.keys.clone(),
            facts: self.discovered.facts.clone(),
            imds_v1: self.config.imds_v1,
            clock: SystemClock,
            nonce: state::nonce,
            audit: self.audit.clone(),
            events: self.events.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

/// Every socket that the daemon must bind at the start, except the metadata listener: another instance may still be bound to that
/// listener's address.
struct Sockets {
    pods: PodSockets,
    admin: TcpListener,
    metrics: Option<TcpListener>,
}

// === impl Sockets ===

impl Sockets {
    async fn bind(config: &Config, control: &Handle) -> anyhow::Result<Self> {
        let pods = PodSockets::bind(config.ports.clone(), control.clone()).await?;
        let admin = control.spawn(Admin::bind(config.admin_addr)).await?;
        let admin = admin.with_context(|| format!("cannot bind --admin-addr {}", config.admin_addr))?;
        let metrics = match config.metrics_addr {
            None => None,
            Some(address) => {
                let bound = control.spawn(Admin::bind(address)).await?;
                Some(bound.with_context(|| format!("cannot bind --metrics-addr {address}"))?)
            }
        };
        Ok(Self { pods, admin, metrics })
    }
}

fn serve_admin(shared: &Shared, listener: TcpListener, metrics_listener: Option<TcpListener>) {
    let admin = Admin {
        metrics: shared.metrics.clone(),
        readiness: shared.readiness.clone(),
        pulse: Pulse::default(),
        clock: shared.clock.clone(),
    };
    // The pulse beats on the data plane's runtime, because it shows the health of that runtime.
    tokio::spawn(admin.pulse.clone().beat(shared.clock.clone()));
    if let Some(listener) = metrics_listener {
        shared.supervisor.forever("metrics", admin.clone().serve(listener, Endpoints::MetricsOnly));
    }
    shared.supervisor.forever("admin", admin.serve(listener, Endpoints::All));
}

/// Serves pods on the redirected listeners and, unless it is disabled, on the metadata listener.
fn serve_pods(
    shared: &Shared,
    identity: Identity<NodeKernel>,
    sockets: PodSockets,
    drain: &Drain,
) -> anyhow::Result<()> {
    shared.metrics.identity_mode(identity.mode());
    let server = Server::new(Arc::new(shared.service(identity)), shared.metrics.clone(), drain.clone());
    for listener in sockets.listeners()? {
        tokio::spawn(server.clone().serve(listener));
    }
    if shared.config.metadata_listener {
        tokio::spawn(plumbing::serve_metadata_listener(server, shared.metrics.clone(), drain.clone()));
    }
    Ok(())
}

async fn redirect(shared: &Shared, port: u16) -> anyhow::Result<()> {
    let redirected = shared.supervisor.runtime().spawn(plumbing::redirect(port)).await?;
    redirected.context("cannot redirect the metadata address")?;
    shared.metrics.redirect_applied();
    info!(port, "Redirecting pods' metadata traffic to podrole");
    Ok(())
}

async fn start_watches(shared: &Shared, first: watch::FirstLists) -> anyhow::Result<()> {
    let Shared { config, metrics, supervisor, store, .. } = shared;
    let kubeconfig = config.kubeconfig.clone();
    let client = supervisor.runtime().spawn(async move { client::client(kubeconfig.as_deref()).await });
    let client = client.await?.context("cannot set up the Kubernetes client")?;
    if let Some(key) = &config.startup_taint {
        let (client, node, key) = (client.clone(), config.node.clone(), key.clone());
        supervisor.once(taint::remove_when_ready(client, node, key, shared.readiness.clone()));
    }
    let jitter = plumbing::jitter();
    supervisor.forever("watch", watch::run(client, config.node.clone(), store.clone(), metrics.clone(), first, jitter));
    Ok(())
}

async fn start_events(shared: &Shared) -> anyhow::Result<()> {
    let Some(events) = shared.events.clone() else { return Ok(()) };
    let kubeconfig = shared.config.kubeconfig.clone();
    let client = async move { client::client_of_single_attempts(kubeconfig.as_deref()).await };
    let client = shared.supervisor.runtime().spawn(client).await?;
    let sink =
        KubeEvents::new(client.context("cannot set up the Kubernetes client for Events")?, &shared.config.instance);
    shared.supervisor.forever("events", events.publish(sink, plumbing::jitter));
    Ok(())
}

/// Starts the tasks that repeat on a timer.
fn start_housekeeping(shared: &Shared, logs: Logs, routing: BlockReady) {
    shared.supervisor.once(plumbing::complete_routing_guard(routing));
    shared.supervisor.forever("audit", shared.audit.clone().sweep());
    shared.supervisor.forever("logs", report_lost_lines(logs, shared.metrics.clone()));
    let rotation = keys::rotate(shared.config.state_dir.clone(), shared.keys.clone(), shared.metrics.clone());
    shared.supervisor.forever("keys", rotation);
}

/// Counts log lines that were lost because nobody read standard error in time. Never ends.
async fn report_lost_lines(logs: Logs, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(LOST_LINES).await;
        let lost = logs.take_lost();
        for _ in 0..lost {
            metrics.fault(Fault::LogLost);
        }
        if lost > 0 {
            warn!(lines = lost, "Lost log lines: standard error is too slow; pods are served as before");
        }
    }
}

fn start_discovery(shared: &Shared, identity: BlockReady) {
    let Shared { config, discovered, audit, metrics, supervisor, .. } = shared;
    let (config, discovered, runtime) = (config.clone(), discovered.clone(), supervisor.runtime().clone());
    let discovery = discover::run(config, discovered, audit.clone(), metrics.clone(), runtime, identity);
    supervisor.forever("discovery", discovery);
}

/// Drains connections, then waits for STS calls under way, then writes the last audit lines.
async fn stop(shared: &Shared, drain: &Drain) {
    drain.finish(DRAIN).await;
    if let Some(policy) = shared.discovered.active_policy.load_full() {
        policy.cache.settle(CALLS).await;
    }
    shared.audit.flush(FLUSH);
}
