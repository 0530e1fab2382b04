//! Tests of reads and writes as kubectl sends them.

use super::client::{Stream, get, kube, pod, send};
use super::json;

const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

#[test]
fn pages_are_of_one_moment() {
    let kube = kube();
    for name in ["a", "b", "c", "d", "e"] {
        kube.apply(pod(name, "n1")).unwrap();
    }
    let (_, first) = get(&kube, "/api/v1/pods?limit=2");
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    kube.delete("pods", "web", "d").unwrap();
    kube.apply(pod("ca", "n1")).unwrap();
    kube.apply(pod("c", "n2")).unwrap();
    let mut seen: Vec<String> = Vec::new();
    let mut page = first.clone();
    for _ in 0..3 {
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pod| format!("{}@{}", pod["metadata"]["name"], pod["spec"]["nodeName"])),
        );
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(next) = page["metadata"]["continue"].as_str() else { break };
        page = get(&kube, &format!("/api/v1/pods?limit=2&continue={next}")).1;
    }
    assert_eq!(seen.concat().replace('"', ""), "a@n1b@n1c@n1d@n1e@n1");
    let (_, cached) = get(&kube, "/api/v1/pods?limit=2&resourceVersion=0");
    assert_eq!(cached["items"].as_array().unwrap().len(), 5, "the watch cache knows no limit");
    assert_eq!(get(&kube, "/api/v1/pods?resourceVersion=999999").0, 504);
    assert_eq!(get(&kube, "/api/v1/pods?continue=nonsense").0, 400);
}

#[test]
fn shapes_are_as_accepted() {
    let kube = kube();
    kube.apply(pod("a", "n1")).unwrap();
    let accept = ["Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"];
    let (_, list) = send(&kube, "GET", "/api/v1/namespaces/web/pods", &accept, "").unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("PartialObjectMetadataList"), &json!("PartialObjectMetadata"))
    );
    assert!(list["items"][0].get("spec").is_none() && list["items"][0]["metadata"]["uid"].is_string());
    let (_, one) = send(
        &kube,
        "GET",
        "/api/v1/namespaces/web/pods/a",
        &["Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"],
        "",
    )
    .unwrap();
    assert_eq!(one["kind"], "PartialObjectMetadata");
    let (_, table) =
        send(&kube, "GET", "/api/v1/namespaces/web/pods?limit=500", &[&format!("Accept: {TABLE}")], "").unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!("0/1"), json!("Running")]);
    let mut rows = Stream::open_as(&kube, "/api/v1/pods?watch=true", TABLE);
    assert_eq!(rows.take(1)[0].1["rows"][0]["object"]["metadata"]["name"], "a");
    let mut streamed = Stream::open_as(
        &kube,
        "/api/v1/namespaces?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    );
    let events = streamed.take(3);
    assert!(events.iter().all(|(_, object)| object["kind"] == "PartialObjectMetadata"), "the bookmark too");
}

#[test]
fn discovery_leads_to_every_resource() {
    let kube = kube();
    assert_eq!(get(&kube, "/api?timeout=32s").1["versions"], json!(["v1"]));
    let groups = get(&kube, "/apis?timeout=32s").1;
    let version = groups["groups"][0]["preferredVersion"]["groupVersion"].as_str().unwrap();
    assert_eq!(get(&kube, &format!("/apis/{version}")).1["resources"][0]["name"], "events");
    for resource in get(&kube, "/api/v1").1["resources"].as_array().unwrap() {
        assert_eq!(get(&kube, &format!("/api/v1/{}", resource["name"].as_str().unwrap())).0, 200);
    }
    assert_eq!(get(&kube, "/version").1["minor"], "33");
    for path in ["/openapi/v2", "/openapi/v3", "/api/v1/secrets", "/nothing"] {
        assert_eq!(get(&kube, path).0, 404, "{path}");
    }
    let requests = kube.requests();
    assert_eq!((requests[0].path.as_str(), requests[0].user_agent.as_str()), ("/api?timeout=32s", "raw"));
    kube.clear();
    assert!(kube.requests().is_empty());
}

#[test]
fn writes_as_kubectl_and_controllers_do() {
    let kube = kube();
    let path = "/api/v1/namespaces/web/pods";
    let json_type = "Content-Type: application/json";
    let (status, made) = send(&kube, "POST", path, &[json_type], &pod("a", "n1").to_string()).unwrap();
    assert_eq!((status, made["metadata"]["namespace"].as_str()), (201, Some("web")));
    let (status, twice) = send(&kube, "POST", path, &[json_type], &pod("a", "n1").to_string()).unwrap();
    assert_eq!((status, &twice["reason"]), (409, &json!("AlreadyExists")));

    let merge = "Content-Type: application/merge-patch+json";
    let annotate = json!({"metadata": {"annotations": {"iam.amazonaws.com/role": "app"}}}).to_string();
    let (status, patched) =
        send(&kube, "PATCH", &format!("{path}/a?fieldManager=kubectl-annotate"), &[merge], &annotate).unwrap();
    assert_eq!((status, &patched["metadata"]["annotations"]["iam.amazonaws.com/role"]), (200, &json!("app")));
    assert_eq!(patched["metadata"]["uid"], made["metadata"]["uid"]);
    let stale = send(&kube, "PUT", &format!("{path}/a"), &[json_type], &made.to_string()).unwrap();
    assert_eq!((stale.0, &stale.1["reason"]), (409, &json!("Conflict")));
    let mut fresh = patched.clone();
    fresh["status"]["podIP"] = json!("10.0.0.1");
    assert_eq!(send(&kube, "PUT", &format!("{path}/a/status"), &[json_type], &fresh.to_string()).unwrap().0, 200);
    assert_eq!(kube.get("pod", "web", "a").unwrap()["status"]["podIP"], "10.0.0.1");
    assert_eq!(send(&kube, "PATCH", &format!("{path}/none"), &[merge], "{}").unwrap().0, 404);
    assert_eq!(
        send(&kube, "PATCH", &format!("{path}/a"), &["Content-Type: application/json-patch+json"], "[]").unwrap().0,
        415
    );

    let event = json!({
        "metadata": {"generateName": "a."}, "regarding": {"kind": "Pod", "name": "a"}, "reason": "OwnRole", "note": "refused",
    });
    let (status, event) =
        send(&kube, "POST", "/apis/events.k8s.io/v1/namespaces/web/events", &[json_type], &event.to_string()).unwrap();
    assert_eq!(status, 201);
    let (_, core) = get(&kube, "/api/v1/namespaces/web/events?fieldSelector=reason=OwnRole");
    assert_eq!(
        (&core["items"][0]["message"], &core["items"][0]["metadata"]["name"]),
        (&json!("refused"), &event["metadata"]["name"])
    );
    assert_eq!(kube.list("Event").len(), 1);

    assert_eq!(send(&kube, "DELETE", &format!("{path}/a"), &[], "").unwrap().0, 200);
    assert_eq!(get(&kube, &format!("{path}/a")).0, 404);
    assert_eq!(send(&kube, "DELETE", path, &[], "").unwrap().0, 405);
    assert!(kube.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})).is_err());
    assert!(kube.apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}})).is_err());
    assert_eq!(send(&kube, "POST", path, &[json_type], "{").unwrap().0, 400);
}

#[test]
fn tokens_are_bound_to_the_pod_that_is_there() {
    let kube = kube();
    kube.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "web"}}))
        .unwrap();
    let made = kube.apply(pod("a", "n1")).unwrap();
    let ask = |account: &str, seconds: u32, pod: &str, uid: &serde_json::Value| {
        let spec = json!({
            "audiences": ["sts.amazonaws.com"], "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid},
        });
        let path = format!("/api/v1/namespaces/web/serviceaccounts/{account}/token");
        send(&kube, "POST", &path, &["Content-Type: application/json"], &json!({"spec": spec}).to_string()).unwrap()
    };
    let uid = &made["metadata"]["uid"];
    let (status, answer) = ask("app", 600, "a", uid);
    assert_eq!((status, &answer["kind"]), (201, &json!("TokenRequest")));
    assert_eq!(ask("app", 599, "a", uid).0, 422);
    assert_eq!(ask("none", 600, "a", uid).0, 404);
    assert_eq!(ask("app", 600, "gone", uid).0, 404);
    assert_eq!(ask("app", 600, "a", &json!("replaced")).0, 409);
    kube.merge("Pod", "web", "a", &json!({"spec": {"serviceAccountName": "other"}})).unwrap();
    assert_eq!(ask("app", 600, "a", uid).0, 400);
    assert_eq!(get(&kube, "/openid/v1/jwks").1, kube.jwks());

    let sts = crate::sts::Sts::start(([127, 0, 0, 1], 0).into()).unwrap();
    sts.oidc_provider(kube.issuer(), "sts.amazonaws.com", &kube.jwks()).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    let assumed = crate::sts::tests::assume_with_token(&sts, token);
    assert_eq!(assumed.0, 200, "{}", assumed.1);
    assert!(assumed.1.contains("<SubjectFromWebIdentityToken>system:serviceaccount:web:app<"));
}
