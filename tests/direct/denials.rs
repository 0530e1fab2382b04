//! Denials become Events: few of them, and without delaying any request, whatever pods do.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use podrole::backoff::Backoff;
use podrole::caller::ClientSocket;
use podrole::events::schedule::Limits;
use podrole::events::sink::{Report, Sink, SinkError};
use podrole::issuer::Code;
use podrole::token_bucket::Rate;
use podrole::types::{Denial, KernelIdentity};
use podrole_lab::effort::DENIALS_A_SECOND;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{LIST, Lines, Test, WEB, connection, credentials, pod, rules};

/// A sink that records attempts, and fails or hangs if configured to.
#[derive(Clone, Default)]
struct FakeSink {
    attempts: Arc<Mutex<Vec<Report>>>,
    fails: Arc<Mutex<Option<SinkError>>>,
    hangs: bool,
}

impl Sink for FakeSink {
    async fn write(&self, report: &Report, _: SystemTime) -> Result<Arc<str>, SinkError> {
        self.attempts.lock().unwrap().push(report.clone());
        if self.hangs {
            pending::<()>().await;
        }
        match self.fails.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(format!("{}.event", report.name).into()),
        }
    }
}

impl FakeSink {
    fn attempts(&self) -> Vec<Report> {
        self.attempts.lock().unwrap().clone()
    }
}

impl Test {
    fn publish(&self, sink: &FakeSink) {
        tokio::spawn(self.events.clone().publish(sink.clone(), || 0.5));
    }
}

/// Lets other tasks run.
async fn others() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_pod_gets_an_event_with_the_reason_and_the_fix() {
    let test = Test::new();
    let sink = FakeSink::default();
    test.publish(&sink);
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"other-*\"]"}));
    assert_eq!(test.get(LIST).await.0, 404);
    others().await;
    let reports = sink.attempts();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((&*report.namespace, &*report.name, report.shown_uid.as_str()), ("shop", WEB, WEB));
    assert_eq!((report.reason, report.reason.class().name()), (Denial::NamespaceNotPermitted, "RoleDenied"));
    let role = "arn:aws:iam::111122223333:role/web";
    assert!(report.note.starts_with("NamespaceNotPermitted: ") && report.note.contains(role), "{}", report.note);
    assert!(report.note.ends_with(Denial::NamespaceNotPermitted.fix()), "{}", report.note);
    assert!(test.counted("podrole_events_total{result=\"published\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_sts_becomes_an_event_and_a_temporary_failure_does_not() {
    let test = Test::new();
    let sink = FakeSink::default();
    test.publish(&sink);
    for temporary in [Code::Throttling, Code::ServerError, Code::Network, Code::ExpiredToken] {
        *test.issuer.fails_with.lock().unwrap() = Some(temporary);
        assert_eq!(test.get(&credentials("web")).await.0, 503);
        others().await;
        assert_eq!(sink.attempts(), [], "{temporary}");
    }
    *test.issuer.fails_with.lock().unwrap() = Some(Code::AccessDenied);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(test.get(&credentials("web")).await.0, 200, "a document with the error");
    others().await;
    let reports = sink.attempts();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.reason, report.reason.class().name()), (Denial::AssumeRoleRefused, "AssumeRoleFailed"));
    assert!(report.note.contains("arn:aws:iam::111122223333:role/web (AccessDenied)"), "{}", report.note);
    assert!(test.counted("podrole_denials_total{reason=\"AssumeRoleRefused\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_an_event() {
    let test = Test::new();
    let sink = FakeSink { hangs: true, ..FakeSink::default() };
    test.publish(&sink);
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(test.get(&credentials("db")).await.0, 404);
        tokio::task::yield_now().await;
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(sink.attempts().len(), 1, "one write at a time");
    // The write times out after ten seconds and is retried ten seconds later.
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(sink.attempts().len(), 2);
    assert!(test.counted("podrole_events_total{result=\"failed\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_costs_a_few_attempts_an_hour_and_nothing_else() {
    let test = Test::new();
    let sink = FakeSink::default();
    *sink.fails.lock().unwrap() = Some(SinkError::Forbidden("403".into()));
    test.publish(&sink);
    for _ in 0..3600 {
        assert_eq!(test.get(&credentials("db")).await.0, 404);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let attempts = sink.attempts().len();
    assert_eq!(attempts, 11, "after 0, 10, 30, 70, 150, 310 and 630 seconds, then every ten minutes");
    assert!(test.counted(&format!("podrole_events_total{{result=\"forbidden\"}} {attempts}")));
    *sink.fails.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert!(test.counted("podrole_events_total{result=\"published\"} 1"), "the Event is written as soon as it can be");
}

// === floods ===

/// The time between two batches of requests.
const TICK: Duration = Duration::from_millis(50);

/// `copies` sets of pods, each pod of a set denied for another reason. Each has a name, an object and the path that it requests.
fn denied_pods(copies: usize) -> Vec<(String, Value, &'static str)> {
    const ROLE: &str = "iam.amazonaws.com/role";
    let role = |role: &str| json!({ROLE: role});
    let with = |key: &str, value: &str| json!({ROLE: "web", key: value});
    let kinds = [
        ("no-role", json!({}), LIST),
        ("bad-role", role("not a role!"), LIST),
        ("not-permitted", role("admin"), LIST),
        ("above-ceiling", role("arn:aws:iam::444455556666:role/web"), LIST),
        ("bad-session-name", with("iam.amazonaws.com/session-name", "no spaces"), LIST),
        ("bad-external-id", with("iam.amazonaws.com/external-id", "no spaces"), LIST),
        ("wrong-role", role("web"), "/latest/meta-data/iam/security-credentials/other"),
        ("denied", role("denied"), "/latest/meta-data/iam/security-credentials/denied"),
        ("finished", role("web"), LIST),
        ("foreign", role("web"), LIST),
    ];
    let copy = |copy: usize| {
        kinds.clone().map(|(kind, annotations, path)| {
            let name = format!("{kind}-{copy}");
            let mut object = pod(&name, annotations);
            if kind == "finished" {
                object["status"]["phase"] = json!("Succeeded");
            }
            if kind == "foreign" {
                object["status"]["podIP"] = json!("10.0.0.77");
            }
            (name, object, path)
        })
    };
    (0..copies).flat_map(copy).collect()
}

/// Thirty pods send requests for `seconds`; halfway through, the pod `web` requests its credentials once.
async fn flood(limits: Limits, seconds: u64) -> (Test, FakeSink, Vec<u8>) {
    let lines = Lines::default();
    let test = Test::with(rules(), false, limits, lines.clone());
    let sink = FakeSink::default();
    test.publish(&sink);
    tokio::spawn(test.audit.clone().sweep());
    // Without session tokens, because the test measures what happens after their verification.
    let allowed = json!({"iam.amazonaws.com/allowed-roles": "[\"web\", \"denied\"]", "podrole.dev/imds-v1": "allow"});
    test.namespace(allowed);
    let pods = denied_pods(3);
    for (_, object, _) in &pods {
        test.apply(object.clone());
    }
    test.apply(pod(WEB, json!({"iam.amazonaws.com/role": "web"})));
    let a_tick = DENIALS_A_SECOND.count() / 20;
    let begin = Instant::now();
    let mut delivered = false;
    let mut ticks: u32 = 0;
    // Built once, because the test does not measure the construction of requests.
    let request =
        |path: &str| http::Request::get(path).header("host", "169.254.169.254").body(()).unwrap().into_parts().0;
    let requests: Vec<Parts> = pods.iter().map(|(_, _, path)| request(path)).collect();
    let owners: Vec<Owner> = pods.iter().map(|(uid, ..)| test.only(uid)).collect();
    let connection = connection();
    let mut asking = pods.iter().zip(&owners).zip(&requests).cycle();
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..a_tick {
            let (((uid, ..), owner), head) = asking.next().unwrap();
            test.kernel.0.lock().unwrap().clone_from(owner);
            let reply = test.service.handle(&connection, head).await;
            // A denial by STS is a 200 whose document contains the error.
            assert!(reply.status() != 200 || uid.starts_with("denied"), "{uid}: {reply:?}");
        }
        if !delivered && begin.elapsed() >= Duration::from_secs(seconds / 2) {
            test.only(WEB);
            let (status, body) = test.send("GET", &credentials("web"), &[]).await;
            assert!(status == 200 && body.contains("ASIA-web"), "{status} {body}");
            delivered = true;
        }
        ticks += 1;
        tokio::time::sleep_until(begin + TICK * ticks).await;
    }
    assert_eq!(u64::from(ticks), 20 * seconds);
    test.audit.flush(Duration::from_secs(60));
    let written = lines.0.lock().unwrap().clone();
    (test, sink, written)
}

/// The state of the fake kernel with one pod's socket.
type Owner = Vec<(ClientSocket, KernelIdentity)>;

impl Test {
    /// Makes this pod the only one with a socket, and returns the state of the fake kernel.
    fn only(&self, uid: &str) -> Owner {
        self.kernel.0.lock().unwrap().clear();
        self.socket(1, 1, uid, "a");
        self.kernel.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_million_denials_are_ten_events_and_a_little_audit() {
    let (test, sink, written) = flood(Limits::default(), 60).await;
    let reports = sink.attempts();
    let lines: Vec<Value> =
        String::from_utf8(written.clone()).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let denied: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
    let all = 60 * DENIALS_A_SECOND.count() as u64;
    println!("figure: {all} denials in 60 s: {} Events, {} bytes of audit", reports.len(), written.len());
    assert!(!reports.is_empty() && reports.len() <= 10, "{} Events", reports.len());
    assert!(written.len() < 1_000_000, "{} bytes", written.len());
    let issued: Vec<&Value> = lines.iter().filter(|line| line["action"] == "Deliver").collect();
    assert!(issued.len() == 1 && issued[0]["access_key_id"] == "ASIA-web", "{issued:?}");
    // Nothing is lost: the counts of the lines add up to all denials by podrole. The remaining tenth, denied by STS, is in the metric.
    assert_eq!(denied, all / 10 * 9);
    assert!(test.counted(&format!("podrole_denials_total{{reason=\"AssumeRoleRefused\"}} {}", all / 10)));
    assert!(test.counted(&format!("podrole_events_total{{result=\"published\"}} {}", reports.len())));
    // Each Event is for another pod.
    let mut pods: Vec<&str> = reports.iter().map(|report| &*report.name).collect();
    pods.sort_unstable();
    pods.dedup();
    assert_eq!(pods.len(), reports.len());
}

/// Positive control: one second of the same flood, without limits.
#[tokio::test(start_paused = true)]
async fn control_without_limits_a_flood_is_hundreds_of_events() {
    let none = Limits {
        writes: Rate { burst: u32::MAX, every: Duration::ZERO },
        repeat: Backoff::new(Duration::ZERO, Duration::ZERO),
        ..Limits::default()
    };
    let (_, sink, _) = flood(none, 1).await;
    assert!(sink.attempts().len() > 300, "{} Events", sink.attempts().len());
}
