//! The pod as a Kubernetes API object.

use serde_json::{Value, json};

use super::{Container, ContainerKind, Pod, PodSpec};

impl Pod {
    /// The v1 Pod, running, with addresses and container ids. Tests edit the value as needed.
    pub fn object(&self) -> Value {
        let mut object = self.object_without_ips();
        object["status"]["podIP"] = json!(self.v4.to_string());
        object["status"]["podIPs"] = json!([{ "ip": self.v4.to_string() }, { "ip": self.v6.to_string() }]);
        object
    }

    /// The v1 Pod before the kubelet has reported its addresses.
    pub fn object_without_ips(&self) -> Value {
        let mut object = self.object_without_statuses();
        let all = self.containers();
        object["status"]["phase"] = json!("Running");
        for (key, kind) in [
            ("initContainerStatuses", ContainerKind::Init),
            ("containerStatuses", ContainerKind::App),
            ("ephemeralContainerStatuses", ContainerKind::Ephemeral),
        ] {
            let statuses: Vec<Value> = all.iter().filter(|container| container.kind == kind).map(status).collect();
            if !statuses.is_empty() {
                object["status"][key] = Value::Array(statuses);
            }
        }
        object
    }

    /// The v1 Pod just after scheduling, without addresses and container ids.
    pub fn object_without_statuses(&self) -> Value {
        let containers: Vec<_> =
            self.containers().into_iter().map(|container| (container.name, container.kind)).collect();
        let mut object = self.spec.render(self.node.name(), &containers);
        object["metadata"]["uid"] = json!(self.uid);
        object["metadata"]["creationTimestamp"] = json!(CREATED);
        object
    }
}

impl PodSpec {
    /// The v1 Pod as scheduled to `node`, for a server that assigns its UID and QoS class.
    pub fn scheduled(&self, node: &str) -> Value {
        let mut object = self.render(node, &self.containers);
        object["status"] = json!({ "phase": "Pending" });
        object
    }

    fn render(&self, node: &str, containers: &[(String, ContainerKind)]) -> Value {
        let named = |wanted| -> Vec<Value> {
            let chosen = containers.iter().filter(|(_, kind)| *kind == wanted);
            chosen.map(|(name, _)| json!({ "name": name, "image": IMAGE })).collect()
        };
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": {
                "nodeName": node,
                "serviceAccountName": self.service_account,
                "restartPolicy": "Always",
                "containers": named(ContainerKind::App),
            },
            "status": { "phase": "Pending", "qosClass": self.qos.class() },
        });
        for (key, kind) in [("initContainers", ContainerKind::Init), ("ephemeralContainers", ContainerKind::Ephemeral)]
        {
            let containers = named(kind);
            if !containers.is_empty() {
                object["spec"][key] = Value::Array(containers);
            }
        }
        if self.host_network {
            object["spec"]["hostNetwork"] = json!(true);
        }
        object
    }
}

const IMAGE: &str = "registry.example/app:1";
const CREATED: &str = "2025-01-01T00:00:00Z";

fn status(container: &Container) -> Value {
    json!({
        "name": container.name,
        "image": IMAGE,
        "imageID": "registry.example/app@sha256:0",
        "containerID": format!("containerd://{}", container.id),
        "ready": true,
        "started": true,
        "restartCount": container.restarts,
        "state": { "running": { "startedAt": CREATED } },
    })
}
