//! Nodes with the wrong kernel, cgroups, capabilities or directories.

use std::fs;
use std::mem;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::world::{CGROUP_ROOT, Trial, mount_cgroup1, scratch};

use crate::Case;
use crate::support::{Node, check, fails, healthy, on_node, passes};

pub(crate) const CASES: &[Case] = &[
    (Check::Kernel, Trial::new("n01_an_old_kernel", kernel)),
    (Check::CgroupMount, Trial::new("n02_a_wrong_cgroup_root_and_a_hybrid_node", cgroup_mount)),
    (Check::SocketIdentity, Trial::new("n03_a_subtree_without_the_socket", socket)),
    (Check::Capabilities, Trial::new("n04_each_capability_missing", capabilities)),
    (Check::KubepodsTree, Trial::new("n05_a_tree_without_kubepods", kubepods)),
    (Check::NetnsDir, Trial::new("n06_no_netns_directory_and_one_with_plain_files", netns_dir)),
    (Check::StateDir, Trial::new("n07_a_state_directory_that_others_can_read_or_replace", state_dir)),
    (Check::IdentityMode, Trial::new("n08_identity_by_address", identity)),
];

pub(crate) const TRIALS: &[Trial] = &[
    // A kernel with all controllers in cgroup2 has no v1 hierarchy, and a container cannot create one.
    Trial::new("n02_a_cgroup_v1_hierarchy_is_reported_as_such", cgroup1).may_skip(),
];

fn kernel() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::Kernel)?;
    // With this personality the kernel reports version 2.6.
    let wrapper = ["setarch", "--uname-2.6"].map(str::to_owned).into();
    let whole = mem::replace(&mut rig.options_mut().wrapper, wrapper);
    let said = fails(&rig, &[], Check::Kernel, &[])?;
    ensure!(said.found(Check::Kernel)?.contains("Linux 2.6"), "{}", said.found(Check::Kernel)?);
    rig.options_mut().wrapper = whole;
    passes(&rig, &[], Check::Kernel)
}

fn cgroup_mount() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::CgroupMount)?;
    let said = fails(&rig, &["--cgroup-root", "/run/netns"], Check::CgroupMount, &[])?;
    ensure!(said.result(Check::SocketIdentity)? == "skipped" && said.result(Check::KubepodsTree)? == "skipped");
    let hybrid = scratch().join("hybrid");
    fs::create_dir_all(hybrid.join("unified"))?;
    let unified = hybrid.join("unified").display().to_string();
    on_node(&rig, &format!("mount --bind {CGROUP_ROOT} {unified}"))?;
    let root = hybrid.display().to_string();
    let said = fails(&rig, &["--cgroup-root", &root], Check::CgroupMount, &[])?;
    ensure!(said.found(Check::CgroupMount)?.contains("hybrid"), "{}", said.found(Check::CgroupMount)?);
    // The fix works.
    ensure!(
        said.fix(Check::CgroupMount)?.ends_with(&format!("--cgroup-root={unified}")),
        "{}",
        said.fix(Check::CgroupMount)?
    );
    passes(&rig, &["--cgroup-root", &unified], Check::CgroupMount)
}

fn cgroup1() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    let place = scratch().join("v1/memory");
    mount_cgroup1(&place)?;
    for root in [scratch().join("v1"), place] {
        let said = fails(&rig, &["--cgroup-root", &root.display().to_string()], Check::CgroupMount, &[])?;
        ensure!(said.found(Check::CgroupMount)?.contains("cgroup v1 hierarchy"), "{}", said.found(Check::CgroupMount)?);
    }
    Ok(())
}

fn socket() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::SocketIdentity)?;
    let part = format!("{CGROUP_ROOT}/part");
    fs::create_dir_all(format!("{part}/kubepods"))?;
    let said = fails(&rig, &["--cgroup-root", &part], Check::SocketIdentity, &[])?;
    ensure!(said.found(Check::SocketIdentity)?.contains("not in the tree"), "{}", said.found(Check::SocketIdentity)?);
    Ok(())
}

fn capabilities() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::Capabilities)?;
    for (name, label) in
        [("net_admin", "CAP_NET_ADMIN"), ("sys_admin", "CAP_SYS_ADMIN"), ("net_bind_service", "CAP_NET_BIND_SERVICE")]
    {
        let without = [format!("--bounding-set=-{name}"), format!("--inh-caps=-{name}")];
        rig.options_mut().wrapper = ["setpriv".to_owned()].into_iter().chain(without).collect();
        let said = fails(&rig, &[], Check::Capabilities, &[])?;
        let found = said.found(Check::Capabilities)?;
        ensure!(found.contains(label) && found.lines().count() == 1, "{found}");
        if name == "net_admin" {
            ensure!(said.result(Check::TableGuard)? == "skipped" && said.result(Check::ForeignBefore)? == "skipped");
        }
    }
    rig.options_mut().wrapper = Vec::new();
    passes(&rig, &[], Check::Capabilities)
}

fn kubepods() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::KubepodsTree)?;
    // This part of the tree contains the check's own socket but no cgroup of the kubelet.
    let services = format!("{CGROUP_ROOT}/system.slice");
    fails(&rig, &["--cgroup-root", &services], Check::KubepodsTree, &[])?;
    // Pods, but no container that podrole recognizes.
    let pod = format!("{services}/kubepods/burstable/pod3f0c9a52-1111-2222-3333-444455556666");
    fs::create_dir_all(format!("{pod}/container-of-an-unknown-runtime"))?;
    let said = fails(&rig, &["--cgroup-root", &services], Check::KubepodsTree, &[])?;
    ensure!(said.found(Check::KubepodsTree)?.contains("1 pods, but no cgroup"), "{}", said.found(Check::KubepodsTree)?);
    fs::create_dir(format!("{pod}/crio-{}", ["8f2c1b0a"; 8].concat()))?;
    passes(&rig, &["--cgroup-root", &services], Check::KubepodsTree)
}

fn netns_dir() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::NetnsDir)?;
    fails(&rig, &["--netns-dir", "/nonexistent"], Check::NetnsDir, &[])?;
    // A container without mount propagation sees plain files in the host's directory.
    let files = scratch().join("files");
    fs::create_dir(&files)?;
    let flags = ["--netns-dir", &files.display().to_string()].map(str::to_owned);
    let flags = flags.each_ref().map(String::as_str);
    passes(&rig, &flags, Check::NetnsDir)?;
    fs::write(files.join("cni-1"), "")?;
    let said = fails(&rig, &flags, Check::NetnsDir, &[])?;
    ensure!(said.fix(Check::NetnsDir)?.contains("HostToContainer"), "{}", said.fix(Check::NetnsDir)?);
    Ok(())
}

fn state_dir() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::StateDir)?;
    let state = scratch().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
    fails(&rig, &[], Check::StateDir, &[])?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    passes(&rig, &[], Check::StateDir)?;
    let link = scratch().join("link");
    symlink(&state, &link)?;
    fails(&rig, &["--state-dir", &link.display().to_string()], Check::StateDir, &[])?;
    fs::rename(state.join("keys"), state.join("elsewhere"))?;
    symlink(state.join("elsewhere"), state.join("keys"))?;
    fails(&rig, &[], Check::StateDir, &[])?;
    fs::rename(state.join("elsewhere"), state.join("keys"))?;
    passes(&rig, &[], Check::StateDir)?;
    // A directory that does not exist yet is fine, and the check does not create it. One that cannot be created is an error.
    let fresh = scratch().join("fresh");
    passes(&rig, &["--state-dir", &fresh.display().to_string()], Check::StateDir)?;
    ensure!(!fresh.exists(), "check created a state directory");
    fails(&rig, &["--state-dir", "/nonexistent/state"], Check::StateDir, &[]).map(drop)
}

fn identity() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::IdentityMode)?;
    fails(&rig, &["--identity", "ip"], Check::IdentityMode, &[])?;
    // Requirements of the other mode do not count.
    let said = check(&rig, &["--identity", "ip", "--cgroup-root", "/nonexistent", "--netns-dir", "/nonexistent"])?;
    ensure!(said.code == Some(0) && said.result(Check::CgroupMount)? == "skipped", "{:#}", said.report);
    Ok(())
}
