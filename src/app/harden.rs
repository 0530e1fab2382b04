//! What the process does to itself before it holds a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

/// Two descriptors a pod and one a connection: the usual soft limit of 1024 is too few.
const DESCRIPTORS: u64 = 65_536;

/// No core dumps, no peeking by other processes of this user, and room for descriptors. What cannot be had is said.
pub(super) fn process() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "Cannot make the process undumpable");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        warn!(%error, "Cannot forbid core dumps");
    }
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|now| now < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        warn!(%error, wanted, "Cannot raise the limit of open files");
    }
}
