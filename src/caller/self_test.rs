//! Tests that the kernel can identify callers on this node. Runs before the first pod is served.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::Connection;
use super::sock_diag::{Lookup, SockDiag};

/// From `linux/magic.h`; no crate has it.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Why the kernel cannot identify callers here, and what to do about it.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// A capability is missing.
    #[error("the capability {name} is missing ({what}); add it to the container's securityContext.capabilities")]
    Capability {
        /// The capability's name.
        name: &'static str,
        /// Why podrole needs the capability.
        what: &'static str,
    },
    /// There is no cgroup2 mount at `--cgroup-root`.
    #[error(
        "{path} is not a cgroup2 mount ({found}): this node runs cgroup v1, or the host's hierarchy is not mounted there; \
         boot the node with cgroup v2, correct --cgroup-root, or accept the weaker --identity=ip"
    )]
    NoCgroup2 {
        /// The value of `--cgroup-root`.
        path: String,
        /// The file system type at that path, or the error.
        found: String,
    },
    /// The kernel does not report a socket's cgroup.
    #[error(
        "the kernel does not report which cgroup a socket belongs to ({0}); use Linux 5.7 or later with CONFIG_INET_DIAG and \
         CONFIG_SOCK_CGROUP_DATA, or --identity=ip"
    )]
    NoSocketCgroup(#[source] io::Error),
    /// The kernel reports a cgroup that is not in the tree at `--cgroup-root`.
    #[error(
        "the cgroup of podrole's socket ({id}) is not in the tree at {path}: mount the host's whole /sys/fs/cgroup there, not the \
         container's view of it"
    )]
    NotInTree {
        /// The cgroup id that the kernel reported.
        id: u64,
        /// The value of `--cgroup-root`.
        path: String,
    },
}

/// A capability that the daemon needs. The DaemonSet grants these and no others.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// The name, with `CAP_`.
    pub name: &'static str,
    /// Why podrole needs the capability.
    pub what: &'static str,
    /// Whether only `--identity=kernel` needs it.
    pub kernel_identity_only: bool,
    bit: CapabilitySet,
}

/// All needed capabilities.
pub const NEEDED: [Capability; 3] = [
    Capability {
        name: "CAP_NET_ADMIN",
        what: "to set nftables rules and routes and to look up other processes' sockets",
        kernel_identity_only: false,
        bit: CapabilitySet::NET_ADMIN,
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        what: "to enter pods' network namespaces",
        kernel_identity_only: true,
        bit: CapabilitySet::SYS_ADMIN,
    },
    Capability {
        name: "CAP_NET_BIND_SERVICE",
        what: "to listen on port 80 of the metadata address",
        kernel_identity_only: false,
        bit: CapabilitySet::NET_BIND_SERVICE,
    },
];

/// Checks the capabilities and the cgroup mount and, if both are in order, looks up one of podrole's own sockets. Returns all
/// problems.
pub fn run(cgroup_root: &Path) -> Result<(), Vec<SelfTestError>> {
    let mut missing: Vec<SelfTestError> = missing_capabilities(true).collect();
    match check_mount(cgroup_root) {
        Err(error) => missing.push(error),
        Ok(()) if missing.is_empty() => missing.extend(check_lookup(cgroup_root).err()),
        Ok(()) => {}
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The capabilities that are missing. With `kernel_identity` all needed capabilities are checked, otherwise only those that
/// `--identity=ip` needs.
pub fn missing_capabilities(kernel_identity: bool) -> impl Iterator<Item = SelfTestError> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    NEEDED
        .into_iter()
        .filter(move |needed| (kernel_identity || !needed.kernel_identity_only) && !effective.contains(needed.bit))
        .map(|Capability { name, what, .. }| SelfTestError::Capability { name, what })
}

/// The error for `CAP_NET_ADMIN`, if that capability is missing. Both guards need it, and the kernel's own error does not name it.
pub fn missing_net_admin() -> Option<SelfTestError> {
    let admin = |error: &SelfTestError| matches!(error, SelfTestError::Capability { name: "CAP_NET_ADMIN", .. });
    missing_capabilities(false).find(admin)
}

/// Checks that a cgroup2 hierarchy is mounted at `path`.
pub fn check_mount(path: &Path) -> Result<(), SelfTestError> {
    let found = match rustix::fs::statfs(path) {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|kind| kind == CGROUP2_SUPER_MAGIC) => return Ok(()),
        Ok(stat) => format!("file system type {:#x}", stat.f_type),
        Err(error) => error.to_string(),
    };
    Err(SelfTestError::NoCgroup2 { path: path.display().to_string(), found })
}

/// Checks that the kernel reports the cgroup of one of podrole's own sockets, and that this cgroup is in the tree at `path`.
pub fn check_lookup(path: &Path) -> Result<(), SelfTestError> {
    let found = own_cgroup().map_err(SelfTestError::NoSocketCgroup)?;
    if holds_inode(path, found, 0) {
        return Ok(());
    }
    Err(SelfTestError::NotInTree { id: found, path: path.display().to_string() })
}

/// Opens a connection from podrole to itself and asks the kernel for the client socket's cgroup.
fn own_cgroup() -> io::Result<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server: SocketAddr = listener.local_addr()?;
    let client = TcpStream::connect(server)?;
    let connection = Connection { peer: client.local_addr()?, server };
    match SockDiag::open()?.client_end(&connection, 0)? {
        Lookup::Found(found) => Ok(found.cgroup),
        Lookup::Absent | Lookup::Unowned => Err(io::Error::other("the kernel did not find an established socket")),
    }
}

/// Whether the tree has a directory with this inode, at most 17 levels down: systemd and the kubelet create no deeper trees.
fn holds_inode(path: &Path, inode: u64, depth: u32) -> bool {
    use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
    if depth == 0 && std::fs::metadata(path).is_ok_and(|meta| meta.ino() == inode) {
        return true;
    }
    let directories = std::fs::read_dir(path).into_iter().flatten().flatten();
    directories
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .any(|entry| entry.ino() == inode || (depth < 16 && holds_inode(&entry.path(), inode, depth + 1)))
}
