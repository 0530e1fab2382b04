//! The flags of `podrole run`. An environment variable, named `PODROLE_` plus the flag's name, can also set each flag. If both
//! are set, the flag wins.
//!
//! All values are strings here. If clap parsed them, it would report only the first mistake.

use clap::Args;

use super::PolicyArgs;

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Name of this node, as in spec.nodeName (required; a DaemonSet sets it with the downward API)
    #[arg(long, env = "PODROLE_NODE_NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig file [default: the pod's own service account]
    #[arg(long, env = "PODROLE_KUBECONFIG")]
    pub kubeconfig: Option<String>,
    /// Where the node runs: ec2 | none
    #[arg(long, env = "PODROLE_PLATFORM", default_value = "ec2")]
    pub platform: String,
    /// Who may have which role
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How callers are identified: kernel | ip (weaker: trusts pod addresses)
    #[arg(long, env = "PODROLE_IDENTITY", default_value = "kernel")]
    pub identity: String,
    /// Where credentials come from: assume-role
    #[arg(long, env = "PODROLE_CREDENTIAL_SOURCE", default_value = "assume-role")]
    pub credential_source: String,
    /// How long a session lasts, 15m to 12h (at most 1h with --assume-role-arn)
    #[arg(long, env = "PODROLE_SESSION_DURATION", default_value = "1h")]
    pub session_duration: String,
    /// Requests without a session token (IMDSv1): deny | allow; an annotation can allow them for one namespace
    #[arg(long = "imds-v1", env = "PODROLE_IMDS_V1", default_value = "deny")]
    pub imds_v1: String,
    /// Whether to also listen on port 80 of the metadata addresses, which serves pods if the nftables rules are lost: on | off. Not
    /// possible together with a program that listens on port 80 of all addresses of the node
    #[arg(long, env = "PODROLE_METADATA_LISTENER", default_value = "on")]
    pub metadata_listener: String,
    /// Ports to try for the listener; the first free one is used
    #[arg(long, env = "PODROLE_PORT_RANGE", default_value = "18181-18188")]
    pub port_range: String,
    /// Address of /metrics, /livez and /readyz
    #[arg(long, env = "PODROLE_ADMIN_ADDR", default_value = "127.0.0.1:9441")]
    pub admin_addr: String,
    /// Second address, which serves only /metrics [default: none]
    #[arg(long, env = "PODROLE_METRICS_ADDR")]
    pub metrics_addr: Option<String>,
    /// Key of a taint to remove from this node once podrole is ready, such as podrole.dev/not-ready [default: none]
    #[arg(long, env = "PODROLE_STARTUP_TAINT")]
    pub startup_taint: Option<String>,
    /// Directory for the session token keys; must be on a tmpfs and accessible only to root
    #[arg(long, env = "PODROLE_STATE_DIR", default_value = "/run/podrole")]
    pub state_dir: String,
    /// Directory where the container runtime mounts its named network namespaces
    #[arg(long, env = "PODROLE_NETNS_DIR", default_value = "/run/netns")]
    pub netns_dir: String,
    /// The host's cgroup2 mount
    #[arg(long, env = "PODROLE_CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: String,
    /// Whether to write Kubernetes Events about denied pods: true | false
    #[arg(long, env = "PODROLE_EVENTS", default_value = "true")]
    pub events: String,
    /// Name of podrole's own pod, shown as the reporting instance of Events [default: --node-name]
    #[arg(long, env = "PODROLE_POD_NAME")]
    pub pod_name: Option<String>,
    /// AWS region [default: AWS_REGION, then the region that the metadata service reports]
    #[arg(long, env = "PODROLE_REGION")]
    pub region: Option<String>,
    /// Log format: json | text
    #[arg(long, env = "PODROLE_LOG_FORMAT", default_value = "json")]
    pub log_format: String,
    /// Log filter, such as info or podrole=debug
    #[arg(long, env = "PODROLE_LOG", default_value = "info")]
    pub log: String,
}
