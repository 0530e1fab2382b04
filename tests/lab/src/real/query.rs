//! Queries of a real node: the state of pods and the logs of their containers.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::RealNode;
use crate::cluster::User;
use crate::proc;

impl RealNode {
    /// A pod's API object.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Value> {
        self.cluster.get(User::Admin, "Pod", namespace, name)
    }

    /// All pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Result<Vec<Value>> {
        let list = self.cluster.list(User::Admin, "Pod", namespace, "")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until `wanted` accepts the pods of a namespace, and returns them. The error contains their state.
    pub fn until_pods(
        &self,
        what: &str,
        namespace: &str,
        timeout: Duration,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        let found = proc::until(what, timeout, || {
            let pods = self.pods(namespace)?;
            if wanted(&pods) {
                return Ok(Some(pods));
            }
            // Poll less often than usual, because each query lists all pods.
            std::thread::sleep(Duration::from_millis(45));
            Ok(None)
        });
        found.with_context(|| self.report(namespace))
    }

    /// Everything that a container of a pod has logged, including before restarts.
    pub fn container_log(&self, pod: &Value, container: &str) -> Result<String> {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let name = format!("{}_{}_{}", text("namespace"), text("name"), text("uid"));
        let dir = self.root.join("logs").join(name).join(container);
        let mut files: Vec<_> = match fs::read_dir(&dir) {
            Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
            // The container has not started yet.
            Err(_) => return Ok(String::new()),
        };
        files.sort();
        let mut text = String::new();
        for file in files {
            let raw = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            for line in raw.lines() {
                // A line is `TIME STREAM F|P TEXT`; P marks a part of a longer line.
                let mut parts = line.splitn(4, ' ');
                let (_, _, whole, rest) = (parts.next(), parts.next(), parts.next(), parts.next().unwrap_or_default());
                text.push_str(rest);
                if whole == Some("F") {
                    text.push('\n');
                }
            }
        }
        Ok(text)
    }

    /// The state and logs of the pods of a namespace, for the report of a failed test.
    pub fn report(&self, namespace: &str) -> String {
        let mut text = String::new();
        for pod in self.pods(namespace).unwrap_or_default() {
            text.push_str(&format!("pod {}: {:#}\n", pod["metadata"]["name"], pod["status"]));
            for kind in ["initContainers", "containers"] {
                for container in pod["spec"][kind].as_array().into_iter().flatten() {
                    let name = container["name"].as_str().unwrap_or_default();
                    let log = self.container_log(&pod, name).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                    text.push_str(&format!("--- log of {name} ---\n{tail}\n"));
                }
            }
        }
        let agent = self.agent.log().unwrap_or_default();
        let lines: Vec<&str> = agent.lines().collect();
        text.push_str(&format!("--- log of the agent ---\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n")));
        text
    }

    /// The state of a pod's container, from the pod's status.
    pub fn container_state(pod: &Value, container: &str) -> Result<Value> {
        for list in ["containerStatuses", "initContainerStatuses"] {
            for status in pod["status"][list].as_array().into_iter().flatten() {
                if status["name"] == container {
                    return Ok(status.clone());
                }
            }
        }
        bail!("pod {} has no status of a container {container}", pod["metadata"]["name"])
    }

    /// Whether a pod's condition `Ready` is true.
    pub fn is_ready(pod: &Value) -> bool {
        pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    /// Whether a pod has ended, successfully or not.
    pub fn is_finished(pod: &Value) -> bool {
        ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
    }
}
