//! The flags of `podrole run`. Every one has an environment twin, `PODROLE_` and its name; the flag wins.
//!
//! All are texts here: parsed one by one by clap, the first mistake would hide the others.

use clap::Args;

use super::PolicyArgs;

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Name of this node, as in spec.nodeName (required; from the downward API in a DaemonSet)
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
    /// Length of a session, 15m to 12h (1h at most where roles are chained)
    #[arg(long, env = "PODROLE_SESSION_DURATION", default_value = "1h")]
    pub session_duration: String,
    /// Requests without a session token (IMDSv1): deny | allow; a namespace can allow its own
    #[arg(long = "imds-v1", env = "PODROLE_IMDS_V1", default_value = "deny")]
    pub imds_v1: String,
    /// Whether to listen on port 80 of the metadata addresses too, which serves pods without nftables: on | off. A program that
    /// listens on port 80 of every address of the node excludes it, and is excluded by it
    #[arg(long, env = "PODROLE_METADATA_LISTENER", default_value = "on")]
    pub metadata_listener: String,
    /// Ports for the listener; the first free one is used
    #[arg(long, env = "PODROLE_PORT_RANGE", default_value = "18181-18188")]
    pub port_range: String,
    /// Address of /metrics, /livez and /readyz
    #[arg(long, env = "PODROLE_ADMIN_ADDR", default_value = "127.0.0.1:9441")]
    pub admin_addr: String,
    /// A second address, with /metrics only
    #[arg(long, env = "PODROLE_METRICS_ADDR")]
    pub metrics_addr: Option<String>,
    /// Key of a taint to take off this node once the daemon is ready, such as podrole.dev/not-ready [default: none]
    #[arg(long, env = "PODROLE_STARTUP_TAINT")]
    pub startup_taint: Option<String>,
    /// Directory for the session token keys; root's alone, on a tmpfs
    #[arg(long, env = "PODROLE_STATE_DIR", default_value = "/run/podrole")]
    pub state_dir: String,
    /// Directory in which the container runtime names network namespaces
    #[arg(long, env = "PODROLE_NETNS_DIR", default_value = "/run/netns")]
    pub netns_dir: String,
    /// The host's cgroup2 mount
    #[arg(long, env = "PODROLE_CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: String,
    /// AWS region [default: AWS_REGION, then the metadata service's]
    #[arg(long, env = "PODROLE_REGION")]
    pub region: Option<String>,
    /// Log format: json | text
    #[arg(long, env = "PODROLE_LOG_FORMAT", default_value = "json")]
    pub log_format: String,
    /// Log filter, such as info or podrole=debug
    #[arg(long, env = "PODROLE_LOG", default_value = "info")]
    pub log: String,
}
