//! The daemon's middle without a kernel, an API server or STS: what they would say is put in by hand.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use http_body_util::BodyExt as _;
use podrole::audit::Audit;
use podrole::cache::CredentialCache;
use podrole::caller::resolver::Resolver;
use podrole::caller::{ClientSocket, Connection, Coverage, Kernel, NetnsId, Sockets};
use podrole::clock::Clock;
use podrole::events::Events;
use podrole::events::schedule::Limits;
use podrole::imds::{Facts, Key, KeyRing};
use podrole::issuer::{Code, IssueError, IssueRequest, Issuer, Source};
use podrole::metrics::Metrics;
use podrole::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry};
use podrole::pods::store::Store;
use podrole::policy::{ContainerRoles, Rules, SessionScope};
use podrole::service::{ActivePolicy, Deps, Identity, IssueTerms, MetadataService, on_pod_change};
use podrole::types::{BaseArn, ContainerId, Credentials, Glob, KernelIdentity, PodUid, Secret};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub(crate) const WEB: &str = "web-uid";
pub(crate) const IP: [u8; 4] = [10, 0, 0, 1];

/// Wall clock and boot time, driven by tokio's paused clock.
#[derive(Clone)]
pub(crate) struct Anchored(Instant);

impl Clock for Anchored {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.boot()
    }
    fn boot(&self) -> Duration {
        Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

/// A fake kernel: sockets by network namespace, each with the identity of its cgroup.
#[derive(Clone, Default)]
pub(crate) struct FakeKernel(pub(crate) Arc<Mutex<Vec<(ClientSocket, KernelIdentity)>>>);

impl Kernel for FakeKernel {
    fn sockets(&self, _: &Connection) -> io::Result<Sockets> {
        let sockets = self.0.lock().unwrap();
        let found = sockets.iter().map(|(socket, _)| *socket).collect();
        Ok(Sockets { owners: sockets.len(), found, unowned: false })
    }
    fn socket_in(&self, netns: NetnsId, _: &Connection) -> io::Result<Option<ClientSocket>> {
        Ok(self.0.lock().unwrap().iter().map(|(socket, _)| *socket).find(|socket| socket.netns == netns))
    }
    fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.0.lock().unwrap().iter().find(|(socket, _)| socket.cgroup == cgroup).map(|(_, identity)| identity.clone())
    }
    async fn rescan_netns(&self) -> Coverage {
        Coverage::Complete
    }
    async fn rescan_cgroups(&self) -> Coverage {
        Coverage::Complete
    }
}

#[derive(Clone)]
pub(crate) struct FakeIssuer {
    pub(crate) clock: Anchored,
    pub(crate) takes: Arc<Mutex<Duration>>,
    pub(crate) fails_with: Arc<Mutex<Option<Code>>>,
    pub(crate) calls: Arc<AtomicU64>,
    pub(crate) last: Arc<Mutex<Option<IssueRequest>>>,
}

impl Issuer for FakeIssuer {
    async fn issue(&self, request: &IssueRequest) -> Result<Credentials, IssueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = Some(request.clone());
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        if request.role.name() == "denied" {
            return Err(IssueError::from_code(Code::AccessDenied));
        }
        if let Some(code) = *self.fails_with.lock().unwrap() {
            return Err(IssueError::from_code(code));
        }
        let now = self.clock.boot();
        Ok(Credentials {
            access_key_id: format!("ASIA-{}", request.role.name()).into(),
            secret_access_key: Secret::new("secret".into()),
            session_token: Secret::new("token".into()),
            expiration: self.clock.wall() + Duration::from_secs(3600),
            issued_at: now,
            expires_at: now + Duration::from_secs(3600),
        })
    }
}

/// A writer that records the lines of the audit log.
#[derive(Clone, Default)]
pub(crate) struct Lines(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Test {
    pub(crate) kernel: FakeKernel,
    pub(crate) issuer: FakeIssuer,
    pub(crate) store: Arc<Store>,
    pub(crate) active_policy: Arc<ArcSwapOption<ActivePolicy<FakeIssuer, Anchored>>>,
    pub(crate) facts: Arc<ArcSwap<Facts>>,
    pub(crate) service: Arc<MetadataService<FakeKernel, FakeIssuer, Anchored>>,
    pub(crate) events: Arc<Events>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Test {
    /// A node with a known pod `web`, which requests the role `web`, in a namespace that allows every role.
    pub(crate) fn new() -> Self {
        let test = Self::empty();
        test.socket(1, 1, WEB, "a");
        test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "web"})));
        test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]"}));
        test
    }

    pub(crate) fn empty() -> Self {
        Self::with(rules(), false, Limits::default(), io::sink())
    }

    /// A node without pods and namespaces. Events have `limits`; audit lines go to `audit`.
    pub(crate) fn with(
        rules: Rules,
        service_accounts: bool,
        limits: Limits,
        audit: impl Write + Send + 'static,
    ) -> Self {
        let clock = Anchored(Instant::now());
        let metrics = Arc::new(Metrics::new());
        let kernel = FakeKernel::default();
        let issuer = FakeIssuer {
            clock: clock.clone(),
            takes: Arc::default(),
            fails_with: Arc::default(),
            calls: Arc::default(),
            last: Arc::default(),
        };
        let runtime = tokio::runtime::Handle::current();
        let cache = CredentialCache::new(issuer.clone(), clock.clone(), || 0.5, runtime, metrics.clone());
        let terms = IssueTerms {
            source: Source::AssumeRole { first_hop: None },
            duration: Duration::from_secs(3600),
            region: "us-west-2".into(),
        };
        let key = Key { id: [1; 4], secret: Zeroizing::new([1; 32]), made: Duration::ZERO };
        let audit = Arc::new(Audit::new(audit, "n".into(), Arc::new(clock.clone()), metrics.clone()).unwrap());
        let events = Arc::new(Events::new(limits, Arc::new(clock.clone()), metrics.clone()));
        let active_policy =
            Arc::new(ArcSwapOption::from_pointee(ActivePolicy::new(rules, service_accounts, terms, cache)));
        let on_change = on_pod_change(active_policy.clone(), audit.clone(), Some(events.clone()));
        let store = Arc::new(Store::new(on_change));
        let facts = Facts { region: Some("us-west-2".into()), ..Facts::default() };
        let facts = Arc::new(ArcSwap::from_pointee(facts));
        let service = Arc::new(MetadataService::new(Deps {
            identity: Identity::Kernel(Resolver::new(kernel.clone())),
            store: store.clone(),
            active_policy: active_policy.clone(),
            keys: Arc::new(ArcSwap::from_pointee(KeyRing::new(vec![key]))),
            facts: facts.clone(),
            imds_v1: false,
            clock,
            nonce: || [7; 12],
            audit: audit.clone(),
            events: Some(events.clone()),
            metrics: metrics.clone(),
        }));
        Self { kernel, issuer, store, active_policy, facts, service, events, audit, metrics }
    }

    pub(crate) fn socket(&self, netns: u64, cookie: u64, pod: &str, container: &str) {
        let identity =
            KernelIdentity { pod: PodUid::parse(pod).unwrap(), container: ContainerId::parse(container).unwrap() };
        let mut sockets = self.kernel.0.lock().unwrap();
        sockets.retain(|(socket, _)| socket.netns != NetnsId(netns));
        let cgroup = netns * 1000 + cookie;
        sockets.push((ClientSocket { netns: NetnsId(netns), host: false, cookie, cgroup }, identity));
    }

    pub(crate) fn apply(&self, object: Value) {
        let object: SlimPod = serde_json::from_value(object).unwrap();
        self.store.update(|index| index.apply_pod(pod_entry(&object).unwrap()));
    }

    pub(crate) fn namespace(&self, annotations: Value) {
        let object: SlimMeta =
            serde_json::from_value(json!({"metadata": {"name": "shop", "annotations": annotations}})).unwrap();
        self.store.update(|index| index.apply_namespace(namespace_entry(&object).unwrap()));
    }

    /// Whether the metrics page contains this line.
    pub(crate) fn counted(&self, series: &str) -> bool {
        String::from_utf8(self.metrics.render().1).unwrap().lines().any(|line| line == series)
    }

    /// Sends a request on this connection, with a session token that is requested just before.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (_, token) = self.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
        self.send("GET", path, &[("x-aws-ec2-metadata-token", &token)]).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "169.254.169.254");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (parts, body) = self.service.handle(&connection(), &head).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }
}

pub(crate) fn connection() -> Connection {
    Connection {
        peer: SocketAddr::new(IpAddr::from(IP), 40000),
        server: SocketAddr::new(IpAddr::from([169, 254, 169, 254]), 80),
    }
}

/// Every role of the base account.
pub(crate) fn rules() -> Rules {
    let base = BaseArn::parse("arn:aws:iam::111122223333:role/").unwrap();
    Rules {
        ceiling: vec![Glob::parse("arn:aws:iam::111122223333:role/*").unwrap()],
        base,
        own_roles: vec![],
        require_allow: true,
        allow: HashMap::new(),
        container_roles: ContainerRoles::Shared,
        session_scope: SessionScope::Pod,
        node: "n".into(),
    }
}

pub(crate) fn pod(uid: &str, annotations: Value) -> Value {
    let ip = IpAddr::from(IP).to_string();
    json!({
        "metadata": {"name": uid, "namespace": "shop", "uid": uid, "annotations": annotations},
        "status": {"podIP": ip, "containerStatuses": [{"name": "app", "containerID": "containerd://a"}]}
    })
}

pub(crate) const LIST: &str = "/latest/meta-data/iam/security-credentials/";

pub(crate) fn credentials(role: &str) -> String {
    format!("{LIST}{role}")
}
