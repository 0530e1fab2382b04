//! A Kubernetes node inside one process.
//!
//! The lab is what podrole's tests, benchmarks and demo run on: a node made of private Linux namespaces, the pods on
//! it, and the cloud behind it. The API is synchronous; each server runs on its own thread.
//!
//! - [`world`]: private network, mount, pid and cgroup namespaces that vanish with the process, and the test runner
//!   that uses them
//! - [`node`] and [`pod`]: the node's network, its kubepods cgroups, and pods with the network layouts of common CNI
//!   plugins
//! - [`agent`]: a client inside a container, for raw requests and for load
//! - [`imds`]: a double of the cloud's metadata service that records everything that reaches it
//! - [`sts`] and [`kube`]: doubles of AWS STS and of the Kubernetes API that can fail on demand; both use the server in
//!   [`http`]
//! - [`cluster`]: the real kube-apiserver and etcd
//! - [`runtime`] and [`real`]: containerd, the rest of the control plane, and a node that runs its pods with them
//! - [`daemon`]: the daemon under test; [`rig`]: all of the above around it
//! - [`proc`]: child processes
//! - [`diag`]: asks the kernel which cgroup opened a socket
//! - [`effort`]: the sizes of loops and matrices, and their seeds
//! - [`secrets`]: searches everything that was written for leaked secrets
//!
//! A program that uses the lab must call [`hook`] first in `main`: an agent is the same program, started again inside a
//! container.
#![allow(
    clippy::disallowed_methods,
    reason = "these rules are for the daemon; the lab uses real time and starts processes"
)]

pub mod agent;
pub mod cluster;
pub mod daemon;
pub mod diag;
pub mod effort;
pub mod http;
pub mod imds;
pub mod kube;
pub mod node;
pub mod pod;
pub mod proc;
pub mod real;
pub mod rig;
pub mod runtime;
pub mod secrets;
pub mod sts;
pub mod world;

mod ids;
mod netns;

/// Becomes an agent if this process was started as one; otherwise returns at once. Call it first in every `main`.
pub fn hook() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == agent::FLAG) {
        let code = agent::become_agent();
        #[expect(clippy::exit, reason = "this process is only an agent: `main` must not continue")]
        std::process::exit(code);
    }
}
