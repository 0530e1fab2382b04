//! The composition root of `run`: builds every part, starts them in order, and stops them.
//!
//! ```text
//! main thread: the data plane's runtime, one thread, nothing on it but pods' requests
//! podrole-control: kube watches, STS, admin, timers; large lists are parsed and TLS is shaken hands with over here
//! podrole-netns, podrole-cgroup, podrole-inotify, podrole-audit: plain threads for calls that block
//! ```

mod discover;
mod harden;
mod plumbing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::{Admin, Endpoints, Pulse};
use crate::audit::Audit;
use crate::caller::netns::{self, NodeKernel};
use crate::caller::resolver::Resolver;
use crate::caller::self_test;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, IdentityMode};
use crate::events::Events;
use crate::events::api::KubeEvents;
use crate::events::schedule::Limits;
use crate::imds::{Facts, Key, KeyRing};
use crate::metrics::{Fault, Metrics};
use crate::pods::index::{ChangeKind, PodChange};
use crate::pods::store::{OnChange, Store};
use crate::pods::{client, taint, watch};
use crate::readiness::Readiness;
use crate::server::Server;
use crate::service::{Deps, Identity, MetadataService};
use crate::state::{self, StateError};
use crate::tasks::{Drain, Supervisor};

use discover::Discovered;
use plumbing::Plumbing;

/// Below a DaemonSet's usual termination grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// For calls to STS that are under way: what they issue must have its audit line.
const CALLS: Duration = Duration::from_secs(5);
/// For the audit log's last lines.
const FLUSH: Duration = Duration::from_secs(2);
/// Keys live a day; looking hourly makes a new one in time.
const KEY_CHECK: Duration = Duration::from_secs(3600);

/// The longest that a stop takes: a pod's grace period must not be shorter.
pub const LONGEST_STOP: Duration = DRAIN.saturating_add(CALLS).saturating_add(FLUSH);

/// Runs the daemon until it is told to stop. An error means that it could not start, or that a part it needs has ended.
pub fn run(config: Config) -> anyhow::Result<()> {
    harden::process();
    // One TLS provider for everything, before anything could choose another.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        warn!("A TLS provider was installed already");
    }
    let identity = prove_identity(&config)?;
    let control = Builder::new_multi_thread().worker_threads(1).thread_name("podrole-control").enable_all().build();
    let control = control.context("cannot start the control runtime")?;
    let data = Builder::new_current_thread().enable_all().build().context("cannot start the data runtime")?;
    let result = data.block_on(serve(config, identity, control.handle()));
    // What still runs there has no more say.
    control.shutdown_background();
    result
}

/// Shows that this node can do what the configuration asks, or says everything that is missing.
fn prove_identity(config: &Config) -> anyhow::Result<Identity<NodeKernel>> {
    match config.identity {
        IdentityMode::Ip => {
            let missing: Vec<String> = self_test::missing_capabilities(false).map(|error| error.to_string()).collect();
            anyhow::ensure!(missing.is_empty(), "{}", missing.join("; "));
            warn!(
                "--identity=ip: callers are told apart by address alone; a pod that takes another's address is taken for it"
            );
            Ok(Identity::Address)
        }
        IdentityMode::Kernel => {
            let tested = self_test::run(&config.cgroup_root);
            if let Err(missing) = tested {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                anyhow::bail!("callers cannot be identified on this node: {}", missing.join("; "));
            }
            let settings =
                netns::Settings { netns_dir: config.netns_dir.clone(), cgroup_root: config.cgroup_root.clone() };
            let kernel = NodeKernel::start(&settings).context("cannot watch network namespaces")?;
            info!(netns = kernel.netns_count(), "Callers are identified by the kernel");
            Ok(Identity::Kernel(Resolver::new(kernel)))
        }
    }
}

async fn serve(config: Config, identity: Identity<NodeKernel>, control: &Handle) -> anyhow::Result<()> {
    // Before anything else: a signal that comes during the start is remembered, not ignored.
    let signals = Signals::new()?;
    let clock = SystemClock;
    let shared_clock: Arc<dyn Clock> = Arc::new(clock);
    let metrics = Arc::new(Metrics::new());
    metrics.identity_mode(match &identity {
        Identity::Kernel(_) => "kernel",
        Identity::Address => "ip",
    });
    let (readiness, start) = Readiness::new(config.policy.service_account_roles);
    let (supervisor, mut ended) = Supervisor::new(control.clone());
    let audit = Audit::new(std::io::stdout(), config.node.clone(), shared_clock.clone(), metrics.clone());
    let audit = Arc::new(audit.context("cannot start the audit log")?);

    let events = config.events.then(|| Events::new(Limits::default(), shared_clock.clone(), metrics.clone()));
    let events = events.map(Arc::new);

    let discovered = Discovered::default();
    let keys = Arc::new(ArcSwap::from_pointee(load_keys(&config.state_dir, &[], &metrics)?));
    let store = Arc::new(Store::new(on_pod_change(&discovered, &audit, &events)));
    let service = Arc::new(MetadataService::new(Deps {
        identity,
        store: store.clone(),
        service_accounts: config.policy.service_account_roles,
        active_policy: discovered.active_policy.clone(),
        keys: keys.clone(),
        facts: discovered.facts.clone(),
        imds_v1: config.imds_v1,
        clock,
        nonce: state::nonce,
        audit: audit.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
    }));

    // Every socket before any task: a conflict stops the start while nothing depends on it yet.
    let plumbing = Plumbing::bind(config.ports.clone(), control.clone()).await?;
    let admin = Admin {
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        pulse: Pulse::default(),
        clock: shared_clock.clone(),
    };
    let admin_listener = control
        .spawn(Admin::bind(config.admin_addr))
        .await?
        .with_context(|| format!("cannot bind --admin-addr {}", config.admin_addr))?;
    tokio::spawn(admin.pulse.clone().beat(shared_clock.clone()));
    if let Some(address) = config.metrics_addr {
        let listener = control
            .spawn(Admin::bind(address))
            .await?
            .with_context(|| format!("cannot bind --metrics-addr {address}"))?;
        supervisor.forever("metrics", admin.clone().serve(listener, Endpoints::MetricsOnly));
    }
    supervisor.forever("admin", admin.serve(admin_listener, Endpoints::All));

    let drain = Drain::default();
    let server = Server::new(service, metrics.clone(), drain.clone());
    let port = plumbing.port();
    for listener in plumbing.listeners()? {
        tokio::spawn(server.clone().serve(listener));
    }
    drop(start.listener);
    if config.metadata_listener {
        tokio::spawn(plumbing::second_lock(server, metrics.clone(), drain.clone()));
    }

    // Only now do pods' packets lead here: to an answer of "not yet" at the worst, never to a closed port.
    control.spawn(plumbing::redirect(port)).await?.context("cannot redirect the metadata address")?;
    metrics.redirect_applied();
    drop(start.redirect);
    info!(port, "Pods' metadata traffic comes here");

    let first =
        watch::FirstLists { pods: start.pods, namespaces: start.namespaces, service_accounts: start.service_accounts };
    start_watches(&config, &store, &metrics, readiness, first, &supervisor).await?;
    if let Some(events) = events {
        start_events(&config, events, &supervisor).await?;
    }
    supervisor.once(plumbing::lock_routes(start.routing));
    supervisor.forever("audit", audit.clone().sweep());
    supervisor.forever("keys", rotate_keys(config.state_dir.clone(), keys, metrics.clone()));
    let active_policy = discovered.active_policy.clone();
    supervisor.forever(
        "discovery",
        discover::run(config, discovered, audit.clone(), metrics, supervisor.runtime().clone(), start.identity),
    );

    let end = signals.wait(&mut ended).await;
    drain.finish(DRAIN).await;
    if let Some(active_policy) = active_policy.load_full() {
        active_policy.cache.settle(CALLS).await;
    }
    audit.flush(FLUSH);
    end?;
    info!("Stopped; the rules stay, so pods are refused and not let through");
    Ok(())
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot handle SIGINT")?,
        })
    }

    /// The first of: a signal (a clean end), or a part that should never end.
    async fn wait(mut self, ended: &mut tokio::sync::mpsc::Receiver<&'static str>) -> anyhow::Result<()> {
        tokio::select! {
            name = self.next() => info!("{name}: draining"),
            Some(name) = ended.recv() => anyhow::bail!("{name} has ended, and podrole cannot do without it"),
        }
        // A second signal is somebody in a hurry.
        tokio::spawn(async move {
            self.next().await;
            error!("Second signal: stopping at once");
            std::process::abort();
        });
        Ok(())
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn start_watches(
    config: &Config,
    store: &Arc<Store>,
    metrics: &Arc<Metrics>,
    readiness: Readiness,
    first: watch::FirstLists,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let kubeconfig = config.kubeconfig.clone();
    let client = supervisor.runtime().spawn(async move { client::client(kubeconfig.as_deref()).await });
    let client = client.await?.context("cannot set up the Kubernetes client")?;
    if let Some(key) = &config.startup_taint {
        let (client, node, key) = (client.clone(), config.node.clone(), key.clone());
        supervisor.once(taint::remove_when_ready(client, node, key, readiness));
    }
    let jitter = plumbing::jitter();
    supervisor.forever("watch", watch::run(client, config.node.clone(), store.clone(), metrics.clone(), first, jitter));
    Ok(())
}

async fn start_events(config: &Config, events: Arc<Events>, supervisor: &Supervisor) -> anyhow::Result<()> {
    let kubeconfig = config.kubeconfig.clone();
    let client = async move { client::client_of_single_attempts(kubeconfig.as_deref()).await };
    let client = supervisor.runtime().spawn(client).await?.context("cannot set up the Kubernetes client for Events")?;
    supervisor.forever("events", events.publish(KubeEvents::new(client, &config.instance), plumbing::jitter));
    Ok(())
}

/// What the daemon forgets about a pod that is gone, or whose credentials are decided differently from now on.
fn on_pod_change(discovered: &Discovered, audit: &Arc<Audit>, events: &Option<Arc<Events>>) -> OnChange {
    let (active_policy, audit, events) = (discovered.active_policy.clone(), audit.clone(), events.clone());
    Box::new(move |PodChange { uid, kind }| match kind {
        ChangeKind::Added => {}
        ChangeKind::Changed | ChangeKind::Gone => {
            if let Some(policy) = active_policy.load_full() {
                policy.cache.forget(uid);
            }
            audit.forget(uid);
            if let Some(events) = &events {
                events.forget(uid);
            }
        }
    })
}

fn load_keys(directory: &Path, held: &[Key], metrics: &Metrics) -> Result<KeyRing, StateError> {
    let (ring, problem) = state::load(directory, &state::boot_id(), SystemClock.boot(), held)?;
    if let Some(problem) = problem {
        metrics.fault(Fault::KeyRing);
        warn!(error = %problem, "Session tokens do not survive a restart");
    }
    Ok(ring)
}

async fn rotate_keys(directory: PathBuf, keys: Arc<ArcSwap<KeyRing>>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(KEY_CHECK).await;
        let held: Vec<Key> = keys.load().keys().cloned().collect();
        match load_keys(&directory, &held, &metrics) {
            Ok(ring) => keys.store(Arc::new(ring)),
            Err(problem) => {
                metrics.fault(Fault::KeyRing);
                warn!(error = %problem, "No new key: the ones there are go on");
            }
        }
    }
}

/// Facts for pods, until they are known.
type SharedFacts = Arc<ArcSwap<Facts>>;
