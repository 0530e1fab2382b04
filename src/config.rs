//! Turns flags and environment variables into a valid configuration, or into a list of all mistakes.

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

/// The settings of `podrole run`.
#[derive(Debug)]
pub struct Config {
    /// The node's name, as in the pods' `spec.nodeName`.
    pub node: Arc<str>,
    /// The kubeconfig file; `None` to use the service account of podrole's pod.
    pub kubeconfig: Option<PathBuf>,
    /// The platform, which decides whether the node has EC2's metadata service.
    pub platform: Platform,
    /// The settings that decide which pod may have which role.
    pub policy: PolicySettings,
    /// How callers are identified.
    pub identity: IdentityMode,
    /// How long a session lasts.
    pub session_duration: Duration,
    /// Whether pods of all namespaces may send requests without a session token (IMDSv1).
    pub imds_v1: bool,
    /// Whether to run the metadata listener.
    pub metadata_listener: bool,
    /// The ports to try for the listener; the first free one is used.
    pub ports: std::ops::RangeInclusive<u16>,
    /// The address of the probes and metrics.
    pub admin_addr: SocketAddr,
    /// A second address, which serves only metrics.
    pub metrics_addr: Option<SocketAddr>,
    /// The key of a taint to remove from the node once podrole is ready.
    pub startup_taint: Option<Arc<str>>,
    /// The directory of the token keys.
    pub state_dir: PathBuf,
    /// The directory in which the container runtime names network namespaces.
    pub netns_dir: PathBuf,
    /// The cgroup2 mount.
    pub cgroup_root: PathBuf,
    /// Whether to write Events about denied pods.
    pub events: bool,
    /// The reporting instance of Events: podrole's pod, or the node.
    pub instance: Arc<str>,
    /// The AWS region; `None` to ask the node's metadata service.
    pub region: Option<Arc<str>>,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Which log lines to write.
    pub log: LogFilter,
    /// The URL of the node's metadata service.
    pub metadata_endpoint: Uri,
    /// A PEM file of root certificates to trust instead of the default ones (`AWS_CA_BUNDLE`).
    pub ca_bundle: Option<PathBuf>,
}

/// The values of `--platform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// EC2: the metadata service provides facts about the node and the base credentials.
    Ec2,
    /// Outside EC2: there is no metadata service.
    None,
}

/// The values of `--identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    /// Callers are identified by the kernel's proof.
    Kernel,
    /// Callers are identified by the pod's address only, which is weaker.
    Ip,
}

// === impl Config ===

impl Config {
    /// Parses `args`. `environment` is the process's environment. On failure, returns one message for each mistake.
    pub fn new(args: RunArgs, environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut problems = Problems::default();
        problems.unknown_variables(environment);
        let config = Self::read(args, environment, &mut problems);
        config.contradictions(&mut problems);
        problems.into_result(config)
    }

    fn read(args: RunArgs, environment: &HashMap<String, String>, p: &mut Problems) -> Self {
        // The pattern has no `..`, so a flag that is not read here is a compile error.
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
        let () = p.choice("--credential-source", &credential_source, &[("assume-role", ())]).unwrap_or_default();
        let node: Arc<str> = p.required("--node-name", node_name).into();
        Self {
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
        }
    }

    /// Reports settings that are valid individually but contradict each other.
    fn contradictions(&self, problems: &mut Problems) {
        if self.platform == Platform::None && self.region.is_none() {
            problems.add("--platform=none has no metadata service to provide the region: set --region or AWS_REGION");
        }
        if self.policy.assume_role.is_some() && self.session_duration > Duration::from_secs(3600) {
            problems.add(
                "with --assume-role-arn, roles are chained, and AWS limits chained sessions to 1h: lower --session-duration",
            );
        }
        if self.metrics_addr == Some(self.admin_addr) {
            problems.add("--metrics-addr and --admin-addr are the same address: remove --metrics-addr or change it");
        }
    }
}

#[cfg(test)]
mod tests;
