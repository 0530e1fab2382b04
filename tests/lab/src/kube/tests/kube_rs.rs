//! Tests with podrole's own client: kube-rs watchers, with both list strategies, under the double's faults.

use std::pin::pin;
use std::time::Duration;

use ::kube::api::{Api, Patch, PatchParams, PostParams};
use ::kube::core::PartialObjectMeta;
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Client, Config, ResourceExt};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::client::pod;
use super::{Value, json};
use crate::kube::Kube;

const LONG: Duration = Duration::from_secs(30);

fn run(test: impl AsyncFnOnce(&Kube, Client)) {
    // Another test in this process may already have installed the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kube = super::kube();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let client = Client::try_from(Config::new(kube.endpoint().parse().unwrap())).unwrap();
        tokio::time::timeout(LONG, test(&kube, client)).await.expect("the test hangs");
    });
}

/// Reads until an object of this name is applied. Returns how many lists began and how many errors occurred meanwhile.
async fn until<K: ResourceExt>(
    stream: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
    name: &str,
) -> (u32, u32) {
    let (mut lists, mut errors) = (0, 0);
    loop {
        match stream.next().await.expect("watchers do not end") {
            Ok(Event::Init) => lists += 1,
            Ok(Event::Apply(object) | Event::InitApply(object)) if object.name_any() == name => return (lists, errors),
            Ok(Event::Apply(_) | Event::InitApply(_) | Event::InitDone | Event::Delete(_)) => {}
            Err(_) => errors += 1,
        }
    }
}

fn survives_every_fault(config: watcher::Config, streaming: bool) {
    run(async |kube, client| {
        kube.apply(pod("first", "n1")).unwrap();
        kube.apply(pod("elsewhere", "n2")).unwrap();
        let pods: Api<Pod> = Api::all(client);
        let mut stream = pin!(watcher(pods, config.fields("spec.nodeName=n1")));
        assert_eq!(until(&mut stream, "first").await, (1, 0));
        kube.apply(pod("live", "n1")).unwrap();
        assert_eq!(until(&mut stream, "live").await, (0, 0));
        kube.cut();
        kube.apply(pod("after-cut", "n1")).unwrap();
        assert_eq!(until(&mut stream, "after-cut").await.0, 0, "resumed from its version, without a list");
        kube.bad_bytes();
        kube.apply(pod("after-bad-bytes", "n1")).unwrap();
        assert_ne!(until(&mut stream, "after-bad-bytes").await.1, 0);
        kube.gone();
        kube.cut();
        kube.apply(pod("after-gone", "n1")).unwrap();
        assert_eq!(until(&mut stream, "after-gone").await.0, 1, "410 means a new list");
        kube.down(true).unwrap();
        kube.apply(pod("after-down", "n1")).unwrap();
        kube.down(false).unwrap();
        until(&mut stream, "after-down").await;
        let mut recreated = pod("first", "n1");
        recreated["metadata"]["uid"] = json!("another");
        kube.apply(recreated).unwrap();
        until(&mut stream, "first").await;
        let streamed = kube.requests().iter().filter(|request| request.path.contains("sendInitialEvents=true")).count();
        let listed = kube.requests().iter().filter(|request| !request.is_watch()).count();
        assert_eq!((streamed > 0, listed > 0), (streaming, !streaming));
    });
}

#[test]
fn a_listing_watcher_survives_every_fault() {
    survives_every_fault(watcher::Config::default(), false);
}

#[test]
fn a_streaming_watcher_survives_every_fault() {
    survives_every_fault(watcher::Config::default().streaming_lists(), true);
}

#[test]
fn a_metadata_watcher_gets_metadata_only() {
    run(async |kube, client| {
        kube.namespace("web", &[("iam.amazonaws.com/permitted", "app-.*")]).unwrap();
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client);
        let mut stream = pin!(watcher(namespaces, watcher::Config::default().streaming_lists()));
        until(&mut stream, "web").await;
        kube.annotate("Namespace", "", "web", "seen", Some("yes")).unwrap();
        until(&mut stream, "web").await;
        assert!(kube.requests().iter().all(|request| request.accept.contains("as=PartialObjectMetadata")));
    });
}

#[test]
fn kube_rs_reads_and_writes() {
    run(async |kube, client| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "web");
        let made: Pod = serde_json::from_value(pod("a", "n1")).unwrap();
        pods.create(&PostParams::default(), &made).await.unwrap();
        let change: Value = json!({"metadata": {"annotations": {"k": "v"}}});
        pods.patch("a", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
        let seen = pods.list(&Default::default()).await.unwrap();
        assert_eq!(seen.items[0].annotations()["k"], "v");
        assert!(matches!(pods.get("b").await, Err(::kube::Error::Api(status)) if status.code == 404));
        kube.unauthorized(true);
        assert!(matches!(pods.get("a").await, Err(::kube::Error::Api(status)) if status.code == 401));
        kube.unauthorized(false);
        assert_eq!(client.apiserver_version().await.unwrap().major, "1");
        pods.delete("a", &Default::default()).await.unwrap();
        assert!(kube.list("pods").is_empty());
    });
}
