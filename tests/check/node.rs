//! Nodes with the wrong kernel, cgroups, capabilities, directories.

use std::fs;
use std::mem;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::world::{CGROUP_ROOT, Trial, mount_cgroup1, scratch};

use crate::Case;
use crate::support::{Node, check, healthy, named, on_node, silent};

pub(crate) const CASES: &[Case] = &[
    (Check::Kernel, Trial::new("n01_a_kernel_of_long_ago", kernel)),
    (Check::CgroupMount, Trial::new("n02_a_cgroup_root_that_is_none_and_a_hybrid_one", cgroup_mount)),
    (Check::SocketIdentity, Trial::new("n03_a_part_of_the_tree_in_which_our_socket_is_not", socket)),
    (Check::Capabilities, Trial::new("n04_each_capability_missing", capabilities)),
    (Check::KubepodsTree, Trial::new("n05_a_tree_without_the_kubelets", kubepods)),
    (Check::NetnsDir, Trial::new("n06_no_directory_of_namespaces_and_one_of_files", netns_dir)),
    (Check::StateDir, Trial::new("n07_a_state_directory_that_others_can_read_or_replace", state_dir)),
    (Check::IdentityMode, Trial::new("n08_identity_by_address", identity)),
];

pub(crate) const TRIALS: &[Trial] = &[
    // A kernel that has all controllers in cgroup2 has no such hierarchy, and makes none for a container.
    Trial::new("n02_cgroup_version_1_is_called_by_its_name", cgroup1).may_skip(),
];

fn kernel() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::Kernel)?;
    // The kernel itself tells programs under this personality that it is a 2.6.
    let wrapper = ["setarch", "--uname-2.6"].map(str::to_owned).into();
    let whole = mem::replace(&mut rig.options_mut().wrapper, wrapper);
    let said = named(&rig, &[], Check::Kernel, &[])?;
    ensure!(said.found(Check::Kernel)?.contains("Linux 2.6"), "{}", said.found(Check::Kernel)?);
    rig.options_mut().wrapper = whole;
    silent(&rig, &[], Check::Kernel)
}

fn cgroup_mount() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::CgroupMount)?;
    let said = named(&rig, &["--cgroup-root", "/run/netns"], Check::CgroupMount, &[])?;
    ensure!(said.result(Check::SocketIdentity)? == "skipped" && said.result(Check::KubepodsTree)? == "skipped");
    let hybrid = scratch().join("hybrid");
    fs::create_dir_all(hybrid.join("unified"))?;
    let unified = hybrid.join("unified").display().to_string();
    on_node(&rig, &format!("mount --bind {CGROUP_ROOT} {unified}"))?;
    let root = hybrid.display().to_string();
    let said = named(&rig, &["--cgroup-root", &root], Check::CgroupMount, &[])?;
    ensure!(said.found(Check::CgroupMount)?.contains("hybrid"), "{}", said.found(Check::CgroupMount)?);
    // What it says to do helps.
    ensure!(
        said.fix(Check::CgroupMount)?.ends_with(&format!("--cgroup-root={unified}")),
        "{}",
        said.fix(Check::CgroupMount)?
    );
    silent(&rig, &["--cgroup-root", &unified], Check::CgroupMount)
}

fn cgroup1() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    let place = scratch().join("v1/memory");
    mount_cgroup1(&place)?;
    for root in [scratch().join("v1"), place] {
        let said = named(&rig, &["--cgroup-root", &root.display().to_string()], Check::CgroupMount, &[])?;
        ensure!(said.found(Check::CgroupMount)?.contains("cgroup v1 hierarchy"), "{}", said.found(Check::CgroupMount)?);
    }
    Ok(())
}

fn socket() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::SocketIdentity)?;
    let part = format!("{CGROUP_ROOT}/part");
    fs::create_dir_all(format!("{part}/kubepods"))?;
    let said = named(&rig, &["--cgroup-root", &part], Check::SocketIdentity, &[])?;
    ensure!(said.found(Check::SocketIdentity)?.contains("not in the tree"), "{}", said.found(Check::SocketIdentity)?);
    Ok(())
}

fn capabilities() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::Capabilities)?;
    for (name, label) in
        [("net_admin", "CAP_NET_ADMIN"), ("sys_admin", "CAP_SYS_ADMIN"), ("net_bind_service", "CAP_NET_BIND_SERVICE")]
    {
        let without = [format!("--bounding-set=-{name}"), format!("--inh-caps=-{name}")];
        rig.options_mut().wrapper = ["setpriv".to_owned()].into_iter().chain(without).collect();
        let said = named(&rig, &[], Check::Capabilities, &[])?;
        let found = said.found(Check::Capabilities)?;
        ensure!(found.contains(label) && found.lines().count() == 1, "{found}");
        if name == "net_admin" {
            ensure!(said.result(Check::TableGuard)? == "skipped" && said.result(Check::ForeignBefore)? == "skipped");
        }
    }
    rig.options_mut().wrapper = Vec::new();
    silent(&rig, &[], Check::Capabilities)
}

fn kubepods() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::KubepodsTree)?;
    // Our own socket is in this part of the tree, and no kubelet's.
    let services = format!("{CGROUP_ROOT}/system.slice");
    named(&rig, &["--cgroup-root", &services], Check::KubepodsTree, &[]).map(drop)
}

fn netns_dir() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::NetnsDir)?;
    named(&rig, &["--netns-dir", "/nonexistent"], Check::NetnsDir, &[])?;
    // As a container sees the host's directory without mount propagation: names, and nothing behind them.
    let files = scratch().join("files");
    fs::create_dir(&files)?;
    let flags = ["--netns-dir", &files.display().to_string()].map(str::to_owned);
    let flags = flags.each_ref().map(String::as_str);
    silent(&rig, &flags, Check::NetnsDir)?;
    fs::write(files.join("cni-1"), "")?;
    let said = named(&rig, &flags, Check::NetnsDir, &[])?;
    ensure!(said.fix(Check::NetnsDir)?.contains("HostToContainer"), "{}", said.fix(Check::NetnsDir)?);
    Ok(())
}

fn state_dir() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::StateDir)?;
    let state = scratch().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
    named(&rig, &[], Check::StateDir, &[])?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    silent(&rig, &[], Check::StateDir)?;
    let link = scratch().join("link");
    symlink(&state, &link)?;
    named(&rig, &["--state-dir", &link.display().to_string()], Check::StateDir, &[])?;
    fs::rename(state.join("keys"), state.join("elsewhere"))?;
    symlink(state.join("elsewhere"), state.join("keys"))?;
    named(&rig, &[], Check::StateDir, &[])?;
    fs::rename(state.join("elsewhere"), state.join("keys"))?;
    silent(&rig, &[], Check::StateDir)?;
    // One that is not there yet is no fault, and is not made; one that cannot be made is.
    let fresh = scratch().join("fresh");
    silent(&rig, &["--state-dir", &fresh.display().to_string()], Check::StateDir)?;
    ensure!(!fresh.exists(), "check made a state directory");
    named(&rig, &["--state-dir", "/nonexistent/state"], Check::StateDir, &[]).map(drop)
}

fn identity() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::IdentityMode)?;
    named(&rig, &["--identity", "ip"], Check::IdentityMode, &[])?;
    // What only the other mode needs does not count then.
    let said = check(&rig, &["--identity", "ip", "--cgroup-root", "/nonexistent", "--netns-dir", "/nonexistent"])?;
    ensure!(said.code == Some(0) && said.result(Check::CgroupMount)? == "skipped", "{:#}", said.report);
    Ok(())
}
