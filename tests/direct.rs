//! The daemon's middle in one process: the real bridge, policy, index and cache, with a fake kernel and a fake issuer, in paused time.
//! Every wait here is exact, which no test with real clocks can say.
#![expect(clippy::unwrap_used, reason = "an unwrap that fails is a test that fails")]

#[path = "direct/denials.rs"]
mod denials;
#[path = "direct/explain.rs"]
mod explain;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use http_body_util::BodyExt as _;
use podrole::audit::Audit;
use podrole::bridge::{Bridge, Identity, IssueTerms, Parties, Ruling};
use podrole::cache::CredentialCache;
use podrole::caller::resolver::Resolver;
use podrole::caller::{ClientSocket, Connection, Kernel, NetnsId, Sockets};
use podrole::clock::Clock;
use podrole::events::Events;
use podrole::events::schedule::Limits;
use podrole::imds::{Facts, Key, KeyRing};
use podrole::issuer::{Code, IssueError, IssueRequest, Issuer, Source};
use podrole::metrics::Metrics;
use podrole::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry};
use podrole::pods::store::Store;
use podrole::policy::{ContainerRoles, Rules, SessionScope};
use podrole::types::{BaseArn, ContainerId, Credentials, Glob, KernelIdentity, PodUid, Secret};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

const WEB: &str = "web-uid";
const IP: [u8; 4] = [10, 0, 0, 1];

/// Wall and boot time that tokio's paused clock moves.
#[derive(Clone)]
struct Anchored(Instant);

impl Clock for Anchored {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.boot()
    }
    fn boot(&self) -> Duration {
        Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

/// What the kernel would say: sockets by namespace, each with its owner.
#[derive(Clone, Default)]
struct FakeKernel(Arc<Mutex<Vec<(ClientSocket, KernelIdentity)>>>);

impl Kernel for FakeKernel {
    fn sockets(&self, _: &Connection) -> io::Result<Sockets> {
        let sockets = self.0.lock().unwrap();
        Ok(Sockets { namespaces: sockets.len(), found: sockets.iter().map(|(socket, _)| *socket).collect() })
    }
    fn socket_in(&self, netns: NetnsId, _: &Connection) -> io::Result<Option<ClientSocket>> {
        Ok(self.0.lock().unwrap().iter().map(|(socket, _)| *socket).find(|socket| socket.netns == netns))
    }
    fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.0.lock().unwrap().iter().find(|(socket, _)| socket.cgroup == cgroup).map(|(_, identity)| identity.clone())
    }
    async fn rescan_namespaces(&self) {}
    async fn rescan_cgroups(&self) {}
}

#[derive(Clone)]
struct FakeIssuer {
    clock: Anchored,
    takes: Arc<Mutex<Duration>>,
    refuses: Arc<Mutex<Option<Code>>>,
    calls: Arc<AtomicU64>,
    last: Arc<Mutex<Option<IssueRequest>>>,
}

impl Issuer for FakeIssuer {
    async fn issue(&self, request: &IssueRequest) -> Result<Credentials, IssueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = Some(request.clone());
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        if request.role.name() == "refused" {
            return Err(IssueError::from_code(Code::AccessDenied));
        }
        if let Some(code) = *self.refuses.lock().unwrap() {
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

struct Test {
    kernel: FakeKernel,
    issuer: FakeIssuer,
    store: Arc<Store>,
    ruling: Arc<ArcSwapOption<Ruling<FakeIssuer, Anchored>>>,
    facts: Arc<ArcSwap<Facts>>,
    bridge: Arc<Bridge<FakeKernel, FakeIssuer, Anchored>>,
    events: Arc<Events>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
}

impl Test {
    /// A node on which pod `web` (role `web`) is known, in a namespace that allows every role.
    fn new() -> Self {
        let test = Self::empty();
        test.socket(1, 1, WEB, "a");
        test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "web"})));
        test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]"}));
        test
    }

    fn empty() -> Self {
        Self::with(rules(), false, Limits::default(), io::sink())
    }

    /// No pod and no namespace; Events within `limits`, audit lines to `audit`.
    fn with(rules: Rules, service_accounts: bool, limits: Limits, audit: impl io::Write + Send + 'static) -> Self {
        let clock = Anchored(Instant::now());
        let metrics = Arc::new(Metrics::new());
        let kernel = FakeKernel::default();
        let issuer = FakeIssuer {
            clock: clock.clone(),
            takes: Arc::default(),
            refuses: Arc::default(),
            calls: Arc::default(),
            last: Arc::default(),
        };
        let runtime = tokio::runtime::Handle::current();
        let cache = CredentialCache::new(issuer.clone(), clock.clone(), || 0.5, runtime, metrics.clone());
        let store = Arc::new(Store::new(Box::new(|_| {})));
        let terms = IssueTerms {
            source: Source::AssumeRole { first_hop: None },
            duration: Duration::from_secs(3600),
            region: "us-west-2".into(),
        };
        let key = Key { id: [1; 4], secret: Zeroizing::new([1; 32]), made: Duration::ZERO };
        let audit = Arc::new(Audit::new(audit, "n".into(), Arc::new(clock.clone()), metrics.clone()).unwrap());
        let events = Arc::new(Events::new(limits, Arc::new(clock.clone()), metrics.clone()));
        let ruling = Arc::new(ArcSwapOption::from_pointee(Ruling { rules, terms, cache }));
        let facts = Facts { region: Some("us-west-2".into()), ..Facts::default() };
        let facts = Arc::new(ArcSwap::from_pointee(facts));
        let bridge = Arc::new(Bridge::new(Parties {
            identity: Identity::Kernel(Resolver::new(kernel.clone())),
            store: store.clone(),
            service_accounts,
            ruling: ruling.clone(),
            keys: Arc::new(ArcSwap::from_pointee(KeyRing::new(vec![key]))),
            facts: facts.clone(),
            imds_v1: false,
            clock,
            nonce: || [7; 12],
            audit: audit.clone(),
            events: Some(events.clone()),
            metrics: metrics.clone(),
        }));
        Self { kernel, issuer, store, ruling, facts, bridge, events, audit, metrics }
    }

    fn socket(&self, netns: u64, cookie: u64, pod: &str, container: &str) {
        let identity =
            KernelIdentity { pod: PodUid::parse(pod).unwrap(), container: ContainerId::parse(container).unwrap() };
        let mut sockets = self.kernel.0.lock().unwrap();
        sockets.retain(|(socket, _)| socket.netns != NetnsId(netns));
        let cgroup = netns * 1000 + cookie;
        sockets.push((ClientSocket { netns: NetnsId(netns), host: false, cookie, cgroup }, identity));
    }

    fn apply(&self, object: Value) {
        let object: SlimPod = serde_json::from_value(object).unwrap();
        self.store.update(|index| index.apply_pod(pod_entry(&object).unwrap()));
    }

    fn namespace(&self, annotations: Value) {
        let object: SlimMeta =
            serde_json::from_value(json!({"metadata": {"name": "shop", "annotations": annotations}})).unwrap();
        self.store.update(|index| index.apply_namespace(namespace_entry(&object).unwrap()));
    }

    /// Whether this line is among the metrics.
    fn counted(&self, series: &str) -> bool {
        String::from_utf8(self.metrics.render().1).unwrap().lines().any(|line| line == series)
    }

    /// One request as this connection's caller; the token is asked for as the caller is at that moment.
    async fn get(&self, path: &str) -> (u16, String) {
        let (_, token) = self.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
        self.send("GET", path, &[("x-aws-ec2-metadata-token", &token)]).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "169.254.169.254");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (parts, body) = self.bridge.handle(&connection(), &head).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }
}

fn connection() -> Connection {
    Connection {
        peer: SocketAddr::new(IpAddr::from(IP), 40000),
        server: SocketAddr::new(IpAddr::from([169, 254, 169, 254]), 80),
    }
}

/// Every role of the base account.
fn rules() -> Rules {
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

fn pod(uid: &str, annotations: Value) -> Value {
    let ip = IpAddr::from(IP).to_string();
    json!({
        "metadata": {"name": uid, "namespace": "shop", "uid": uid, "annotations": annotations},
        "status": {"podIP": ip, "containerStatuses": [{"name": "app", "containerID": "containerd://a"}]}
    })
}

const LIST: &str = "/latest/meta-data/iam/security-credentials/";

fn credentials(role: &str) -> String {
    format!("{LIST}{role}")
}

async fn after(time: u64, change: impl FnOnce()) {
    tokio::time::sleep(Duration::from_millis(time)).await;
    change();
}

#[tokio::test(start_paused = true)]
async fn a_known_pod_gets_its_role_at_once() {
    let test = Test::new();
    let begin = Instant::now();
    assert_eq!(test.get(LIST).await, (200, "web".into()));
    let (status, body) = test.get(&credentials("web")).await;
    assert!(status == 200 && body.contains("ASIA-web"), "{status} {body}");
    assert_eq!(test.get(&credentials("db")).await.0, 404);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_pod_is_held_800_ms_and_told_to_come_again() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    let begin = Instant::now();
    assert_eq!(test.get(&credentials("web")).await.0, 503);
    assert_eq!(begin.elapsed().as_millis(), 800);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_in_time_is_served() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    let path = credentials("web");
    let (answer, (), ()) = tokio::join!(
        test.get(&path),
        after(300, || test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "web"})))),
        after(600, || test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]"}))),
    );
    assert_eq!(answer.0, 200, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fact_that_may_still_come_is_not_missing() {
    const PARTITION: &str = "/latest/meta-data/services/partition";
    const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
    let test = Test::new();
    assert_eq!(test.get(PARTITION).await.0, 404, "all there is to know is known, and this is not");
    let ruling = test.ruling.swap(None);
    assert_eq!(test.get("/latest/meta-data/placement/region").await, (200, "us-west-2".into()));
    let begin = Instant::now();
    assert_eq!(test.get(PARTITION).await.0, 503);
    // In steps of 20 ms, none beyond the budget.
    assert_eq!(begin.elapsed().as_millis(), 780);
    assert_eq!(test.get(DOCUMENT).await.0, 503, "half a document is none");
    let known = after(300, || {
        test.facts.store(Arc::new(Facts { partition: Some("aws".into()), ..Facts::default() }));
        test.ruling.store(ruling);
    });
    let (answer, ()) = tokio::join!(test.get(PARTITION), known);
    assert_eq!(answer, (200, "aws".into()));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_not_seen_is_not_a_denial() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "web"})));
    assert_eq!(test.get(LIST).await.0, 503);
    test.namespace(json!({}));
    assert_eq!(test.get(LIST).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn the_token_needs_nobody() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    let begin = Instant::now();
    let (status, token) =
        test.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
    assert_eq!((status, token.len(), begin.elapsed()), (200, 56, Duration::ZERO));
    assert_eq!(test.get("/latest/meta-data/placement/region").await, (200, "us-west-2".into()));
}

/// Invariant 1, three ways: while STS was asked, the caller became somebody else.
#[tokio::test(start_paused = true)]
async fn a_connection_that_changed_hands_gets_nothing() {
    type Change = fn(&Test);
    let changes: [(&str, Change); 4] = [
        ("another socket on the same four-tuple", |test| test.socket(1, 2, WEB, "a")),
        ("the namespace is gone", |test| test.kernel.0.lock().unwrap().clear()),
        ("the pod is gone", |test| {
            test.store.update(|index| {
                index.delete_pod(&PodUid::parse(WEB).unwrap());
                Vec::new()
            });
        }),
        ("the pod has another role", |test| test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "db"})))),
    ];
    for (what, change) in changes {
        let test = Test::new();
        *test.issuer.takes.lock().unwrap() = Duration::from_millis(500);
        let path = credentials("web");
        let (answer, ()) = tokio::join!(test.get(&path), after(300, || change(&test)));
        assert_eq!(answer, (503, String::new()), "{what}");
    }
    // The control: nothing changed, and the same wait ends in credentials.
    let test = Test::new();
    *test.issuer.takes.lock().unwrap() = Duration::from_millis(500);
    assert_eq!(test.get(&credentials("web")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn two_claimants_of_one_address() {
    let test = Test::new();
    test.socket(2, 9, "squatter-uid", "b");
    let mut squatter = pod("squatter-uid", json!({"iam.amazonaws.com/role": "db"}));
    squatter["status"]["podIP"] = json!("10.0.0.99");
    test.apply(squatter);
    assert_eq!(test.get(LIST).await, (200, "web".into()), "the address's owner");

    test.kernel.0.lock().unwrap().retain(|(socket, _)| socket.netns == NetnsId(2));
    assert_eq!(test.get(LIST).await.0, 503, "the squatter alone");
}

/// The API server shows both with the address (a pod that ends beside the one that took its address over): nobody can say whose
/// this connection is.
#[tokio::test(start_paused = true)]
async fn two_rightful_claimants_are_none() {
    let test = Test::new();
    test.socket(2, 9, "twin-uid", "b");
    test.apply(pod("twin-uid", json!({"iam.amazonaws.com/role": "db"})));
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    assert_eq!(test.send("PUT", "/latest/api/token", &ttl).await.0, 503);
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]", "podrole.dev/imds-v1": "allow"}));
    assert_eq!(test.send("GET", LIST, &[]).await.0, 503, "nor without a token, where that is allowed");
    // One socket of the two is gone: the other is whose it is.
    test.kernel.0.lock().unwrap().retain(|(socket, _)| socket.netns == NetnsId(2));
    assert_eq!(test.get(LIST).await, (200, "db".into()));
}

/// A client never comes past its first request, the one for a token: the denial must be told there already.
#[tokio::test(start_paused = true)]
async fn every_claimant_is_told_why_it_gets_nothing() {
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    let twins = Test::new();
    twins.socket(2, 9, "twin-uid", "b");
    twins.apply(pod("twin-uid", json!({"iam.amazonaws.com/role": "db"})));
    assert_eq!(twins.send("PUT", "/latest/api/token", &ttl).await.0, 503);
    assert!(twins.counted("podrole_denials_total{reason=\"Squatters\"} 2"), "both have the address");

    let liars = Test::empty();
    let hash = "0123456789abcdef0123456789abcdef";
    liars.socket(1, 1, hash, "a");
    for uid in ["static-uid", "liar-uid"] {
        liars.apply(pod(uid, json!({"kubernetes.io/config.mirror": hash, "iam.amazonaws.com/role": "web"})));
    }
    assert_eq!(liars.get(LIST).await.0, 503);
    assert!(liars.counted("podrole_denials_total{reason=\"Ambiguous\"} 2"), "either may lie");
}

#[tokio::test(start_paused = true)]
async fn a_process_in_another_pods_namespace_is_nobody() {
    let test = Test::new();
    let mut agent = pod("agent-uid", json!({"iam.amazonaws.com/role": "db"}));
    agent["status"]["podIP"] = json!("10.0.0.50");
    test.apply(agent);
    test.socket(1, 5, "agent-uid", "b");
    assert_eq!(test.get(LIST).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_container_not_in_the_statuses_waits_and_never_gets_the_pods_role() {
    let test = Test::new();
    let overrides = json!({"iam.amazonaws.com/role": "web", "podrole.dev/role.late": "db"});
    test.apply(pod(WEB, overrides.clone()));
    test.socket(1, 1, WEB, "latecontainer");
    let begin = Instant::now();
    assert_eq!(test.get(LIST).await.0, 503);
    assert_eq!(begin.elapsed().as_millis(), 800);
    let mut seen = pod(WEB, overrides);
    let late = json!({"name": "late", "containerID": "containerd://latecontainer"});
    seen["status"]["containerStatuses"].as_array_mut().unwrap().push(late);
    let (answer, ()) = tokio::join!(test.get(LIST), after(300, || test.apply(seen)));
    assert_eq!(answer, (200, "db".into()));
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_sts_is_an_answer_and_a_failure_is_not() {
    let test = Test::new();
    *test.issuer.refuses.lock().unwrap() = Some(Code::AccessDenied);
    let (status, body) = test.get(&credentials("web")).await;
    assert!(status == 200 && body.contains("AssumeRoleUnauthorizedAccess"), "{status} {body}");
    assert!(!body.contains("AccessKeyId"));

    let test = Test::new();
    *test.issuer.refuses.lock().unwrap() = Some(Code::Throttling);
    let begin = Instant::now();
    assert_eq!(test.get(&credentials("web")).await.0, 503);
    assert_eq!(begin.elapsed().as_millis(), 800, "failures that may pass are waited out");
}

#[tokio::test(start_paused = true)]
async fn tokens_and_version_one() {
    let test = Test::new();
    assert_eq!(test.send("GET", LIST, &[]).await.0, 401);
    let (_, token) = test.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
    test.socket(1, 1, WEB, "other");
    assert_eq!(test.send("GET", LIST, &[("x-aws-ec2-metadata-token", &token)]).await.0, 401, "another container's");
    test.socket(1, 1, WEB, "a");
    assert_eq!(test.send("GET", LIST, &[("x-aws-ec2-metadata-token", &token)]).await.0, 200);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(test.send("GET", LIST, &[("x-aws-ec2-metadata-token", &token)]).await.0, 401, "expired");

    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]", "podrole.dev/imds-v1": "allow"}));
    assert_eq!(test.send("GET", LIST, &[]).await.0, 200);
    let forwarded = ("x-forwarded-for", "10.9.9.9");
    assert_eq!(test.send("GET", LIST, &[forwarded]).await.0, 403);
    let lost = ("x-aws-ec2-metadata-token", "lost");
    assert_eq!(test.send("GET", LIST, &[lost]).await.0, 200, "a token that is lost is no worse than none");
    assert_eq!(test.send("GET", LIST, &[lost, forwarded]).await.0, 401, "and no better either");
}
