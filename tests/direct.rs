//! The daemon's middle in one process: the real service, policy, index and cache, with a fake kernel and a fake issuer, in paused time.
//! Waits are exact here, which no test with real clocks can check.
#![expect(clippy::unwrap_used, reason = "an unwrap that fails is a test that fails")]

#[path = "direct/denials.rs"]
mod denials;
#[path = "direct/explain.rs"]
mod explain;
#[path = "direct/grants.rs"]
mod grants;
#[path = "direct/support.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use podrole::caller::NetnsId;
use podrole::imds::Facts;
use podrole::issuer::Code;
use podrole::types::PodUid;
use serde_json::json;
use tokio::time::Instant;

use support::{LIST, Test, WEB, credentials, pod};

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
async fn an_unknown_pod_is_held_750_ms_and_told_to_retry() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    let begin = Instant::now();
    assert_eq!(test.get(&credentials("web")).await.0, 503);
    assert_eq!(begin.elapsed().as_millis(), 750);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_appears_in_time_is_served() {
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
    assert_eq!(test.get(PARTITION).await.0, 404, "discovery has finished without this fact");
    let active_policy = test.active_policy.swap(None);
    assert_eq!(test.get("/latest/meta-data/placement/region").await, (200, "us-west-2".into()));
    let begin = Instant::now();
    assert_eq!(test.get(PARTITION).await.0, 503);
    // Polls every 20 ms, and not beyond the budget.
    assert_eq!(begin.elapsed().as_millis(), 740);
    assert_eq!(test.get(DOCUMENT).await.0, 503, "an incomplete document is not served");
    let known = after(300, || {
        test.facts.store(Arc::new(Facts { partition: Some("aws".into()), ..Facts::default() }));
        test.active_policy.store(active_policy);
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
async fn a_token_needs_no_pod_object() {
    let test = Test::empty();
    test.socket(1, 1, WEB, "a");
    let begin = Instant::now();
    let (status, token) =
        test.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
    assert_eq!((status, token.len(), begin.elapsed()), (200, 56, Duration::ZERO));
    assert_eq!(test.get("/latest/meta-data/placement/region").await, (200, "us-west-2".into()));
}

/// Invariant 1: while STS is called, the caller of the connection changes or loses its right.
#[tokio::test(start_paused = true)]
async fn a_connection_that_changed_hands_gets_nothing() {
    type Change = fn(&Test);
    let changes: [(&str, Change); 4] = [
        ("another socket on the same four-tuple", |test| test.socket(1, 2, WEB, "a")),
        ("the namespace is gone", |test| test.kernel.0.lock().unwrap().clear()),
        ("the pod is gone", |test| {
            test.store.update(|index| index.delete_pod(&PodUid::parse(WEB).unwrap()));
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
    // Control: without a change the same wait ends with credentials.
    let test = Test::new();
    *test.issuer.takes.lock().unwrap() = Duration::from_millis(500);
    assert_eq!(test.get(&credentials("web")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn two_claimants_of_one_address() {
    let test = Test::new();
    test.socket(2, 9, "claimant-uid", "b");
    let mut claimant = pod("claimant-uid", json!({"iam.amazonaws.com/role": "db"}));
    claimant["status"]["podIP"] = json!("10.0.0.99");
    test.apply(claimant);
    assert_eq!(test.get(LIST).await, (200, "web".into()), "the owner of the address");

    test.kernel.0.lock().unwrap().retain(|(socket, _)| socket.netns == NetnsId(2));
    assert_eq!(test.get(LIST).await.0, 503, "the other claimant alone");
}

/// The API server shows both pods with the address, for example one that ends next to one that took its address over. The connection
/// may be of either.
#[tokio::test(start_paused = true)]
async fn of_two_published_owners_neither_is_served() {
    let test = Test::new();
    test.socket(2, 9, "twin-uid", "b");
    test.apply(pod("twin-uid", json!({"iam.amazonaws.com/role": "db"})));
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    assert_eq!(test.send("PUT", "/latest/api/token", &ttl).await.0, 503);
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]", "podrole.dev/imds-v1": "allow"}));
    assert_eq!(test.send("GET", LIST, &[]).await.0, 503, "nor without a token, if that is allowed");
    // Only one socket is left, so its pod is the caller.
    test.kernel.0.lock().unwrap().retain(|(socket, _)| socket.netns == NetnsId(2));
    assert_eq!(test.get(LIST).await, (200, "db".into()));
}

/// A client that gets no token sends no other request, so the denial must be reported on the token request.
#[tokio::test(start_paused = true)]
async fn every_claimant_gets_a_denial() {
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    let twins = Test::new();
    twins.socket(2, 9, "twin-uid", "b");
    twins.apply(pod("twin-uid", json!({"iam.amazonaws.com/role": "db"})));
    assert_eq!(twins.send("PUT", "/latest/api/token", &ttl).await.0, 503);
    assert!(twins.counted("podrole_denials_total{reason=\"AddressConflict\"} 2"), "both pods hold the address");

    let liars = Test::empty();
    let hash = "0123456789abcdef0123456789abcdef";
    liars.socket(1, 1, hash, "a");
    for uid in ["static-uid", "liar-uid"] {
        liars.apply(pod(uid, json!({"kubernetes.io/config.mirror": hash, "iam.amazonaws.com/role": "web"})));
    }
    assert_eq!(liars.get(LIST).await.0, 503);
    assert!(liars.counted("podrole_denials_total{reason=\"Ambiguous\"} 2"), "either annotation may be false");
}

#[tokio::test(start_paused = true)]
async fn a_process_in_another_pods_netns_is_not_identified() {
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
    assert_eq!(begin.elapsed().as_millis(), 750);
    let mut seen = pod(WEB, overrides);
    let late = json!({"name": "late", "containerID": "containerd://latecontainer"});
    seen["status"]["containerStatuses"].as_array_mut().unwrap().push(late);
    let (answer, ()) = tokio::join!(test.get(LIST), after(300, || test.apply(seen)));
    assert_eq!(answer, (200, "db".into()));
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_sts_is_answered_and_a_failure_is_waited_out() {
    let test = Test::new();
    *test.issuer.fails_with.lock().unwrap() = Some(Code::AccessDenied);
    let (status, body) = test.get(&credentials("web")).await;
    assert!(status == 200 && body.contains("AssumeRoleUnauthorizedAccess"), "{status} {body}");
    assert!(!body.contains("AccessKeyId"));

    let test = Test::new();
    *test.issuer.fails_with.lock().unwrap() = Some(Code::Throttling);
    let begin = Instant::now();
    assert_eq!(test.get(&credentials("web")).await.0, 503);
    assert_eq!(begin.elapsed().as_millis(), 750, "temporary failures are waited out");
}

#[tokio::test(start_paused = true)]
async fn tokens_and_imds_v1() {
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
    assert_eq!(test.send("GET", LIST, &[lost]).await.0, 200, "an invalid token counts as no token");
    assert_eq!(test.send("GET", LIST, &[lost, forwarded]).await.0, 401, "and gives no rights");
}

async fn after(time: u64, change: impl FnOnce()) {
    tokio::time::sleep(Duration::from_millis(time)).await;
    change();
}

/// While STS throttles, an edit that takes no right away must not cost the credentials that are still valid. The control: an edit
/// that does take the right away ends them, for good.
#[tokio::test(start_paused = true)]
async fn a_harmless_edit_keeps_valid_credentials() {
    let test = Test::new();
    let path = credentials("web");
    assert_eq!(test.get(&path).await.0, 200);
    *test.issuer.fails_with.lock().unwrap() = Some(Code::Throttling);
    let calls = || test.issuer.calls.load(std::sync::atomic::Ordering::SeqCst);
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"web\", \"other\"]"}));
    assert_eq!(test.get(&path).await.0, 200, "another list that allows the role");
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]", "iam.amazonaws.com/permitted": ".*"}));
    assert_eq!(test.get(&path).await.0, 200, "one list more");
    assert_eq!(calls(), 1);

    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"other\"]"}));
    assert_eq!(test.get(&path).await.0, 404, "the right is gone");
    test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"web\"]"}));
    assert_eq!(test.get(&path).await.0, 503, "and the credentials with it");
    assert!(calls() > 1);
}
