//! The two providers of the Kubernetes API for a rig: the double, which tests control, and the real API server, which
//! assigns UIDs itself.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, User};
use crate::kube::Kube;
use crate::node::Node;
use crate::pod::{Pod, PodSpec};

/// The operations of a control plane that a rig needs.
pub trait ControlPlane {
    /// Writes the daemon's kubeconfig.
    fn kubeconfig(&self, path: &Path) -> Result<()>;
    /// Creates a namespace or sets its annotations.
    fn namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()>;
    /// Creates a service account or sets its annotations.
    fn service_account(&self, namespace: &str, name: &str, annotations: &[(&str, &str)]) -> Result<()>;
    /// Starts a pod on the node and publishes it as running, with its addresses and container ids.
    fn pod(&self, node: &Node, spec: PodSpec) -> Result<Pod>;
    /// Publishes the current state of a pod after its containers have changed.
    fn update_pod(&self, pod: &Pod) -> Result<()>;
    /// Removes a pod from the API at once.
    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()>;
}

impl ControlPlane for Kube {
    fn kubeconfig(&self, path: &Path) -> Result<()> {
        Self::kubeconfig(self, path)
    }

    fn namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        Self::namespace(self, name, annotations).map(drop)
    }

    fn service_account(&self, namespace: &str, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        let metadata = json!({"namespace": namespace, "name": name, "annotations": object(annotations)});
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).map(drop)
    }

    fn pod(&self, node: &Node, spec: PodSpec) -> Result<Pod> {
        let pod = node.pod(spec)?;
        self.update_pod(&pod)?;
        Ok(pod)
    }

    fn update_pod(&self, pod: &Pod) -> Result<()> {
        self.apply(pod.object()).map(drop)
    }

    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.delete("Pod", namespace, name)
    }
}

impl ControlPlane for Cluster {
    fn kubeconfig(&self, path: &Path) -> Result<()> {
        Self::kubeconfig(self, path, User::Podrole)
    }

    fn namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        Self::namespace(self, name, object(annotations)).map(drop)
    }

    fn service_account(&self, namespace: &str, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        Self::service_account(self, namespace, name, object(annotations)).map(drop)
    }

    /// The server assigns the UID, so the object is created first, as a scheduler leaves it. The pod is then started
    /// with that UID, and its status is written as a kubelet would.
    fn pod(&self, node: &Node, spec: PodSpec) -> Result<Pod> {
        let created = Self::pod(self, spec.scheduled(node.name()))?;
        let pod = node.pod(spec.uid(&created.uid))?;
        self.update_pod(&pod)?;
        Ok(pod)
    }

    fn update_pod(&self, pod: &Pod) -> Result<()> {
        let mut object = pod.object();
        let metadata = json!({"namespace": pod.namespace(), "name": pod.name()});
        let status = object["status"].as_object_mut().context("a pod's object has a status")?;
        // The server derives this field itself and does not allow changes to it.
        status.remove("qosClass");
        self.apply_status(json!({"kind": "Pod", "metadata": metadata, "status": status})).map(drop)
    }

    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.delete("Pod", namespace, name)
    }
}

fn object(annotations: &[(&str, &str)]) -> Value {
    Value::Object(annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>())
}
