//! The cloud's metadata service, behind the node's uplink, which remembers everything that reaches it.
//!
//! It answers as EC2 does, with the credentials of the node's own role: those that no pod must ever see. It listens on other ports
//! too, and a counter in its firewall counts every packet for its addresses, of whatever protocol, that the node did not send
//! itself: what has leaked.

mod answer;
mod facts;
mod serve;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use std::{process::Command, thread};

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::node::{METADATA_V4, METADATA_V6, NODE_V4, NODE_V6, Node};
use crate::{netns, proc};

pub use facts::{Facts, NodeCredentials};

/// How the service behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As EC2.
    #[default]
    Serving,
    /// Nobody is there: connections are refused.
    Off,
    /// As EC2, but every answer takes this long.
    Slow(Duration),
    /// As Google's, which has the same address.
    Google,
}

/// By what a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A connection or datagram that reached the service.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came.
    pub at: SystemTime,
    /// Who sent it.
    pub peer: SocketAddr,
    /// What address and port it was for.
    pub local: SocketAddr,
    /// By what it came.
    pub protocol: Protocol,
    /// Everything that came with it so far.
    pub bytes: Vec<u8>,
}

impl Seen {
    /// What came, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The running service. It ends when dropped.
pub struct Imds {
    shared: Arc<Shared>,
    wan: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the test and the service's thread share.
struct Shared(Mutex<State>);

struct State {
    mode: Mode,
    v1: bool,
    facts: Facts,
    credentials: NodeCredentials,
    since: Timestamp,
    tokens: BTreeMap<String, std::time::Instant>,
    seen: BTreeMap<u64, Seen>,
    last: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an arrival; the number names it when more of it comes.
    fn note(&self, seen: Seen) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.seen.insert(number, seen);
        number
    }

    fn note_more(&self, number: u64, bytes: &[u8]) {
        // It may have been cleared meanwhile.
        if let Some(seen) = self.lock().seen.get_mut(&number) {
            seen.bytes.extend_from_slice(bytes);
        }
    }
}

impl Imds {
    /// Starts the service behind the node's uplink.
    pub fn start(node: &Node) -> Result<Self> {
        let wan = node.wan_netns().to_owned();
        nft(&wan, &firewall())?;
        let shared = Arc::new(Shared(Mutex::new(State {
            mode: Mode::Serving,
            v1: true,
            facts: Facts::default(),
            credentials: NodeCredentials::default(),
            since: Timestamp::now(),
            tokens: BTreeMap::new(),
            seen: BTreeMap::new(),
            last: 0,
        })));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (place, state) = (wan.clone(), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("lab-imds".into())
            .spawn(move || serve::run(&place, state, &ready, stopped))
            .context("start a thread")?;
        is_ready.recv().map_err(|_| anyhow!("the metadata service ended before it was ready"))??;
        Ok(Self { shared, wan, stop: Some(stop), thread: Some(thread) })
    }

    /// Changes its behaviour, at once.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        // The kernel refuses for us: no race with connections that wait to be accepted.
        let mut script = "flush chain inet lab closed\n".to_owned();
        if mode == Mode::Off {
            script.push_str("add rule inet lab closed tcp dport 80 reject with tcp reset\n");
        }
        nft(&self.wan, &script)?;
        self.shared.lock().mode = mode;
        Ok(())
    }

    /// Serves requests without a session token, or answers them 401 as a hardened node does. At first it serves them.
    pub fn set_v1(&self, on: bool) {
        self.shared.lock().v1 = on;
    }

    /// Changes what it says about the node.
    pub fn set_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.shared.lock().facts);
    }

    /// What it says about the node.
    pub fn facts(&self) -> Facts {
        self.shared.lock().facts.clone()
    }

    /// Changes the node role's credentials, as of now.
    pub fn set_credentials(&self, credentials: NodeCredentials) {
        let mut state = self.shared.lock();
        state.credentials = credentials;
        state.since = Timestamp::now();
    }

    /// The node role's credentials: what no pod must ever see.
    pub fn credentials(&self) -> NodeCredentials {
        self.shared.lock().credentials.clone()
    }

    /// Everything that reached it, in order. A connection is noted when it is accepted, before any answer.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.values().cloned().collect()
    }

    /// What reached it from anyone but the node itself: a leak.
    pub fn from_pods(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| !Node::is_own(seen.peer.ip())).collect()
    }

    /// Packets of any protocol for its addresses that came over the uplink and not from the node's own address.
    pub fn leaked_packets(&self) -> Result<u64> {
        self.counter("leaked")
    }

    /// Packets for its addresses that the node itself sent.
    pub fn own_packets(&self) -> Result<u64> {
        self.counter("own")
    }

    /// Forgets everything it has seen and counted.
    pub fn clear(&self) -> Result<()> {
        self.shared.lock().seen.clear();
        nft(&self.wan, "reset counters table inet lab\n").map(drop)
    }

    fn counter(&self, name: &str) -> Result<u64> {
        let text = nft(&self.wan, &format!("list counter inet lab {name}\n"))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        let number = words.nth(1).with_context(|| format!("nft listed no packets: {text}"))?;
        number.parse().with_context(|| format!("nft listed {text}"))
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Its thread has ended if nobody listens.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was printed when it happened.
            thread.join().ok();
        }
    }
}

impl fmt::Debug for Imds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imds").field("mode", &self.shared.lock().mode).finish_non_exhaustive()
    }
}

fn nft(wan: &std::path::Path, script: &str) -> Result<String> {
    netns::within(wan, || proc::feed(Command::new("nft").args(["-f", "-"]), script.as_bytes()))
        .with_context(|| format!("nft behind the uplink with:\n{script}"))
}

fn firewall() -> String {
    format!(
        r#"table inet lab {{
    counter leaked {{ }}
    counter own {{ }}
    chain arriving {{
        type filter hook prerouting priority -300;
        iifname "eth0" ip daddr {METADATA_V4} ip saddr {NODE_V4} counter name own
        iifname "eth0" ip daddr {METADATA_V4} ip saddr != {NODE_V4} counter name leaked
        iifname "eth0" ip6 daddr {METADATA_V6} ip6 saddr {NODE_V6} counter name own
        iifname "eth0" ip6 daddr {METADATA_V6} ip6 saddr != {NODE_V6} counter name leaked
    }}
    chain closed {{
        type filter hook input priority 0;
    }}
}}
"#
    )
}
