//! Hardens the process before it holds a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

/// podrole needs two descriptors per pod and one per connection, more than the usual soft limit of 1024.
const DESCRIPTORS: u64 = 65_536;

/// Disables core dumps and ptrace by other processes of the same user, and raises the descriptor limit. Failures are only logged.
pub(super) fn process() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "Cannot make the process undumpable; starting anyway, other processes of this user can read its memory");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        warn!(%error, "Cannot disable core dumps; starting anyway, a crash may write secrets to disk");
    }
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |max| max.min(DESCRIPTORS));
    if limit.current.is_some_and(|now| now < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        warn!(%error, wanted, "Cannot raise the open files limit; starting anyway, connections may fail on a busy node");
    }
}
