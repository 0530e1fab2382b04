//! Starts a process in a container: joins its cgroup first, then its network namespace.
//!
//! A shell does this, because code between fork and exec would be unsafe code. The order matters: a socket keeps the
//! cgroup in which its process was when it was opened.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a process starts; `None` means where the lab itself is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) netns: Option<PathBuf>,
}

/// Variables that a container inherits from the lab's environment: enough to find programs, nothing that identifies the
/// caller. `PYENV_ROOT` locates Python on some machines.
const KEPT: [&str; 4] = ["PATH", "LANG", "TMPDIR", "PYENV_ROOT"];

/// A command that starts at `place`. The caller adds the program and its arguments.
pub(crate) fn command(place: &Place) -> Command {
    let mut command = match (&place.cgroup, &place.netns) {
        (Some(cgroup), Some(netns)) => {
            let mut command =
                shell(r#"echo $$ >"$0" && netns=$1 && shift && exec nsenter --net="$netns" -- "$@""#, cgroup);
            command.arg(netns);
            command
        }
        (Some(cgroup), None) => shell(r#"echo $$ >"$0" && exec "$@""#, cgroup),
        (None, Some(netns)) => {
            let mut option = OsString::from("--net=");
            option.push(netns);
            let mut command = Command::new("nsenter");
            command.arg(option).arg("--");
            command
        }
        (None, None) => Command::new("env"),
    };
    command.env_clear();
    // HOME must not contain a credentials file.
    command.env("HOME", "/nonexistent");
    command.envs(KEPT.into_iter().filter_map(|name| env::var_os(name).map(|value| (name, value))));
    command
}

fn shell(script: &str, cgroup: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(cgroup.join("cgroup.procs"));
    command
}
