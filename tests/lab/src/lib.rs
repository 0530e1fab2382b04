//! A node in a box.
//!
//! Everything that podrole's tests, benchmarks and demo stand on: a Kubernetes node made of private namespaces, pods in it, the
//! cloud behind it. The API is synchronous; servers run on threads of their own.
//!
//! - [`world`]: private network, mount, pid and cgroup namespaces that vanish with the process, and a test runner on top
//! - [`node`] and [`pod`]: the node's network, its kubepods cgroups, and pods in every shape that CNI plugins give them
//! - [`agent`]: a client inside a container, for raw requests and for load
//! - [`imds`]: the cloud's metadata service, which remembers everything that reaches it
//! - [`sts`] and [`kube`]: doubles of AWS STS and of the Kubernetes API that can be told to fail, on the server in [`http`]
//! - [`cluster`]: the real kube-apiserver and etcd
//! - [`runtime`] and [`real`]: containerd, the rest of the control plane, and a node that runs its pods with them
//! - [`daemon`]: the daemon under test, and [`rig`]: all of the above around it
//! - [`proc`]: child processes
//! - [`diag`]: the kernel's word on who opened a socket
//! - [`effort`]: sizes of loops and matrices, and seeds
//! - [`secrets`]: a search for secrets that got out
//!
//! A program that uses the lab calls [`hook`] first in `main`: agents are that same program, started again inside a container.
#![allow(
    clippy::disallowed_methods,
    reason = "rules for the daemon; the lab watches real time pass and starts processes"
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

/// Becomes an agent if the program was started as one; returns at once otherwise. To be called first in every `main`.
pub fn hook() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == agent::FLAG) {
        let code = agent::become_agent();
        #[expect(clippy::exit, reason = "the process is an agent and nothing else: `main` must not go on")]
        std::process::exit(code);
    }
}
