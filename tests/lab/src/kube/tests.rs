//! Tests each fault and guarantee of the double with a raw client that sees every byte. Submodules test it with kube-rs
//! and test paging.

mod client;
mod kube_rs;
mod requests;

use std::time::{Duration, Instant};

use client::{Stream, get, kube, pod, send};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(60);
const PODS: &str = "/api/v1/pods";

fn names(events: &[(String, Value)]) -> Vec<String> {
    events
        .iter()
        .map(|(kind, object)| format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or("-")))
        .collect()
}

#[test]
fn a_watch_replays_what_came_after_the_list() {
    let kube = kube();
    kube.apply(pod("a", "n1")).unwrap();
    let (_, list) = get(&kube, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("kind").is_none() && list["kind"] == "PodList");
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    kube.apply(pod("b", "n1")).unwrap();
    kube.apply(pod("c", "n2")).unwrap();
    kube.apply(pod("a", "n2")).unwrap();
    kube.delete("Pod", "web", "b").unwrap();
    let mut watch =
        Stream::open(&kube, &format!("{PODS}?watch=true&fieldSelector=spec.nodeName%3Dn1&resourceVersion={version}"));
    let events = watch.take(3);
    assert_eq!(names(&events), ["ADDED b", "DELETED a", "DELETED b"]);
    assert_eq!(events[1].1["spec"]["nodeName"], "n1", "the last state that was selected");
    let versions: Vec<u64> = events
        .iter()
        .map(|(_, object)| object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.is_sorted() && versions[0] > version.parse().unwrap(), "{versions:?}");
    assert_eq!(kube.watchers(), 1);
    drop(watch);
    assert!(kube.wait(SOON, |_, watchers| watchers == 0));
}

#[test]
fn a_watch_without_a_version_starts_with_what_is_there() {
    let kube = kube();
    kube.namespace("web", &[("iam.amazonaws.com/permitted", ".*")]).unwrap();
    for query in ["watch=1", "watch=true&resourceVersion=0"] {
        let mut watch = Stream::open(&kube, &format!("/api/v1/namespaces?{query}"));
        assert_eq!(names(&watch.take(3)), ["ADDED default", "ADDED kube-system", "ADDED web"]);
    }
    kube.annotate("Namespace", "", "web", "iam.amazonaws.com/permitted", None).unwrap();
    assert!(kube.get("ns", "", "web").unwrap()["metadata"]["annotations"].get("iam.amazonaws.com/permitted").is_none());
}

#[test]
fn streaming_lists_end_with_their_bookmark() {
    let kube = kube();
    kube.apply(pod("a", "n1")).unwrap();
    let streaming = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Stream::open(&kube, &format!("{PODS}?{streaming}"));
    let events = watch.take(2);
    assert_eq!(names(&events), ["ADDED a", "BOOKMARK -"]);
    assert_eq!(events[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(events[1].1["kind"], "Pod");
    kube.apply(pod("b", "n1")).unwrap();
    assert_eq!(names(&watch.take(1)), ["ADDED b"]);
    let (status, answer) = get(&kube, &format!("{PODS}?watch=true&sendInitialEvents=true"));
    assert_eq!((status, &answer["reason"]), (422, &json!("Invalid")));
    kube.streaming_lists(false);
    assert_eq!(get(&kube, &format!("{PODS}?{streaming}")).0, 422);
}

#[test]
fn bookmarks_come_in_time_on_demand_and_at_the_end() {
    let kube = kube();
    kube.set_bookmark_interval(Duration::from_millis(50));
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=3"));
    let start = Instant::now();
    assert_eq!(names(&watch.take(2)), ["BOOKMARK -", "BOOKMARK -"]);
    kube.set_bookmark_interval(Duration::from_secs(60));
    // A bookmark may already be due under the old interval.
    while watch.quiet(QUIET).is_err() {}
    kube.namespace("moves-the-version", &[]).unwrap();
    kube.bookmark();
    let demanded = watch.take(1);
    assert_eq!(
        demanded[0].1["metadata"]["resourceVersion"],
        kube.get("ns", "", "moves-the-version").unwrap()["metadata"]["resourceVersion"]
    );
    assert_eq!(names(&watch.take(1)), ["BOOKMARK -"], "the last one, at the timeout");
    assert!(watch.ended_cleanly() && start.elapsed() >= Duration::from_secs(3));
    let mut without = Stream::open(&kube, &format!("{PODS}?watch=true&resourceVersion=1"));
    kube.bookmark();
    without.quiet(QUIET).unwrap();
}

#[test]
fn frozen_streams_deliver_later_and_in_order() {
    let kube = kube();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    kube.freeze(true);
    for name in ["a", "b", "c"] {
        kube.apply(pod(name, "n1")).unwrap();
    }
    watch.quiet(QUIET).unwrap();
    assert_eq!(get(&kube, PODS).1["items"].as_array().unwrap().len(), 3, "lists are not frozen");
    kube.freeze(false);
    assert_eq!(names(&watch.take(3)), ["ADDED a", "ADDED b", "ADDED c"]);
}

#[test]
fn a_delayed_object_comes_late_for_lists_and_watches() {
    let kube = kube();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    kube.delay_object("web/slow", Duration::from_millis(500));
    let start = Instant::now();
    kube.apply(pod("slow", "n1")).unwrap();
    kube.merge("Pod", "web", "slow", &json!({"status": {"podIP": "10.0.0.9"}})).unwrap();
    kube.apply(pod("quick", "n1")).unwrap();
    assert_eq!(names(&watch.take(1)), ["ADDED quick"]);
    assert_eq!(get(&kube, PODS).1["items"].as_array().unwrap().len(), 1);
    let late = watch.take(2);
    assert_eq!(names(&late), ["ADDED slow", "MODIFIED slow"]);
    assert!(start.elapsed() >= Duration::from_millis(500) && late[1].1["status"]["podIP"] == "10.0.0.9");
}

#[test]
fn watch_delay_holds_events_and_not_lists() {
    let kube = kube();
    kube.set_watch_delay(Duration::from_millis(120));
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    let start = Instant::now();
    kube.apply(pod("a", "n1")).unwrap();
    assert_eq!(get(&kube, PODS).1["items"].as_array().unwrap().len(), 1);
    assert_eq!(names(&watch.take(1)), ["ADDED a"]);
    assert!(start.elapsed() >= Duration::from_millis(120));
}

#[test]
fn cut_breaks_streams_in_the_middle() {
    let kube = kube();
    kube.apply(pod("a", "n1")).unwrap();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    watch.take(1);
    kube.cut();
    assert!(!watch.ended_cleanly(), "no last chunk");
    let mut again = Stream::open(&kube, &format!("{PODS}?watch=true"));
    assert_eq!(names(&again.take(1)), ["ADDED a"]);
}

#[test]
fn gone_makes_every_known_version_too_old() {
    let kube = kube();
    let before = get(&kube, PODS).1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let page = get(&kube, "/api/v1/namespaces?limit=1").1["metadata"]["continue"].as_str().unwrap().to_owned();
    kube.gone();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true&resourceVersion={before}"));
    let events = watch.take(1);
    assert_eq!(
        (events[0].0.as_str(), &events[0].1["code"], &events[0].1["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert!(watch.ended_cleanly());
    assert_eq!(get(&kube, &format!("/api/v1/namespaces?limit=1&continue={page}")).0, 410);
    let now = get(&kube, PODS).1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true&resourceVersion={now}"));
    kube.apply(pod("a", "n1")).unwrap();
    assert_eq!(names(&watch.take(1)), ["ADDED a"]);
}

#[test]
fn bad_bytes_are_one_line_that_is_not_json() {
    let kube = kube();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    kube.bad_bytes();
    let line = watch.line().unwrap();
    assert!(serde_json::from_str::<Value>(&line).is_err(), "{line}");
    kube.apply(pod("a", "n1")).unwrap();
    assert_eq!(names(&watch.take(1)), ["ADDED a"]);
}

#[test]
fn down_latency_and_error_statuses() {
    let kube = kube();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    kube.down(true).unwrap();
    assert!(!watch.ended_cleanly());
    assert!(send(&kube, "GET", PODS, &[], "").is_err());
    kube.down(false).unwrap();
    kube.set_latency(Duration::from_millis(80));
    let start = Instant::now();
    assert_eq!(get(&kube, PODS).0, 200);
    assert!(start.elapsed() >= Duration::from_millis(80));
    kube.set_latency(Duration::ZERO);
    kube.unauthorized(true);
    let (status, answer) = get(&kube, PODS);
    assert_eq!((status, &answer["kind"], &answer["reason"]), (401, &json!("Status"), &json!("Unauthorized")));
    kube.fail_all(Some(429));
    assert_eq!(get(&kube, &format!("{PODS}?watch=true")).0, 429);
    kube.unauthorized(false);
    assert_eq!(get(&kube, PODS).0, 200);
}

#[test]
fn big_objects_are_one_line() {
    let kube = kube();
    let mut big = pod("big", "n1");
    big["metadata"]["annotations"] = json!({"blob": "x".repeat(2 << 20)});
    kube.apply(big).unwrap();
    let mut watch = Stream::open(&kube, &format!("{PODS}?watch=true"));
    let events = watch.take(1);
    assert_eq!(events[0].1["metadata"]["annotations"]["blob"].as_str().unwrap().len(), 2 << 20);
}
