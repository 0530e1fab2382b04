//! The kustomizations that the trials render and apply.

/// Everything that can be applied, relative to `daemonset/`.
pub(crate) const TARGETS: [&str; 13] = [
    ".",
    "base",
    "networkpolicy",
    "overlays/admission",
    "overlays/admission-deny",
    "overlays/cleanup",
    "overlays/guard-only",
    "overlays/ip-identity",
    "overlays/labelled-nodes",
    "overlays/podmonitor",
    "overlays/selinux",
    "overlays/service-account-roles",
    "overlays/startup-taint",
];
