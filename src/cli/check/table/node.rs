//! The checks of the node.

use super::{About, Area, error, warning};

pub(super) const KERNEL: About = error(
    Area::Node,
    "PR-N01",
    "the kernel is new enough",
    "podrole asks the kernel which cgroup a socket belongs to. Linux reports that since 5.7.",
    "Run the node on Linux 5.7 or later, or accept the weaker --identity=ip.",
);
pub(super) const CGROUP_MOUNT: About = error(
    Area::Node,
    "PR-N02",
    "cgroup v2 is mounted at --cgroup-root",
    "podrole identifies a pod's containers by their cgroups in the cgroup v2 hierarchy. On a node with cgroup v1, or if the host's \
     hierarchy is not mounted into podrole's container, it cannot identify them and refuses to start. A hybrid node has v2 too, in a \
     directory of its own.",
    "Boot the node with systemd.unified_cgroup_hierarchy=1; on a hybrid node set --cgroup-root to the directory that the check names; \
     in a container mount the host's /sys/fs/cgroup read-only. Or accept the weaker --identity=ip.",
);
pub(super) const SOCKET_IDENTITY: About = error(
    Area::Node,
    "PR-N03",
    "the kernel reports which cgroup a socket belongs to",
    "The check opens a connection to itself and asks the kernel, as podrole does for each request, which cgroup created the socket. \
     That cgroup must be in the tree at --cgroup-root. The check fails in a container that sees only its own part of the tree, and on a \
     kernel without CONFIG_INET_DIAG or CONFIG_SOCK_CGROUP_DATA.",
    "Mount the host's whole /sys/fs/cgroup at --cgroup-root, not the container's view of it. Load inet_diag and tcp_diag if they are \
     modules.",
);
pub(super) const CAPABILITIES: About = error(
    Area::Node,
    "PR-N04",
    "podrole has the capabilities it needs",
    "podrole needs CAP_NET_ADMIN to set nftables rules and routes and to look up other processes' sockets, CAP_SYS_ADMIN to enter \
     pods' network namespaces, and CAP_NET_BIND_SERVICE to listen on port 80 of the metadata address. It needs no others.",
    "Add the missing capabilities to securityContext.capabilities.add of podrole's container, or run podrole check as root.",
);
pub(super) const KUBEPODS_TREE: About = error(
    Area::Node,
    "PR-N05",
    "the kubelet's cgroups exist",
    "podrole looks for pods' cgroups below a directory named kubepods, kubepods.slice or kubelet-kubepods.slice, at most three levels \
     below --cgroup-root, and for containers' cgroups below the pods' or, if kubelet and runtime have different cgroup drivers, below \
     a systemd slice or the runtime's unit. Where it finds none, it cannot identify the pod of any request.",
    "Check the kubelet's --cgroup-root, that kubelet and runtime use the same cgroup driver, and that podrole sees the host's hierarchy.",
);
pub(super) const NETNS_DIR: About = error(
    Area::Node,
    "PR-N06",
    "pods' network namespaces are visible",
    "podrole enters pods' network namespaces by the names that the container runtime gives them in --netns-dir. If a \
     name is not a network namespace, podrole's container does not see its mount.",
    "Mount the host's /run/netns into podrole's container with mountPropagation: HostToContainer, or correct --netns-dir.",
);
pub(super) const STATE_DIR: About = error(
    Area::Node,
    "PR-N07",
    "the state directory is private to podrole",
    "podrole keeps the keys of session tokens in --state-dir, so that tokens stay valid across a restart. It does not use a directory \
     that other users could read or replace: it then works without one, and every restart invalidates all session tokens.",
    "Remove the directory, so that podrole creates it again, or set --state-dir to a directory that belongs to podrole's user, has \
     mode 0700 and is not a symbolic link.",
);
pub(super) const IDENTITY_MODE: About = warning(
    Area::Node,
    "PR-N08",
    "the kernel identifies pods",
    "With --identity=ip podrole identifies a pod by its address. A pod that can use another pod's address (by NET_RAW or NET_ADMIN, or \
     because the address is reused before the API server reports it) can get that pod's role.",
    "Use --identity=kernel, which needs cgroup v2.",
);
