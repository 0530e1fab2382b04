//! The node: kernel, cgroups, capabilities, directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::caller::self_test::{self, CannotProve};
use crate::caller::{cgroup_tree, netns};
use crate::config::{Config, IdentityMode};
use crate::state;

use super::table::Check;
use super::{Findings, Outcome, not_by_kernel};

/// The first that tells a socket's cgroup.
const OLDEST: (u32, u32) = (5, 7);
/// `CGROUP_SUPER_MAGIC` of `linux/magic.h`: version 1.
const CGROUP1: u64 = 0x27_e0eb;
/// For what only reads files of the kernel's.
const FILES: Duration = Duration::from_secs(10);

pub(super) async fn look(config: &Config, findings: &Findings) {
    findings.put(Check::Capabilities, capabilities(config.identity));
    findings.put(Check::IdentityMode, identity(config.identity));
    let state_dir = config.state_dir.clone();
    tokio::join!(proof(config, findings), bounded(findings, Check::StateDir, move || state(&state_dir)));
}

/// What proves identity.
async fn proof(config: &Config, findings: &Findings) {
    let checks = [Check::Kernel, Check::CgroupMount, Check::SocketIdentity, Check::KubepodsTree, Check::NetnsDir];
    if let Some(why) = not_by_kernel(config) {
        return findings.skip(&checks, why);
    }
    findings.put(Check::Kernel, kernel(&rustix::system::uname().release().to_string_lossy()));
    let (root, netns_dir) = (config.cgroup_root.clone(), config.netns_dir.clone());
    let mount = root.clone();
    tokio::join!(
        bounded(findings, Check::CgroupMount, move || cgroup_mount(&mount)),
        bounded(findings, Check::SocketIdentity, {
            let root = root.clone();
            move || after_mount(&root, socket)
        }),
        bounded(findings, Check::KubepodsTree, move || after_mount(&root, kubepods)),
        bounded(findings, Check::NetnsDir, move || namespaces(&netns_dir)),
    );
}

/// Runs `look` where it may block.
async fn bounded(findings: &Findings, check: Check, look: impl FnOnce() -> Outcome + Send + 'static) {
    let outcome = match tokio::time::timeout(FILES, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::failed(format!("the check itself failed: {error}")),
        Err(_) => Outcome::failed(format!("the file system did not answer within {} s", FILES.as_secs())),
    };
    findings.put(check, outcome);
}

fn kernel(release: &str) -> Outcome {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Outcome::ok(format!("Linux {release}")),
        (Some(Ok(_)), Some(Ok(_))) => {
            Outcome::failed(format!("Linux {release}; {}.{} is the oldest that will do", OLDEST.0, OLDEST.1))
        }
        _ => Outcome::failed(format!("the kernel's version, {release:?}, cannot be read")),
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
        IdentityMode::Ip => Outcome::failed("--identity=ip: whoever has a pod's address is taken for the pod"),
    }
}

fn cgroup_mount(root: &Path) -> Outcome {
    let Err(error) = self_test::check_mount(root) else {
        return Outcome::ok(format!("cgroup2 at {}", root.display()));
    };
    let unified = root.join("unified");
    if self_test::check_mount(&unified).is_ok() {
        return Outcome::failed(format!(
            "a hybrid node: version 2 is at {}, not at {}",
            unified.display(),
            root.display()
        ))
        .fix(format!("set --cgroup-root={}", unified.display()));
    }
    let found = if holds_version_1(root) {
        format!("{} holds cgroup version 1, and no version 2 beside it", root.display())
    } else {
        error.to_string()
    };
    Outcome::failed(found)
}

/// A hierarchy of version 1, or a directory of such: one for each controller.
fn holds_version_1(root: &Path) -> bool {
    let is_version_1 = |path: &Path| {
        rustix::fs::statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == CGROUP1))
    };
    let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    is_version_1(root) || below.take(64).any(|path| is_version_1(&path))
}

fn after_mount(root: &Path, look: fn(&Path) -> Outcome) -> Outcome {
    match self_test::check_mount(root) {
        Ok(()) => look(root),
        Err(_) => Outcome::skipped("there is no cgroup2 hierarchy to look in (PR-N02)"),
    }
}

fn socket(root: &Path) -> Outcome {
    match self_test::check_lookup(root) {
        Ok(()) => Outcome::ok("a socket of our own was found, with its cgroup in the tree"),
        Err(
            error @ (CannotProve::NoSocketCgroup(_)
            | CannotProve::NotInTree { .. }
            | CannotProve::NoCgroup2 { .. }
            | CannotProve::Capability { .. }),
        ) => Outcome::failed(error.to_string()),
    }
}

fn kubepods(root: &Path) -> Outcome {
    let roots: Vec<PathBuf> = cgroup_tree::roots(root);
    if roots.is_empty() {
        return Outcome::failed(format!("no cgroup of the kubelet's below {}", root.display()));
    }
    Outcome::ok(roots.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))
}

fn namespaces(directory: &Path) -> Outcome {
    let shown = directory.display();
    match netns::survey(directory) {
        Err(error) => Outcome::failed(format!("{shown} cannot be read: {error}")),
        Ok((0, 0)) => Outcome::ok(format!("{shown} is empty: no pod with a network of its own runs here yet")),
        Ok((0, others)) => Outcome::failed(format!("none of the {others} names in {shown} is a network namespace")),
        Ok((namespaces, _)) => Outcome::ok(format!("{namespaces} in {shown}")),
    }
}

fn state(directory: &Path) -> Outcome {
    let shown = directory.display();
    match state::inspect(directory) {
        Ok(true) => Outcome::ok(format!("{shown}")),
        Ok(false) => match directory.parent().map(std::fs::metadata) {
            Some(Ok(parent)) if parent.is_dir() => {
                Outcome::ok(format!("{shown} is not there yet; podrole will make it"))
            }
            Some(_) | None => Outcome::failed(format!("{shown} cannot be made: the directory above it is not there")),
        },
        Err(error) => Outcome::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_capability() {
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
