//! Checks the node: kernel, cgroups, capabilities, directories.

use std::path::Path;
use std::time::Duration;

use crate::caller::cgroup_tree::{self, Survey};
use crate::caller::netns;
use crate::caller::self_test::{self, SelfTestError};
use crate::config::{Config, IdentityMode};
use crate::state;

use super::table::Check;
use super::{Findings, Outcome, kernel_identity_unused};

/// The first kernel that reports a socket's cgroup.
const OLDEST_KERNEL: (u32, u32) = (5, 7);
/// The file system type of cgroup v1, from `linux/magic.h`. No crate defines this constant.
const CGROUP_SUPER_MAGIC: u64 = 0x27_e0eb;
/// Time limit of one check that reads the file system.
const FILES_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn check_node(config: &Config, findings: &Findings) {
    findings.put(Check::Capabilities, capabilities(config.identity));
    findings.put(Check::IdentityMode, identity(config.identity));
    let state_dir = config.state_dir.clone();
    tokio::join!(kernel_identity(config, findings), bounded(findings, Check::StateDir, move || state(&state_dir)));
}

/// Checks the requirements of `--identity=kernel`.
async fn kernel_identity(config: &Config, findings: &Findings) {
    let checks = [Check::Kernel, Check::CgroupMount, Check::SocketIdentity, Check::KubepodsTree, Check::NetnsDir];
    if let Some(why) = kernel_identity_unused(config) {
        return findings.skip(&checks, why);
    }
    findings.put(Check::Kernel, kernel(&rustix::system::uname().release().to_string_lossy()));
    let (root, dir) = (config.cgroup_root.clone(), config.netns_dir.clone());
    let mount = root.clone();
    tokio::join!(
        bounded(findings, Check::CgroupMount, move || cgroup_mount(&mount)),
        bounded(findings, Check::SocketIdentity, {
            let root = root.clone();
            move || after_mount(&root, socket)
        }),
        bounded(findings, Check::KubepodsTree, move || after_mount(&root, kubepods)),
        bounded(findings, Check::NetnsDir, move || netns_dir(&dir)),
    );
}

/// Runs `check_files`, which may block, on another thread and records its outcome.
async fn bounded(findings: &Findings, check: Check, check_files: impl FnOnce() -> Outcome + Send + 'static) {
    let outcome = match tokio::time::timeout(FILES_TIMEOUT, tokio::task::spawn_blocking(check_files)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::failed(format!("the check itself failed: {error}")),
        Err(_) => Outcome::failed(format!("the file system did not answer within {} s", FILES_TIMEOUT.as_secs())),
    };
    findings.put(check, outcome);
}

fn kernel(release: &str) -> Outcome {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_KERNEL => {
            Outcome::ok(format!("Linux {release}"))
        }
        (Some(Ok(_)), Some(Ok(_))) => {
            Outcome::failed(format!("Linux {release}; podrole needs {}.{} or later", OLDEST_KERNEL.0, OLDEST_KERNEL.1))
        }
        _ => Outcome::failed(format!("cannot parse the kernel's version {release:?}")),
    }
}

fn capabilities(mode: IdentityMode) -> Outcome {
    let missing: Vec<String> =
        self_test::missing_capabilities(mode == IdentityMode::Kernel).map(|error| error.to_string()).collect();
    if missing.is_empty() {
        Outcome::ok(self_test::NEEDED.map(|needed| needed.name).join(", "))
    } else {
        Outcome::failed(missing.join("\n"))
    }
}

fn identity(mode: IdentityMode) -> Outcome {
    match mode {
        IdentityMode::Kernel => Outcome::ok("--identity=kernel"),
        IdentityMode::Ip => Outcome::failed("--identity=ip: podrole identifies pods by their address"),
    }
}

fn cgroup_mount(root: &Path) -> Outcome {
    let Err(error) = self_test::check_mount(root) else {
        return Outcome::ok(format!("cgroup2 at {}", root.display()));
    };
    let unified = root.join("unified");
    if self_test::check_mount(&unified).is_ok() {
        let found = format!("a hybrid node: cgroup v2 is mounted at {}, not at {}", unified.display(), root.display());
        return Outcome::failed(found).fix(format!("set --cgroup-root={}", unified.display()));
    }
    let found = if has_cgroup_v1(root) {
        format!("{} is a cgroup v1 hierarchy, with no v2 beside it", root.display())
    } else {
        error.to_string()
    };
    Outcome::failed(found)
}

/// Whether `root` is a cgroup v1 hierarchy or a directory that contains one per controller.
fn has_cgroup_v1(root: &Path) -> bool {
    let is_cgroup_v1 = |path: &Path| {
        rustix::fs::statfs(path)
            .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == CGROUP_SUPER_MAGIC))
    };
    let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    is_cgroup_v1(root) || below.take(64).any(|path| is_cgroup_v1(&path))
}

/// Runs `check`, which needs the cgroup2 mount. If there is no such mount, the check is skipped.
fn after_mount(root: &Path, check: fn(&Path) -> Outcome) -> Outcome {
    match self_test::check_mount(root) {
        Ok(()) => check(root),
        Err(_) => Outcome::skipped("there is no cgroup2 mount (PR-N02)"),
    }
}

fn socket(root: &Path) -> Outcome {
    match self_test::check_lookup(root) {
        Ok(()) => Outcome::ok("the kernel found podrole's socket, and its cgroup is in the tree"),
        Err(
            error @ (SelfTestError::NoSocketCgroup(_)
            | SelfTestError::NotInTree { .. }
            | SelfTestError::NoCgroup2 { .. }
            | SelfTestError::Capability { .. }),
        ) => Outcome::failed(error.to_string()),
    }
}

fn kubepods(root: &Path) -> Outcome {
    let survey = match cgroup_tree::survey(root) {
        Ok(survey) => survey,
        Err(error) => return Outcome::failed(format!("cannot read the cgroups below {}: {error}", root.display())),
    };
    if survey.roots.is_empty() {
        return Outcome::failed(format!("no cgroup of the kubelet below {}", root.display()));
    }
    let roots = survey.roots.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    match survey {
        Survey { pods: 0, containers: 0, .. } => Outcome::ok(format!("{roots}: no pod runs here yet")),
        Survey { pods, containers: 0, .. } => {
            Outcome::failed(format!("{roots}: {pods} pods, but no cgroup that podrole recognizes as a container's"))
        }
        Survey { pods, containers, .. } => {
            Outcome::ok(format!("{roots}: {pods} pods, {containers} containers' cgroups"))
        }
    }
}

fn netns_dir(directory: &Path) -> Outcome {
    let shown = directory.display();
    match netns::survey(directory) {
        Err(error) => Outcome::failed(format!("cannot read {shown}: {error}")),
        Ok((0, 0)) => Outcome::ok(format!("{shown} is empty: no pod with its own network namespace runs here yet")),
        Ok((0, others)) => Outcome::failed(format!("none of the {others} entries of {shown} is a network namespace")),
        Ok((netns, _)) => Outcome::ok(format!("{netns} network namespaces in {shown}")),
    }
}

fn state(directory: &Path) -> Outcome {
    let shown = directory.display();
    match state::inspect(directory) {
        Ok(true) => Outcome::ok(format!("{shown}")),
        Ok(false) => match directory.parent().map(std::fs::metadata) {
            Some(Ok(parent)) if parent.is_dir() => {
                Outcome::ok(format!("{shown} does not exist yet; podrole will create it"))
            }
            Some(_) | None => {
                Outcome::failed(format!("podrole cannot create {shown}: its parent directory does not exist"))
            }
        },
        Err(error) => Outcome::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_capability() {
        let meaning = Check::Capabilities.about().meaning;
        assert_eq!(meaning.matches("CAP_").count(), self_test::NEEDED.len());
        assert!(self_test::NEEDED.iter().all(|needed| meaning.contains(needed.name)));
    }

    #[test]
    fn versions() {
        for good in ["5.7.0", "5.10.223-211.872.amzn2.x86_64", "6.18.44", "10.0"] {
            assert!(matches!(kernel(good), Outcome::Ok(_)), "{good}");
        }
        for bad in ["5.6.19", "4.14.355-275.amzn2.x86_64", "2.6.78-fc", "", "linux"] {
            assert!(matches!(kernel(bad), Outcome::Failed { .. }), "{bad}");
        }
    }
}
