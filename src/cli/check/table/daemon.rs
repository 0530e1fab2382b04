//! The checks of the daemon on this node.

use super::{About, Area, error};

pub(super) const ADMIN: About = error(
    Area::Daemon,
    "PR-D01",
    "podrole runs on this node",
    "podrole does not answer at --admin-addr: it does not run on this node, or runs with another --admin-addr.",
    "Read podrole's log, or kubectl logs of its pod on this node: it says why a start failed.",
);
pub(super) const READY: About = error(
    Area::Daemon,
    "PR-D02",
    "podrole is ready",
    "The daemon runs but reports that it is not ready. The check names what it waits for: listener, redirect, routing, pods, \
     namespaces, identity, and service_accounts with --service-account-roles=true.",
    "See the other checks: identity waits for the metadata service and STS; pods, namespaces and service_accounts for the API server; \
     routing for the routing guard.",
);
