//! Checks the node's metadata service and STS, with the daemon's own clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Platform};
use crate::issuer::sts::{CallerIdentity, Settings, Sts};
use crate::issuer::{Code, IssueError, StsCall};
use crate::types::SessionName;
use crate::upstream::UpstreamError;
use crate::upstream::client::Client;

use super::table::Check;
use super::{Findings, Outcome};

/// The largest difference between the node's clock and STS's clock that passes the check. STS rejects signatures that are five
/// minutes off.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// The checks that need an answer from STS.
const STS: [Check; 4] = [Check::StsReachable, Check::BaseCredentials, Check::FirstHop, Check::ClockSkew];

/// Calls to STS, each with the time at which the call ended, by the node's clock.
type Calls = Arc<Mutex<Vec<(StsCall, SystemTime)>>>;

pub(super) async fn check_aws(config: &Config, findings: &Findings) {
    let client = Client::new(&config.metadata_endpoint);
    let cloud = client.foreign_cloud().await;
    let region = match (cloud, config.platform) {
        (Some(cloud), _) => {
            findings.put(Check::ForeignCloud, Outcome::failed(UpstreamError::ForeignCloud(cloud).to_string()));
            findings.skip(&[Check::Metadata, Check::ImdsV1], "the metadata service is another cloud's (PR-A02)");
            config.region.clone()
        }
        (None, Platform::None) => {
            findings.put(Check::ForeignCloud, Outcome::ok("no metadata service of another cloud answers"));
            findings.skip(&[Check::Metadata, Check::ImdsV1], "not used with --platform=none");
            config.region.clone()
        }
        (None, Platform::Ec2) => check_metadata(config, &client, findings).await,
    };
    match region {
        Some(region) => check_sts(config, region, findings).await,
        None => findings.skip(&STS, "the region is unknown (PR-A01)"),
    }
}

/// Checks EC2's metadata service. Returns the region that the daemon would use.
async fn check_metadata(config: &Config, client: &Client, findings: &Findings) -> Option<Arc<str>> {
    let (facts, without_token) = tokio::join!(client.facts(), client.answers_without_token());
    let facts = match facts {
        Ok(node) => node.facts,
        Err(error) => {
            findings.put(Check::Metadata, Outcome::failed(error.to_string()));
            findings.skip(&[Check::ForeignCloud, Check::ImdsV1], "the metadata service does not answer (PR-A01)");
            return config.region.clone();
        }
    };
    findings.put(Check::ForeignCloud, Outcome::ok("the metadata service is EC2's"));
    findings.put(
        Check::ImdsV1,
        match without_token {
            Ok(false) => Outcome::ok("requests without a token are rejected"),
            Ok(true) => Outcome::failed("it answers requests without a session token (IMDSv1)"),
            Err(error) => Outcome::skipped(error.to_string()),
        },
    );
    let region = config.region.clone().or(facts.region);
    findings.put(
        Check::Metadata,
        match &region {
            Some(region) => Outcome::ok(format!("region {region}")),
            None => Outcome::failed("it answers but does not know the region").fix("set --region"),
        },
    );
    region
}

async fn check_sts(config: &Config, region: Arc<str>, findings: &Findings) {
    let calls = Calls::default();
    match sts(config, region, calls.clone()).await {
        Err(why) => {
            findings.put(Check::StsReachable, Outcome::failed(why));
            findings.skip(&STS[1..], "STS could not be called (PR-A04)");
        }
        Ok(sts) => {
            let result = sts.caller_identities().await;
            let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
            report_identities(config, &result, &calls, findings);
            findings.put(Check::ClockSkew, clock_skew(&calls));
        }
    }
}

/// The identity of the signing role and, with a first hop, that of the base credentials.
type Identities = Result<(CallerIdentity, Option<CallerIdentity>), IssueError>;

/// A client for STS with the daemon's settings, which adds its calls to `calls`.
async fn sts(config: &Config, region: Arc<str>, calls: Calls) -> Result<Sts<SystemClock>, String> {
    let ca_bundle = config.ca_bundle.as_ref().map(|path| {
        std::fs::read(path).map_err(|error| format!("cannot read AWS_CA_BUNDLE {}: {error}", path.display()))
    });
    let settings = Settings {
        region,
        first_hop: config.policy.assume_role.clone(),
        node_session: SessionName::of_node(&config.node),
        ca_bundle: ca_bundle.transpose()?,
    };
    let on_call = Arc::new(move |call: &StsCall| {
        calls.lock().unwrap_or_else(PoisonError::into_inner).push((call.clone(), SystemClock.wall()));
    });
    Sts::new(settings, SystemClock, on_call).await.map_err(|error| error.to_string())
}

/// Records the results of the checks of the base credentials and the first hop.
fn report_identities(config: &Config, result: &Identities, calls: &[(StsCall, SystemTime)], findings: &Findings) {
    let answered = || Outcome::ok("it answers");
    let no_hop = || Outcome::skipped("not used without --assume-role-arn");
    let error = match result {
        Ok((signer, own)) => {
            findings.put(Check::StsReachable, answered());
            findings.put(Check::BaseCredentials, describe(own.as_ref().unwrap_or(signer)));
            findings.put(Check::FirstHop, own.as_ref().map_or_else(no_hop, |_| describe(signer)));
            return;
        }
        Err(error) => error,
    };
    // The first GetCallerIdentity is signed with the base credentials. If that call succeeded, the first hop failed, and
    // an error of STS comes from the AssumeRole call of the first hop.
    let own_is_known = calls.iter().any(|(call, _)| call.action == "GetCallerIdentity" && call.result.is_ok());
    if let Some(hop) = config.policy.assume_role.as_ref().filter(|_| own_is_known) {
        let denied =
            calls.iter().find(|(call, _)| call.action == "AssumeRole").and_then(|(call, _)| call.result.as_ref().err());
        let error = denied.map_or_else(|| error.clone(), |code| IssueError::from_code(*code));
        findings.put(Check::StsReachable, answered());
        findings.put(Check::BaseCredentials, Outcome::ok("STS accepts them"));
        return findings.put(Check::FirstHop, Outcome::failed(format!("{hop}: {error}")));
    }
    let why = Outcome::failed(error.to_string());
    let (reachable, base) = match error {
        IssueError::Base { code: Code::NoCredentials, .. } => {
            (Outcome::skipped("there are no credentials to sign with (PR-A05)"), why)
        }
        IssueError::Denied { code: Code::RegionDisabled, .. }
        | IssueError::Throttled { .. }
        | IssueError::Unavailable { .. } => (why, Outcome::skipped("STS gave no answer about them (PR-A04)")),
        IssueError::Base { .. } | IssueError::Denied { .. } => (answered(), why),
    };
    findings.put(Check::StsReachable, reachable);
    findings.put(Check::BaseCredentials, base);
    let hop = if config.policy.assume_role.is_none() {
        no_hop()
    } else {
        Outcome::skipped("it needs valid base credentials (PR-A05)")
    };
    findings.put(Check::FirstHop, hop);
}

fn describe(identity: &CallerIdentity) -> Outcome {
    match &identity.role {
        Some(role) => Outcome::ok(role.to_string()),
        None => Outcome::ok(format!("account {}, not a role", identity.account)),
    }
}

fn clock_skew(calls: &[(StsCall, SystemTime)]) -> Outcome {
    let told = calls.iter().rev().find_map(|(call, ours)| Some((call.server_now?, *ours)));
    let Some((theirs, ours)) = told else {
        return Outcome::skipped("STS did not report its time");
    };
    let (apart, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if apart > MAX_SKEW {
        Outcome::failed(format!("the node's clock is {} s {word} STS's", apart.as_secs()))
    } else {
        Outcome::ok(format!("{} s apart", apart.as_secs()))
    }
}
