//! A double of the cloud's metadata service. It runs behind the node's uplink and records everything that reaches it.
//!
//! It answers as EC2 does, with the credentials of the node's role, which no pod may ever see. It also listens on other
//! ports. A counter in its firewall counts every packet for its addresses, of any protocol, that the node itself did
//! not send: these packets are leaks.

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

/// The service's behavior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Answers as EC2 does.
    #[default]
    Serving,
    /// Refuses connections, as if no service existed.
    Off,
    /// Answers as EC2 does, but only after this delay.
    Slow(Duration),
    /// Answers as Google's service does, which uses the same address.
    Google,
}

/// The protocol of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A connection or datagram that reached the service.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Time of arrival.
    pub at: SystemTime,
    /// The sender's address.
    pub peer: SocketAddr,
    /// The destination's address and port.
    pub local: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The bytes received so far.
    pub bytes: Vec<u8>,
}

impl Seen {
    /// The received bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The running service. Dropping it ends it.
pub struct Imds {
    shared: Arc<Shared>,
    wan: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// State shared between the handle and the service's thread.
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

    /// Records an arrival. Later bytes of the same connection are added under the returned number.
    fn note(&self, seen: Seen) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.seen.insert(number, seen);
        number
    }

    fn note_more(&self, number: u64, bytes: &[u8]) {
        // A test may have cleared the records meanwhile.
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

    /// Changes the behavior, effective at once.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        // The kernel refuses the connections, which avoids a race with connections that wait to be accepted.
        let mut script = "flush chain inet lab closed\n".to_owned();
        if mode == Mode::Off {
            script.push_str("add rule inet lab closed tcp dport 80 reject with tcp reset\n");
        }
        nft(&self.wan, &script)?;
        self.shared.lock().mode = mode;
        Ok(())
    }

    /// `true` (the default) serves requests without a session token; `false` answers them with 401, as a hardened node
    /// does.
    pub fn set_v1(&self, on: bool) {
        self.shared.lock().v1 = on;
    }

    /// Changes the facts about the node.
    pub fn set_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.shared.lock().facts);
    }

    /// The facts about the node.
    pub fn facts(&self) -> Facts {
        self.shared.lock().facts.clone()
    }

    /// Changes the credentials of the node's role, effective at once.
    pub fn set_credentials(&self, credentials: NodeCredentials) {
        let mut state = self.shared.lock();
        state.credentials = credentials;
        state.since = Timestamp::now();
    }

    /// The credentials of the node's role, which no pod may ever see.
    pub fn credentials(&self) -> NodeCredentials {
        self.shared.lock().credentials.clone()
    }

    /// Everything that reached the service, in order. A connection is recorded when it is accepted, before any answer.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.values().cloned().collect()
    }

    /// Everything that reached the service from a sender other than the node itself: leaks.
    pub fn from_pods(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| !Node::is_own(seen.peer.ip())).collect()
    }

    /// Number of packets of any protocol for the service's addresses that arrived over the uplink from an address other
    /// than the node's own.
    pub fn leaked_packets(&self) -> Result<u64> {
        self.counter("leaked")
    }

    /// Number of packets for the service's addresses that the node itself sent.
    pub fn own_packets(&self) -> Result<u64> {
        self.counter("own")
    }

    /// Clears all records and counters.
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
            // Sending fails only if the thread has already ended.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
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
