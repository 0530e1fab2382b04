//! The Kubernetes watches that update the store: this node's pods, and the metadata of namespaces and service accounts.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::watcher::{self, Event, InitialListStrategy, ListSemantic};
use kube::{Api, Client, Resource};
use serde::Deserialize;
use tracing::{debug, info, warn};

use super::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry, service_account_entry};
use super::index::{Index, PodChange};
use super::store::Store;
use crate::backoff::Backoff;
use crate::clock::{Clock as _, SystemClock};
use crate::metrics::{Metrics, Watch};
use crate::readiness::BlockReady;
use crate::types::causes;

/// A watch connection is abandoned after this time without data. The API server ends every watch by then, so the connection must be
/// dead. Stale data only delays new pods; it never gives a pod the identity of another.
const WATCH_TIMEOUT_SECONDS: u32 = 60;
/// The pause between attempts to restart a watch.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// The readiness guards, one for each watch. A watch drops its guard when its first list is complete.
#[derive(Debug)]
pub struct FirstLists {
    /// The guard of the watch of pods.
    pub pods: BlockReady,
    /// The guard of the watch of namespaces.
    pub namespaces: BlockReady,
    /// The guard of the watch of service accounts; `None` if they are not a source of roles and therefore not watched.
    pub service_accounts: Option<BlockReady>,
}

/// Runs all watches until the process ends. Each drops its guard when its first list is in the store. `node` selects pods by their
/// `spec.nodeName`.
///
/// `jitter` is a number in `0..1`, drawn once per process, that spreads the retries of thousands of nodes.
pub async fn run(
    client: Client,
    node: Arc<str>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    first: FirstLists,
    jitter: f64,
) {
    let context = |watch| Context { store: store.clone(), metrics: metrics.clone(), watch, jitter };
    let node_pods = cached_lists().fields(&format!("spec.nodeName={}", node));
    let pods =
        feed(kube::runtime::watcher(Api::<SlimPod>::all(client.clone()), node_pods), context(Watch::Pods), first.pods);
    let namespaces = feed(
        kube::runtime::watcher(Api::<Metadata<NamespaceKind>>::all(client.clone()), cached_lists()),
        context(Watch::Namespaces),
        first.namespaces,
    );
    let accounts = async {
        if let Some(ready) = first.service_accounts {
            let api = Api::<Metadata<ServiceAccountKind>>::all(client);
            let stream = kube::runtime::watcher(api, cached_lists());
            feed(stream, context(Watch::ServiceAccounts), ready).await;
        }
    };
    tokio::join!(pods, namespaces, accounts);
}

/// Lists come from the API server's cache (`resourceVersion=0`, one page). With a page size the API server would read from etcd, and
/// all nodes of a large cluster may list at the same time.
fn cached_lists() -> watcher::Config {
    watcher::Config {
        list_semantic: ListSemantic::Any,
        initial_list_strategy: InitialListStrategy::ListWatch,
        page_size: None,
        ..watcher::Config::default()
    }
    .timeout(WATCH_TIMEOUT_SECONDS)
}

struct Context {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    watch: Watch,
    jitter: f64,
}

/// A kind of object that updates the index.
trait Indexed: Sized {
    type Entry;
    /// The entry of this object; `None` if the object lacks a field that every entry needs.
    fn entry(&self) -> Option<Self::Entry>;
    fn apply(index: &mut Index, entry: Self::Entry) -> Vec<PodChange>;
    fn delete(index: &mut Index, entry: Self::Entry) -> Vec<PodChange>;
    fn reset(index: &mut Index, entries: Vec<Self::Entry>) -> Vec<PodChange>;
}

async fn feed<K>(stream: impl Stream<Item = Result<Event<K>, watcher::Error>>, context: Context, ready: BlockReady)
where
    K: Indexed + Resource + Debug,
{
    let Context { store, metrics, watch, jitter } = context;
    pin_mut!(stream);
    let mut ready = Some(ready);
    let mut relist = Vec::new();
    let mut failures = 0;
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                metrics.watch_error(watch);
                failures += 1;
                let pause = RETRY.pause(failures);
                warn!(watch = watch.name(), error = %causes(&error), retry_in = ?pause, "Watch interrupted; retrying");
                tokio::time::sleep(RETRY.spread(failures, jitter)).await;
                continue;
            }
        };
        metrics.watch_event(watch, SystemClock.boot());
        match event {
            // This event does not reset the backoff, because it precedes every list, including those that the API server rejects.
            Event::Init => {
                relist.clear();
                continue;
            }
            Event::InitApply(object) => relist.extend(entry(&object, watch)),
            Event::InitDone => {
                let entries = std::mem::take(&mut relist);
                info!(
                    watch = watch.name(),
                    objects = entries.len(),
                    "Received a complete list; replacing the objects of this kind in the index"
                );
                store.update(|index| K::reset(index, entries));
                // The guard is dropped after the update, because before the update an object that is missing from the index
                // looks as if it did not exist.
                drop(ready.take());
            }
            Event::Apply(object) => {
                if let Some(entry) = entry(&object, watch) {
                    store.update(|index| K::apply(index, entry));
                }
            }
            Event::Delete(object) => {
                if let Some(entry) = entry(&object, watch) {
                    store.update(|index| K::delete(index, entry));
                }
            }
        }
        failures = 0;
    }
}

fn entry<K: Indexed + Resource>(object: &K, watch: Watch) -> Option<K::Entry> {
    let entry = object.entry();
    if entry.is_none() {
        debug!(watch = watch.name(), object = ?object.meta().name, "Skipping an object without a name or a valid UID");
    }
    entry
}

// === kinds ===

/// An object of kind `K`, requested as `PartialObjectMetadata`.
#[derive(Deserialize)]
#[serde(transparent, bound = "")]
pub struct Metadata<K> {
    object: SlimMeta,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<K> Clone for Metadata<K> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), kind: PhantomData }
    }
}

impl<K> Debug for Metadata<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.object.metadata.name)
    }
}

/// The kind Namespace.
pub enum NamespaceKind {}
/// The kind ServiceAccount.
pub enum ServiceAccountKind {}

macro_rules! core_resource {
    ($type:ty, $scope:ty, $kind:literal, $plural:literal, $($field:ident).+, metadata_only = $metadata_only:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }
            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn metadata_api() -> bool {
                $metadata_only
            }
            fn meta(&self) -> &ObjectMeta {
                &self.$($field).+
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.$($field).+
            }
        }
    };
}

core_resource!(SlimPod, NamespaceResourceScope, "Pod", "pods", metadata, metadata_only = false);
core_resource!(
    Metadata<NamespaceKind>,
    ClusterResourceScope,
    "Namespace",
    "namespaces",
    object.metadata,
    metadata_only = true
);
core_resource!(
    Metadata<ServiceAccountKind>,
    NamespaceResourceScope,
    "ServiceAccount",
    "serviceaccounts",
    object.metadata,
    metadata_only = true
);

impl Indexed for SlimPod {
    type Entry = crate::types::PodEntry;

    fn entry(&self) -> Option<Self::Entry> {
        pod_entry(self)
    }
    fn apply(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.apply_pod(entry)
    }
    fn delete(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.delete_pod(&entry.uid)
    }
    fn reset(index: &mut Index, entries: Vec<Self::Entry>) -> Vec<PodChange> {
        index.reset_pods(entries)
    }
}

impl Indexed for Metadata<NamespaceKind> {
    type Entry = crate::types::NamespaceEntry;

    fn entry(&self) -> Option<Self::Entry> {
        namespace_entry(&self.object)
    }
    fn apply(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.apply_namespace(entry)
    }
    fn delete(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.delete_namespace(&entry.name)
    }
    fn reset(index: &mut Index, entries: Vec<Self::Entry>) -> Vec<PodChange> {
        index.reset_namespaces(entries)
    }
}

impl Indexed for Metadata<ServiceAccountKind> {
    type Entry = crate::types::ServiceAccountEntry;

    fn entry(&self) -> Option<Self::Entry> {
        service_account_entry(&self.object)
    }
    fn apply(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.apply_service_account(entry)
    }
    fn delete(index: &mut Index, entry: Self::Entry) -> Vec<PodChange> {
        index.delete_service_account(&entry.namespace, &entry.name)
    }
    fn reset(index: &mut Index, entries: Vec<Self::Entry>) -> Vec<PodChange> {
        index.reset_service_accounts(entries)
    }
}
