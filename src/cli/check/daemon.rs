//! Checks the daemon on this node through the daemon's admin endpoint.

use http::Uri;

use crate::config::Config;
use crate::upstream::UpstreamError;
use crate::upstream::client::Client;

use super::table::Check;
use super::{Findings, Outcome};

pub(super) async fn check_daemon(config: &Config, findings: &Findings) {
    let endpoint = Uri::builder().scheme("http").authority(config.admin_addr.to_string()).path_and_query("/").build();
    let endpoint = endpoint.unwrap_or_default();
    let (status, body) = match Client::new(&endpoint).text("/readyz?verbose").await {
        Ok(answer) => answer,
        Err(error) => {
            let reason = match error {
                UpstreamError::Unreachable { reason, .. } => reason,
                other @ (UpstreamError::ForeignCloud(_) | UpstreamError::Status { .. }) => other.to_string(),
            };
            findings.put(Check::Admin, Outcome::failed(format!("no answer at {}: {reason}", config.admin_addr)));
            return findings.skip(&[Check::Ready], "podrole is not running here (PR-D01)");
        }
    };
    if status != 200 && status != 503 {
        let found = format!("{} answers /readyz with {status}, so it is not podrole", config.admin_addr);
        findings.put(Check::Admin, Outcome::failed(found));
        return findings.skip(&[Check::Ready], "podrole is not running here (PR-D01)");
    }
    findings.put(Check::Admin, Outcome::ok(format!("podrole answers at {}", config.admin_addr)));
    findings.put(Check::Ready, if status == 200 { Outcome::ok("ready") } else { Outcome::failed(pending(&body)) });
}

fn pending(body: &str) -> String {
    let waits: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("[-] ")).collect();
    format!("not ready; waiting for: {}", waits.join(", "))
}
