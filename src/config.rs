//! From flags and environment to a configuration that is right, or to everything that is wrong with it.

mod args;
mod parse;
mod policy;

pub use args::RunArgs;
pub use parse::metadata_endpoint;
pub use policy::{PolicyArgs, PolicySettings};

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::telemetry::{LogFilter, LogFormat};

use parse::Problems;

/// Everything `podrole run` is told.
#[derive(Debug)]
pub struct Config {
    /// This node's name, as pods' `spec.nodeName` has it.
    pub node: Arc<str>,
    /// A kubeconfig; `None`: the service account of the pod we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Whether the node has EC2's metadata service.
    pub platform: Platform,
    /// Who may have which role.
    pub policy: PolicySettings,
    /// How callers are identified.
    pub identity: IdentityMode,
    /// How long sessions are.
    pub session_duration: Duration,
    /// Whether every namespace may ask without a session token.
    pub imds_v1: bool,
    /// Whether to listen on the metadata addresses themselves.
    pub metadata_listener: bool,
    /// Ports for the listener; the first free one is taken.
    pub ports: std::ops::RangeInclusive<u16>,
    /// Probes and metrics.
    pub admin_addr: SocketAddr,
    /// Metrics alone.
    pub metrics_addr: Option<SocketAddr>,
    /// A taint to take off the node when all is ready.
    pub startup_taint: Option<Arc<str>>,
    /// Where the token keys are kept.
    pub state_dir: PathBuf,
    /// Where network namespaces have names.
    pub netns_dir: PathBuf,
    /// The cgroup2 mount.
    pub cgroup_root: PathBuf,
    /// Whether denied pods get Events.
    pub events: bool,
    /// Who signs Events: our own pod, or the node.
    pub instance: Arc<str>,
    /// The region; `None`: the metadata service's.
    pub region: Option<Arc<str>>,
    /// How to log.
    pub log_format: LogFormat,
    /// What to log.
    pub log: LogFilter,
    /// The node's metadata service.
    pub metadata_endpoint: Uri,
    /// `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
}

/// `--platform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// EC2: facts and our own credentials come from its metadata service.
    Ec2,
    /// Anything else: there is no metadata service to ask.
    None,
}

/// `--identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    /// The kernel's proof.
    Kernel,
    /// The address alone: weaker.
    Ip,
}

// === impl Config ===

impl Config {
    /// Reads `args`; all errors at once. `environment` is the process's, handed in.
    pub fn new(args: RunArgs, environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut problems = Problems::default();
        problems.unknown_variables(environment);
        // Named one by one: a flag that nothing reads does not compile.
        let RunArgs {
            node_name,
            kubeconfig,
            platform,
            policy,
            identity,
            credential_source,
            session_duration,
            imds_v1,
            metadata_listener,
            port_range,
            admin_addr,
            metrics_addr,
            startup_taint,
            state_dir,
            netns_dir,
            cgroup_root,
            events,
            pod_name,
            region,
            log_format,
            log,
        } = args;
        let p = &mut problems;
        let () = p.choice("--credential-source", &credential_source, &[("assume-role", ())]).unwrap_or_default();
        let node: Arc<str> = p.required("--node-name", node_name).into();
        let config = Self {
            kubeconfig: kubeconfig.map(Into::into),
            platform: p
                .choice("--platform", &platform, &[("ec2", Platform::Ec2), ("none", Platform::None)])
                .unwrap_or(Platform::Ec2),
            policy: PolicySettings::read(policy, p),
            identity: p
                .choice("--identity", &identity, &[("kernel", IdentityMode::Kernel), ("ip", IdentityMode::Ip)])
                .unwrap_or(IdentityMode::Kernel),
            session_duration: p.duration("--session-duration", &session_duration),
            imds_v1: p.choice("--imds-v1", &imds_v1, &[("deny", false), ("allow", true)]).unwrap_or(false),
            metadata_listener: p
                .choice("--metadata-listener", &metadata_listener, &[("on", true), ("off", false)])
                .unwrap_or(true),
            ports: p.ports("--port-range", &port_range),
            admin_addr: p.address("--admin-addr", &admin_addr),
            metrics_addr: metrics_addr.map(|text| p.address("--metrics-addr", &text)),
            startup_taint: startup_taint.and_then(|key| p.taint("--startup-taint", &key)),
            state_dir: state_dir.into(),
            netns_dir: netns_dir.into(),
            cgroup_root: cgroup_root.into(),
            events: p.boolean("--events", &events),
            instance: pod_name.filter(|name| !name.is_empty()).map_or_else(|| node.clone(), Into::into),
            node,
            region: p.region(region.or_else(|| environment.get("AWS_REGION").cloned())),
            log_format: p
                .choice("--log-format", &log_format, &[("json", LogFormat::Json), ("text", LogFormat::Text)])
                .unwrap_or(LogFormat::Json),
            log: p.filter("--log", &log),
            metadata_endpoint: p.endpoint(environment),
            ca_bundle: environment.get("AWS_CA_BUNDLE").map(Into::into),
        };
        config.contradictions(p);
        problems.into_result(config)
    }

    /// Settings that are fine one by one and not together.
    fn contradictions(&self, problems: &mut Problems) {
        if self.platform == Platform::None && self.region.is_none() {
            problems
                .add("--platform=none has no metadata service to learn the region from: set --region or AWS_REGION");
        }
        if self.policy.assume_role.is_some() && self.session_duration > Duration::from_secs(3600) {
            problems.add(
                "--assume-role-arn makes pods' sessions chained ones, which AWS caps at 1h: lower --session-duration",
            );
        }
        if self.metrics_addr == Some(self.admin_addr) {
            problems.add(
                "--metrics-addr and --admin-addr are the same address: leave --metrics-addr out, or give it another",
            );
        }
    }
}

#[cfg(test)]
mod tests;
