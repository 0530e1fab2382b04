//! A client inside a container.
//!
//! An agent is the test program itself, started again in a container's cgroup and network namespace. It executes orders
//! from the test: thousands of raw requests, connections held open, load. Starting an agent costs milliseconds, a
//! request microseconds.

mod client;
mod failure;
mod http;
mod load;
mod serve;
mod wire;

use std::env;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::node::{METADATA_V4, METADATA_V6};
use crate::proc;
use wire::{Answer, Op};

pub use client::{Client, Connection, Creds, CredsError};
pub use failure::Failure;
pub use http::Response;
pub use load::{Load, LoadReport};
pub use wire::{End, Received, Target};

/// The argument that makes the program an agent.
pub(crate) const FLAG: &str = "--lab-agent";

/// Executes one agent's orders until its standard input ends. Returns the exit code.
pub(crate) fn become_agent() -> i32 {
    match serve::run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("lab agent: {error:#}");
            1
        }
    }
}

/// A running agent. Dropping it ends its process.
pub struct Agent {
    child: Mutex<Child>,
    pipes: Mutex<Pipes>,
}

struct Pipes {
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts an agent with a command that selects its container, such as [`crate::pod::Pod::command`]; the command may
    /// include wrappers such as `taskset`. Returns once the agent is in its cgroup and network namespace.
    pub fn start(mut command: Command) -> Result<Self> {
        command.arg(env::current_exe().context("find this program")?).arg(FLAG);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the agent's output is a pipe")?);
        let agent = Self { child: Mutex::new(child), pipes: Mutex::new(Pipes { orders, answers }) };
        // Wait for the agent's greeting: from now on it is in the pod's cgroup and ends when the pod is deleted.
        agent.lock().answer().and_then(Answer::done).with_context(|| format!("start an agent with {command:?}"))?;
        Ok(agent)
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// A client for the metadata service's IPv4 address.
    pub fn v4(&self) -> Client<'_> {
        self.to(Target::v4())
    }

    /// A client for the metadata service's IPv6 address.
    pub fn v6(&self) -> Client<'_> {
        self.to(Target::v6())
    }

    /// A client for any target.
    pub fn to(&self, target: Target) -> Client<'_> {
        Client::new(self, target)
    }

    /// Sends raw bytes to the metadata service and reads the answer.
    pub fn raw(&self, bytes: &[u8]) -> Result<Response, Failure> {
        self.v4().raw(bytes)
    }

    /// Sends a `GET` to the metadata service.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response, Failure> {
        self.v4().get(path, headers)
    }

    /// Asks the metadata service for a session token.
    pub fn put_token(&self, seconds: u32) -> Result<Response, Failure> {
        self.v4().put_token(seconds)
    }

    /// Gets credentials as an SDK does: token, role, credentials.
    pub fn credentials(&self) -> Result<Creds, CredsError> {
        self.v4().credentials()
    }

    /// Opens a connection that stays open.
    pub fn open(&self, target: &Target) -> Result<Connection<'_>, Failure> {
        Connection::open(self, target)
    }

    /// Whether a TCP connection to `address` can be established. Closes it at once.
    pub fn reach(&self, address: SocketAddr, timeout: Duration) -> Result<(), Failure> {
        self.open(&Target::new(address).timeout(timeout))?.close()
    }

    /// Sends a UDP datagram and waits for one datagram in answer.
    pub fn datagram(&self, target: &Target, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(self.call(&Op::Datagram { target: *target, data: BASE64.encode(bytes) })?.received()?.bytes)
    }

    /// Runs a load plan and waits until it is done.
    pub fn load(&self, load: &Load) -> Result<LoadReport, Failure> {
        self.start_load(load)?.wait()
    }

    /// Starts a load plan and returns at once. The agent accepts no other orders until the plan is done.
    pub fn start_load(&self, load: &Load) -> Result<RunningLoad<'_>, Failure> {
        let mut pipes = self.lock();
        pipes.order(&Op::Load(load.clone()))?;
        Ok(RunningLoad { pipes })
    }

    pub(crate) fn call(&self, op: &Op) -> Result<Answer, Failure> {
        let mut pipes = self.lock();
        pipes.order(op)?;
        pipes.answer()
    }

    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipes {
    fn order(&mut self, op: &Op) -> Result<(), Failure> {
        let mut line = serde_json::to_string(op).map_err(Failure::agent)?;
        line.push('\n');
        let orders = self.orders.as_mut().ok_or_else(|| Failure::Agent("the agent was told to end".into()))?;
        orders.write_all(line.as_bytes()).map_err(Failure::agent)
    }

    fn answer(&mut self) -> Result<Answer, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(Failure::agent)?;
        if line.is_empty() {
            return Err(Failure::Agent("the agent has ended".into()));
        }
        serde_json::from_str(&line).map_err(Failure::agent)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.lock().orders = None;
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(proc::reap(&mut child, Duration::from_secs(1)), Ok(Some(_))) {
            // Ignore errors: the agent may just have ended.
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

/// A load plan in progress.
pub struct RunningLoad<'a> {
    pipes: MutexGuard<'a, Pipes>,
}

impl RunningLoad<'_> {
    /// Waits until the plan is done.
    pub fn wait(mut self) -> Result<LoadReport, Failure> {
        self.pipes.answer()?.report()
    }
}

impl fmt::Debug for RunningLoad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningLoad")
    }
}

impl Target {
    /// The metadata service.
    pub fn v4() -> Self {
        Self::new((METADATA_V4, 80))
    }

    /// The metadata service over IPv6.
    pub fn v6() -> Self {
        Self::new((METADATA_V6, 80))
    }

    /// Any address and port, with a timeout of five seconds.
    pub fn new(to: impl Into<SocketAddr>) -> Self {
        Self { to: to.into(), from: None, mapped: false, timeout_ms: 5_000, half_closes: false, on_device: false }
    }

    /// The timeout for the connection and then for each read.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Opens an IPv6 socket and connects it to an IPv4-mapped address, as the JVM does.
    #[must_use]
    pub fn mapped(mut self) -> Self {
        self.mapped = true;
        self
    }

    /// Binds to this source port.
    #[must_use]
    pub fn from_port(mut self, port: u16) -> Self {
        let any: IpAddr = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.from = Some(SocketAddr::new(self.from.map_or(any, |from| from.ip()), port));
        self
    }

    /// Binds to this source address, which must exist in the agent's netns.
    #[must_use]
    pub fn from_address(mut self, address: impl Into<IpAddr>) -> Self {
        self.from = Some(SocketAddr::new(address.into(), self.from.map_or(0, |from| from.port())));
        self
    }
}

fn decode(data: &str) -> Result<Vec<u8>, Failure> {
    BASE64.decode(data).map_err(Failure::agent)
}
