//! Proof, before the first pod is served, that identity can be proven on this node.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::Connection;
use super::sock_diag::SockDiag;

/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2: u64 = 0x6367_7270;

/// Why kernel identity cannot work here, and what would help.
#[derive(Debug, Error)]
pub enum CannotProve {
    /// A capability is missing.
    #[error("the capability {name} is missing ({what}); add it to the container's securityContext.capabilities")]
    Capability {
        /// Its name.
        name: &'static str,
        /// What it is for.
        what: &'static str,
    },
    /// No cgroup2 at the given place.
    #[error(
        "{path} is no cgroup2 mount ({found}): this node runs cgroup v1 or the host's hierarchy is not mounted there; \
         boot it with cgroup v2, correct --cgroup-root, or accept the weaker --identity=ip"
    )]
    NoCgroup2 {
        /// `--cgroup-root`.
        path: String,
        /// What stands there instead.
        found: String,
    },
    /// The kernel does not tell a socket's cgroup.
    #[error(
        "the kernel does not tell which cgroup a socket belongs to ({0}); it needs CONFIG_INET_DIAG and \
         CONFIG_SOCK_CGROUP_DATA (Linux 5.7), or --identity=ip"
    )]
    NoSocketCgroup(#[source] io::Error),
    /// It tells one, but not from the tree at the given place.
    #[error(
        "a socket's cgroup ({id}) is not in the tree at {path}: mount the host's /sys/fs/cgroup there, not the container's own view"
    )]
    NotInTree {
        /// The id that the kernel gave.
        id: u64,
        /// `--cgroup-root`.
        path: String,
    },
}

/// A capability that the daemon needs; the DaemonSet grants these and no others.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its name, `CAP_` included.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    /// Whether it is for the kernel's proof alone, so that `--identity=ip` does without.
    pub for_proof: bool,
    bit: CapabilitySet,
}

/// All of them.
pub const NEEDED: [Capability; 3] = [
    Capability {
        name: "CAP_NET_ADMIN",
        what: "nftables, routes, and other processes' sockets",
        for_proof: false,
        bit: CapabilitySet::NET_ADMIN,
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        what: "to enter pods' network namespaces",
        for_proof: true,
        bit: CapabilitySet::SYS_ADMIN,
    },
    Capability {
        name: "CAP_NET_BIND_SERVICE",
        what: "to listen on port 80 of the metadata address",
        for_proof: false,
        bit: CapabilitySet::NET_BIND_SERVICE,
    },
];

/// Checks capabilities, the cgroup mount, and a real look-up of a socket of our own.
pub fn run(cgroup_root: &Path) -> Result<(), Vec<CannotProve>> {
    let mut missing: Vec<CannotProve> = missing_capabilities(true).collect();
    match check_mount(cgroup_root) {
        Err(error) => missing.push(error),
        Ok(()) if missing.is_empty() => missing.extend(check_lookup(cgroup_root).err()),
        Ok(()) => {}
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// What is missing of the capabilities that are needed with, or without, the kernel's proof.
pub fn missing_capabilities(proof: bool) -> impl Iterator<Item = CannotProve> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    NEEDED
        .into_iter()
        .filter(move |needed| (proof || !needed.for_proof) && !effective.contains(needed.bit))
        .map(|Capability { name, what, .. }| CannotProve::Capability { name, what })
}

/// The capability that both locks need, where it is missing: the kernel says only that something is not permitted.
pub fn lacks_net_admin() -> Option<CannotProve> {
    let admin = |error: &CannotProve| matches!(error, CannotProve::Capability { name: "CAP_NET_ADMIN", .. });
    missing_capabilities(false).find(admin)
}

/// Whether a cgroup2 hierarchy is mounted at `path`.
pub fn check_mount(path: &Path) -> Result<(), CannotProve> {
    let found = match rustix::fs::statfs(path) {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|kind| kind == CGROUP2) => return Ok(()),
        Ok(stat) => format!("file system type {:#x}", stat.f_type),
        Err(error) => error.to_string(),
    };
    Err(CannotProve::NoCgroup2 { path: path.display().to_string(), found })
}

/// Whether the kernel tells the cgroup of a socket of our own, and that is in the tree at `path`.
pub fn check_lookup(path: &Path) -> Result<(), CannotProve> {
    let found = own_socket().map_err(CannotProve::NoSocketCgroup)?;
    if holds_inode(path, found, 0) {
        return Ok(());
    }
    Err(CannotProve::NotInTree { id: found, path: path.display().to_string() })
}

/// Connects to ourselves and asks for that very socket's cgroup.
fn own_socket() -> io::Result<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server: SocketAddr = listener.local_addr()?;
    let client = TcpStream::connect(server)?;
    let connection = Connection { peer: client.local_addr()?, server };
    let found = SockDiag::open()?.established(&connection)?;
    found.map(|found| found.cgroup).ok_or_else(|| io::Error::other("an established socket was not found"))
}

/// Deep enough for any cgroup tree that systemd or a kubelet makes.
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
