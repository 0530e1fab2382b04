//! Removes the startup taint from this node once the daemon is ready. Until then the taint keeps pods off the node.
//!
//! The system that creates the node, such as a node group or Karpenter with its startupTaints, sets the taint; podrole never adds
//! one. It removes the taint once per start: a taint that appears later was set on purpose.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, header};
use kube::Client;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::readiness::Readiness;

/// The interval between two checks of readiness. A node needs about a minute to start, so a fraction of a second does not matter.
const POLL: Duration = Duration::from_millis(500);
/// The pause between attempts to remove the taint.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Waits until the daemon is ready, then removes every taint of `node` whose key is `key`. Returns when no such taint is left.
pub async fn remove_when_ready(client: Client, node: Arc<str>, key: Arc<str>, readiness: Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(POLL).await;
    }
    let mut failures = 0;
    loop {
        match remove(&client, &node, &key).await {
            Ok(true) => return info!(taint = %key, "Removed the startup taint; pods can be scheduled to this node"),
            Ok(false) => return info!(taint = %key, "This node does not have the startup taint; nothing to remove"),
            Err(error) => {
                failures += 1;
                let pause = RETRY.pause(failures);
                warn!(taint = %key, error = %format_args!("{error:#}"), retry_in = ?pause, "Cannot remove the startup taint; retrying");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn remove(client: &Client, node: &str, key: &str) -> anyhow::Result<bool> {
    let path = format!("/api/v1/nodes/{node}");
    let request = Request::get(&path).body(Vec::new())?;
    let object: Value = client.request(request).await.with_context(|| format!("cannot read node {node}"))?;
    let Some(patch) = removal(&object["spec"]["taints"], key) else { return Ok(false) };
    let request = Request::patch(&path).header(header::CONTENT_TYPE, "application/json-patch+json");
    let request = request.body(serde_json::to_vec(&patch)?)?;
    let _: Value = client.request(request).await.with_context(|| format!("cannot patch node {node}"))?;
    Ok(true)
}

/// The JSON patch that removes `key` from `taints` and fails if the taints have changed meanwhile; `None` if `key` is not among them.
fn removal(taints: &Value, key: &str) -> Option<Value> {
    let all = taints.as_array()?;
    let rest: Vec<&Value> = all.iter().filter(|taint| taint["key"] != key).collect();
    if rest.len() == all.len() {
        return None;
    }
    Some(json!([
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": rest},
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_taint_goes() {
        let (ours, other) = (json!({"key": "a", "effect": "NoSchedule"}), json!({"key": "b", "effect": "NoExecute"}));
        let twice = json!([ours, other, {"key": "a", "effect": "NoExecute"}]);
        let patch = removal(&twice, "a").unwrap();
        assert_eq!((&patch[0]["value"], &patch[1]["value"]), (&twice, &json!([other])));
        for without in [json!([other]), json!([]), Value::Null] {
            assert_eq!(removal(&without, "a"), None, "{without}");
        }
    }
}
