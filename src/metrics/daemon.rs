//! Metrics about the daemon itself: version, identity mode, rules, faults.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::Metrics;
use super::families::{Families, Label};
use crate::types::closed_set;

closed_set! {
    /// Faults of the daemon that an operator should see, although they block no pod.
    pub enum Fault {
        /// The persisted key ring could not be read or written: session tokens do not survive a restart.
        KeyRing = "key_ring",
        /// An audit line was lost.
        AuditLost = "audit_lost",
        /// A log line was lost.
        LogLost = "log_lost",
        /// A metadata listener could not be bound.
        MetadataListener = "metadata_listener",
        /// podrole cannot watch the directory of netns names and scans the directory at intervals instead.
        NetnsWatch = "netns_watch",
        /// podrole could not read a netns or the directory of netns names, and keeps the result of the last scan.
        NetnsScan = "netns_scan",
        /// podrole cannot watch some cgroup and scans all cgroups at intervals instead.
        CgroupWatch = "cgroup_watch",
        /// podrole could not read some cgroup and keeps the result of the last scan.
        CgroupScan = "cgroup_scan",
    }
}

closed_set! {
    /// How callers are identified.
    pub enum IdentityMode {
        /// Callers are identified by the kernel.
        Kernel = "kernel",
        /// Callers are identified by address, which is weaker.
        Ip = "ip",
    }
}

/// The families about the daemon itself.
#[derive(Debug)]
pub(super) struct DaemonMetrics {
    faults: IntCounterVec,
    redirect_applied: IntCounter,
    identity_mode: IntGaugeVec,
}

// === impl DaemonMetrics ===

impl DaemonMetrics {
    pub(super) fn new(families: &mut Families) -> Self {
        let version = Label::open("version");
        let build = families.gauges("podrole_build_info", "1, labelled with the version.", &[version]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            faults: families.counters(
                "podrole_faults_total",
                "Faults that degrade the daemon without blocking anybody.",
                &[Label::closed("fault", &Fault::NAMES)],
            ),
            redirect_applied: families.counter("podrole_redirect_applied_total", "Rulesets applied."),
            identity_mode: families.gauges(
                "podrole_identity_mode",
                "1 for the identity mode in force: kernel, or the weaker ip.",
                &[Label::closed("mode", &IdentityMode::NAMES)],
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a fault of the daemon.
    pub fn fault(&self, fault: Fault) {
        self.daemon.faults.with_label_values(&[fault.name()]).inc();
    }

    /// Counts a ruleset that was applied.
    pub fn redirect_applied(&self) {
        self.daemon.redirect_applied.inc();
    }

    /// Sets the identity mode in force.
    pub fn identity_mode(&self, mode: IdentityMode) {
        self.daemon.identity_mode.with_label_values(&[mode.name()]).set(1);
    }
}
