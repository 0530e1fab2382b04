//! Operations on a cluster's objects: create, change, delete and read them as either user, and write statuses as a
//! kubelet would. All calls block, and each has a timeout.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};

use super::client::{Body, is_status};
use super::{Cluster, User};
use crate::proc;

/// An object as the API server created it.
#[derive(Debug, Clone)]
pub struct Created {
    /// The UID that the server assigned.
    pub uid: String,
    /// The whole object, including defaults.
    pub object: Value,
}

/// The kinds that the calls below support: kind, API path, plural.
const KINDS: &[(&str, &str, &str)] = &[
    ("Pod", "/api/v1", "pods"),
    ("Namespace", "/api/v1", "namespaces"),
    ("ServiceAccount", "/api/v1", "serviceaccounts"),
    ("Node", "/api/v1", "nodes"),
    ("Event", "/api/v1", "events"),
    ("ConfigMap", "/api/v1", "configmaps"),
    ("Secret", "/api/v1", "secrets"),
    ("Service", "/api/v1", "services"),
    ("DaemonSet", "/apis/apps/v1", "daemonsets"),
    ("NetworkPolicy", "/apis/networking.k8s.io/v1", "networkpolicies"),
    ("PodDisruptionBudget", "/apis/policy/v1", "poddisruptionbudgets"),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    ("Role", "/apis/rbac.authorization.k8s.io/v1", "roles"),
    ("RoleBinding", "/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
];

impl Cluster {
    /// Creates `object`, which must contain `kind`, `metadata.name` and, unless its kind is cluster-scoped,
    /// `metadata.namespace`.
    pub fn create(&self, object: Value) -> Result<Created> {
        let id = Id::of(&object)?;
        let object = self.send(User::Admin, Method::POST, &id.collection(), Body::Object(object))?;
        let uid = object["metadata"]["uid"].as_str().context("the created object has no uid")?.to_owned();
        Ok(Created { uid, object })
    }

    /// Writes `object.status` through the status subresource as a merge patch: fields that are not given stay, lists
    /// are replaced as a whole. A pod's `podIP` is set from `podIPs`.
    pub fn apply_status(&self, object: Value) -> Result<Value> {
        let id = Id::of(&object)?;
        let mut status = object["status"].clone();
        let fields = status.as_object_mut().with_context(|| format!("{id:?}: no status to write"))?;
        if let (Some(addresses), false) = (fields.get("podIPs"), fields.contains_key("podIP")) {
            // The server drops a list whose first element is not podIP.
            let first = addresses[0]["ip"].clone();
            fields.insert("podIP".to_owned(), first);
        }
        let path = format!("{}/status", id.path());
        self.send(User::Admin, Method::PATCH, &path, Body::Merge(json!({"status": status})))
    }

    /// Sets (`Some`) or removes (`None`) one annotation.
    pub fn annotate(&self, kind: &str, namespace: &str, name: &str, key: &str, value: Option<&str>) -> Result<Value> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.send(User::Admin, Method::PATCH, &Id::new(kind, namespace, name)?.path(), Body::Merge(patch))
    }

    /// Deletes an object at once, without a grace period. An object that does not exist is an error. Also finalizes
    /// namespaces, since no controller does so here; the caller must delete a namespace's contents first.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.delete_with_grace(kind, namespace, name, 0)?;
        if kind == "Namespace" {
            let path = format!("{}/finalize", Id::new(kind, namespace, name)?.path());
            let empty = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []},
            });
            self.send(User::Admin, Method::PUT, &path, Body::Object(empty))?;
        }
        Ok(())
    }

    /// Deletes with a grace period. If `seconds` is above zero, a pod is only marked and stays until
    /// [`delete`](Self::delete).
    pub fn delete_with_grace(&self, kind: &str, namespace: &str, name: &str, seconds: u32) -> Result<()> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": seconds});
        let path = Id::new(kind, namespace, name)?.path();
        self.send(User::Admin, Method::DELETE, &path, Body::Object(options)).map(drop)
    }

    /// Creates a namespace, or sets these annotations on an existing one. `annotations` is an object of strings.
    pub fn namespace(&self, name: &str, annotations: Value) -> Result<Created> {
        let metadata = json!({"name": name, "annotations": annotations});
        self.ensure(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    }

    /// Creates a service account, or sets these annotations on an existing one.
    pub fn service_account(&self, namespace: &str, name: &str, annotations: Value) -> Result<Created> {
        let metadata = json!({"name": name, "namespace": namespace, "annotations": annotations});
        self.ensure(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
    }

    /// Creates a pod on the node `spec.nodeName` and writes its `status`, if given, as the kubelet would.
    ///
    /// Defaults: namespace `default`, service account `default` (created if it does not exist), one container `main`,
    /// image `none`.
    pub fn pod(&self, mut pod: Value) -> Result<Created> {
        if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
            bail!("a pod needs spec.nodeName: there is no scheduler");
        }
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        fill(&mut pod["metadata"]["namespace"], json!("default"));
        fill(&mut pod["spec"]["serviceAccountName"], json!("default"));
        fill(&mut pod["spec"]["containers"], json!([{"name": "main"}]));
        for list in ["containers", "initContainers"] {
            for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                fill(&mut container["image"], json!("none"));
            }
        }
        let status = pod.as_object_mut().and_then(|fields| fields.remove("status"));
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().to_owned();
        self.service_account(&namespace, &account, json!({}))?;

        let created = self.create(pod)?;
        let Some(status) = status else { return Ok(created) };
        let metadata = json!({"namespace": namespace, "name": created.object["metadata"]["name"]});
        let object = self.apply_status(json!({"kind": "Pod", "metadata": metadata, "status": status}))?;
        Ok(Created { object, ..created })
    }

    /// Reads one object as `user`.
    pub fn get(&self, user: User, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        self.send(user, Method::GET, &Id::new(kind, namespace, name)?.path(), Body::None)
    }

    /// Lists objects as `user`. An empty namespace means all namespaces. `query` is a raw query string, such as
    /// `fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0`, or empty.
    pub fn list(&self, user: User, kind: &str, namespace: &str, query: &str) -> Result<Value> {
        let path = Id::new(kind, namespace, "")?.collection();
        let separator = if query.is_empty() { "" } else { "?" };
        self.send(user, Method::GET, &format!("{path}{separator}{query}"), Body::None)
    }

    /// Reads any path as the administrator: `/metrics`, `/openid/v1/jwks`, `/version`. A response that is not JSON
    /// becomes a string.
    pub fn raw(&self, path: &str) -> Result<Value> {
        self.send(User::Admin, Method::GET, path, Body::None)
    }

    /// Requests a service account token bound to the pod (name, UID), as the web identity source does.
    pub fn token_request(&self, namespace: &str, account: &str, audience: &str, pod: (&str, &str)) -> Result<String> {
        let (name, uid) = pod;
        let path = format!("{}/token", Id::new("ServiceAccount", namespace, account)?.path());
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience],
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
            },
        });
        let answer = self.send(User::Admin, Method::POST, &path, Body::Object(request))?;
        Ok(answer["status"]["token"].as_str().context("the answer has no token")?.to_owned())
    }

    /// Gives the `podrole` user a ClusterRole called `name` with these `rules`. Replaces the rules of an existing one.
    pub fn grant(&self, name: &str, rules: Value) -> Result<()> {
        let api = "rbac.authorization.k8s.io";
        let version = format!("{api}/v1");
        let metadata = json!({"name": name});
        self.ensure(json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules}))?;
        self.ensure(json!({
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": api, "kind": "User", "name": User::Podrole.name()}],
        }))?;
        Ok(())
    }

    /// Waits for the `default` namespace, which the server creates shortly after it reports ready.
    pub(super) fn await_default_namespace(&self, bound: Duration) -> Result<()> {
        let made =
            proc::until("the default namespace", bound, || match self.get(User::Admin, "Namespace", "", "default") {
                Ok(_) => Ok(Some(())),
                Err(error) if is_status(&error, 404) => Ok(None),
                Err(error) => Err(error),
            });
        made.with_context(|| self.log_tail())
    }

    /// Creates `object`, or merges it into the existing object of that name.
    fn ensure(&self, object: Value) -> Result<Created> {
        match self.create(object.clone()) {
            Ok(created) => Ok(created),
            Err(error) if is_status(&error, 409) => {
                let path = Id::of(&object)?.path();
                let object = self.send(User::Admin, Method::PATCH, &path, Body::Merge(object))?;
                let uid = object["metadata"]["uid"].as_str().context("the object has no uid")?.to_owned();
                Ok(Created { uid, object })
            }
            Err(error) => Err(error),
        }
    }

    fn send(&self, user: User, method: Method, path: &str, body: Body) -> Result<Value> {
        let (session, path) = (self.session(user).clone(), path.to_owned());
        self.runtime.run(async move { session.send(method, &path, body).await })
    }
}

/// Sets `field` unless it already has a value.
fn fill(field: &mut Value, value: Value) {
    if field.is_null() {
        *field = value;
    }
}

/// Identifies an object.
#[derive(Debug)]
struct Id<'a> {
    api: &'static str,
    plural: &'static str,
    /// Empty for a cluster-scoped object.
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Id<'a> {
    fn new(kind: &str, namespace: &'a str, name: &'a str) -> Result<Self> {
        let Some((_, api, plural)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
            bail!("kind {kind:?} is not supported by the lab; add it to KINDS");
        };
        Ok(Self { api, plural, namespace, name })
    }

    fn of(object: &'a Value) -> Result<Self> {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        let metadata = &object["metadata"];
        Self::new(text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
    }

    fn collection(&self) -> String {
        let Self { api, plural, namespace, .. } = self;
        if namespace.is_empty() { format!("{api}/{plural}") } else { format!("{api}/namespaces/{namespace}/{plural}") }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let pod = json!({"kind": "Pod", "metadata": {"namespace": "a", "name": "b"}});
        assert_eq!(Id::of(&pod).unwrap().path(), "/api/v1/namespaces/a/pods/b");
        assert_eq!(Id::new("Pod", "", "").unwrap().collection(), "/api/v1/pods");
        assert_eq!(Id::new("Namespace", "", "a").unwrap().path(), "/api/v1/namespaces/a");
        let role = Id::new("ClusterRole", "", "r").unwrap();
        assert_eq!(role.path(), "/apis/rbac.authorization.k8s.io/v1/clusterroles/r");
        assert!(Id::new("Widget", "", "").is_err());
    }
}
