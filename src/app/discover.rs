//! Discovery: facts about the node and the daemon's own AWS identity. Its results include the roles that no pod may have.
//!
//! Until discovery has finished, podrole answers pods' requests for roles and credentials with "not ready". Discovery retries
//! without end, so a metadata service or an STS that is down at the start does not stop the daemon, which serves session tokens
//! in the meantime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::{SharedFacts, plumbing};
use crate::audit::Audit;
use crate::backoff::Backoff;
use crate::cache::CredentialCache;
use crate::clock::SystemClock;
use crate::config::{Config, Platform};
use crate::imds::Facts;
use crate::issuer::sts::{CallerIdentity, Settings, Sts};
use crate::issuer::{Code, OnCall, Source};
use crate::metrics::Metrics;
use crate::policy::Rules;
use crate::readiness::BlockReady;
use crate::service::{ActivePolicy, IssueTerms};
use crate::types::{BaseArn, RoleArn, SessionName};
use crate::upstream::client::{Client, NodeFacts};

/// The pause between attempts to discover everything.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// How often the remaining lifetime of the base credentials is measured.
const BASE_CHECK: Duration = Duration::from_secs(30);

/// The issuer of a running daemon.
pub(super) type LiveIssuer = Arc<Sts<SystemClock>>;

/// Where discovery stores its results for the request path.
#[derive(Clone, Default)]
pub(super) struct Discovered {
    pub(super) active_policy: Arc<ArcSwapOption<ActivePolicy<LiveIssuer, SystemClock>>>,
    pub(super) facts: SharedFacts,
}

/// Discovers everything, drops `unknown`, then measures the lifetime of the base credentials. Never ends.
pub(super) async fn run(
    config: Arc<Config>,
    discovered: Discovered,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    unknown: BlockReady,
) {
    let mut failures = 0;
    let (sts, rules, terms) = loop {
        match attempt(&config, &discovered, &audit, &metrics).await {
            Ok((sts, rules, terms)) => {
                info!(region = %terms.region, base = rules.base.as_str(), "Ready to assume roles");
                break (sts, rules, terms);
            }
            Err(error) => {
                failures += 1;
                let pause = RETRY.pause(failures);
                warn!(error = %format_args!("{error:#}"), retry_in = ?pause, "Discovery failed; cannot assume roles yet");
                tokio::time::sleep(pause).await;
            }
        }
    };
    let cache = CredentialCache::new(sts.clone(), SystemClock, plumbing::jitter, runtime, metrics.clone());
    let policy = ActivePolicy::new(rules, config.policy.service_account_roles, terms, cache);
    discovered.active_policy.store(Some(Arc::new(policy)));
    drop(unknown);
    loop {
        if let Some(left) = sts.base_remaining() {
            metrics.base_remaining(left);
        }
        tokio::time::sleep(BASE_CHECK).await;
    }
}

async fn attempt(
    config: &Config,
    discovered: &Discovered,
    audit: &Arc<Audit>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(LiveIssuer, Rules, IssueTerms)> {
    let node = node_facts(config).await?;
    discovered.facts.store(Arc::new(node.facts.clone()));
    let region = node.facts.region.clone();
    let region = region.ok_or_else(|| anyhow::anyhow!("the metadata service reports no region; set --region"))?;
    let settings = Settings {
        region: region.clone(),
        first_hop: config.policy.assume_role.clone(),
        node_session: SessionName::of_node(&config.node),
        ca_bundle: config.ca_bundle.as_deref().map(read_ca_bundle).transpose()?,
    };
    let sts = Sts::new(settings, SystemClock, on_call(audit, metrics)).await.map_err(anyhow::Error::from_boxed)?;
    let (signer, base) = sts.caller_identities().await?;
    complete_facts(config, discovered, node.facts.clone(), base.as_ref().unwrap_or(&signer));
    let rules = rules(config, &signer, base.as_ref(), &node)?;
    let terms = IssueTerms {
        source: Source::AssumeRole { first_hop: config.policy.assume_role.clone() },
        duration: config.session_duration,
        region,
    };
    Ok((Arc::new(sts), rules, terms))
}

fn read_ca_bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read AWS_CA_BUNDLE {}", path.display()))
}

async fn node_facts(config: &Config) -> anyhow::Result<NodeFacts> {
    let mut node = match config.platform {
        Platform::Ec2 => Client::new(&config.metadata_endpoint).facts().await?,
        Platform::None => NodeFacts::default(),
    };
    if let Some(region) = &config.region {
        node.facts.region = Some(region.clone());
    }
    Ok(node)
}

/// Completes the facts outside EC2, where the account and partition come from STS.
fn complete_facts(config: &Config, discovered: &Discovered, facts: Facts, base: &CallerIdentity) {
    if config.platform == Platform::None {
        let facts = Facts { account: Some(base.account.clone()), partition: Some(base.partition.clone()), ..facts };
        discovered.facts.store(Arc::new(facts));
    }
}

fn rules(
    config: &Config,
    signer: &CallerIdentity,
    base: Option<&CallerIdentity>,
    node: &NodeFacts,
) -> anyhow::Result<Rules> {
    // If there is a first hop, its credentials sign pods' calls, and its account is the base of pods' role names.
    let account = BaseArn::of_account(&signer.partition, &signer.account)?;
    let own_roles =
        [signer.role.clone(), base.and_then(|base| base.role.clone()), node_role(node, base.unwrap_or(signer))?];
    Ok(config.policy.rules(account, own_roles.into_iter().flatten(), config.node.clone())?)
}

/// The role of the node's instance profile. It belongs to the node's account, which may differ from the signer's.
fn node_role(node: &NodeFacts, base: &CallerIdentity) -> anyhow::Result<Option<RoleArn>> {
    let Some(name) = &node.node_role else { return Ok(None) };
    let account = node.facts.account.as_ref().unwrap_or(&base.account);
    let partition = node.facts.partition.as_ref().unwrap_or(&base.partition);
    Ok(Some(RoleArn::parse(&format!("arn:{partition}:iam::{account}:role/{name}"))?))
}

fn on_call(audit: &Arc<Audit>, metrics: &Arc<Metrics>) -> OnCall {
    let (audit, metrics) = (audit.clone(), metrics.clone());
    Arc::new(move |call| {
        metrics.sts(call.result.as_ref().map_or_else(|code| code.name(), |_| "Success"), call.took);
        // Without credentials, the SDK sends no request, so there is no call to audit.
        if !matches!(call.result, Err(Code::NoCredentials)) {
            audit.sts_call(call);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the first hop is in another account, the node's role still belongs to the node's account.
    #[test]
    fn the_nodes_role_is_of_the_nodes_account() {
        let hop = CallerIdentity { account: "444455556666".into(), partition: "aws".into(), role: None };
        let facts = Facts { account: Some("111122223333".into()), partition: Some("aws".into()), ..Facts::default() };
        let node = NodeFacts { facts, node_role: Some("node-role".into()) };
        let role = node_role(&node, &hop).unwrap().unwrap();
        assert_eq!(role.as_str(), "arn:aws:iam::111122223333:role/node-role");
        let unknown = NodeFacts { facts: Facts::default(), node_role: Some("node-role".into()) };
        assert_eq!(node_role(&unknown, &hop).unwrap().unwrap().account(), "444455556666");
        assert_eq!(node_role(&NodeFacts::default(), &hop).unwrap(), None);
    }
}
