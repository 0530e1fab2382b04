//! Who got what: one JSON line per call to STS and per first delivery, and denials counted so that nobody can flood the log.
//!
//! Lines go to their own writer through a bounded queue. No secret can get in: the types that come here do not hold one.

mod deliveries;
mod denials;

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::issuer::StsCall;
use crate::metrics::{Fault, Metrics};
use crate::types::{ContainerId, Denial, PodEntry};

use deliveries::Deliveries;
use denials::Denials;

/// Lines that may wait for a slow disk. Beyond it lines are lost, and counted: a full pipe must not stop credentials.
const QUEUE: usize = 8192;

/// How often denials that were only counted are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// The audit log.
pub struct Audit {
    lines: SyncSender<Item>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    node: Arc<str>,
    deliveries: Deliveries,
    denials: Denials,
}

/// What goes to the writer.
enum Item {
    Line(String),
    /// Everything before this has been written: say so.
    Flush(SyncSender<()>),
}

/// Whom a line is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a PodEntry,
    /// The container, where it is known.
    pub container: Option<&'a ContainerId>,
}

/// Credentials that reach a container.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Who got them.
    pub subject: Subject<'a>,
    /// The role.
    pub role: &'a str,
    /// The session's name.
    pub session_name: &'a str,
    /// The key that joins this line with the call's, and with CloudTrail.
    pub access_key_id: &'a Arc<str>,
    /// `kernel` or `ip`.
    pub identity: &'static str,
}

// === impl Audit ===

impl Audit {
    /// A log that writes to `out` from a thread of its own.
    pub fn new(
        mut out: impl Write + Send + 'static,
        node: Arc<str>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (lines, queue) = sync_channel::<Item>(QUEUE);
        let lost = metrics.clone();
        std::thread::Builder::new().name("podrole-audit".into()).spawn(move || {
            for item in queue {
                match item {
                    Item::Line(mut line) => {
                        line.push('\n');
                        if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                            lost.fault(Fault::AuditLost);
                        }
                    }
                    // Who asked may have given up.
                    Item::Flush(done) => drop(done.try_send(())),
                }
            }
        })?;
        Ok(Self { lines, metrics, clock, node, deliveries: Deliveries::default(), denials: Denials::default() })
    }

    /// A call to STS ended.
    pub fn sts_call(&self, call: &StsCall) {
        let mut line = self.line(call.action);
        line.insert("decision".into(), json!(if call.result.is_ok() { "issued" } else { "failed" }));
        line.insert("role".into(), json!(call.role.as_ref().map(|role| role.as_str())));
        line.insert("session_name".into(), json!(call.session_name.as_ref().map(|name| name.as_str())));
        line.insert("external_id_set".into(), json!(call.external_id));
        line.insert("sts_request_id".into(), json!(call.request_id));
        match &call.result {
            Ok(None) => {}
            Ok(Some((access_key_id, expiration))) => {
                line.insert("access_key_id".into(), json!(access_key_id));
                line.insert("expires".into(), json!(crate::imds::imds_date(*expiration)));
            }
            Err(code) => {
                line.insert("error".into(), json!(code.name()));
            }
        }
        line.insert("latency_ms".into(), json!(call.took.as_millis()));
        self.write("sts_call", line);
    }

    /// Credentials reach a container. The first time of each has a line.
    pub fn delivery(&self, delivery: &Delivery<'_>) {
        if !self.deliveries.is_first(&delivery.subject, delivery.access_key_id) {
            return;
        }
        let mut line = self.line("Deliver");
        line.insert("decision".into(), json!("allow"));
        self.add_subject(&mut line, &delivery.subject);
        line.insert("role".into(), json!(delivery.role));
        line.insert("session_name".into(), json!(delivery.session_name));
        line.insert("access_key_id".into(), json!(**delivery.access_key_id));
        line.insert("identity".into(), json!(delivery.identity));
        if !delivery.subject.pod.container_roles.is_empty() {
            // Containers of one pod share a network: this answer crossed one that a sibling may read.
            line.insert("siblings_may_read".into(), json!(delivery.subject.pod.can_sniff));
        }
        self.write("delivery", line);
    }

    /// A pod was denied. At most one line per pod and reason in ten seconds; the next one tells how many it stands for.
    pub fn denial(&self, subject: &Subject<'_>, reason: Denial, explanation: impl FnOnce() -> String) {
        let counted = self.denials.count(&subject.pod.uid, reason, self.clock.boot(), || {
            let mut line = self.line("Deny");
            line.insert("decision".into(), json!("deny"));
            line.insert("reason".into(), json!(reason.name()));
            self.add_subject(&mut line, subject);
            line.insert("why".into(), json!(explanation()));
            line
        });
        self.write_denials(counted);
    }

    /// Writes what was denied and only counted, of pods that stopped asking. For ever, now and then; never ends.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.write_denials(self.denials.overdue(self.clock.boot()));
        }
    }

    /// The pod is gone: what was only counted is written, and nothing is remembered.
    pub fn forget(&self, pod: &crate::types::PodUid) {
        self.deliveries.forget(pod);
        self.write_denials(self.denials.forget(pod));
    }

    fn write_denials(&self, lines: impl IntoIterator<Item = (Map<String, Value>, u64)>) {
        for (mut line, count) in lines {
            line.insert("count".into(), json!(count));
            line.insert("time".into(), json!(rfc3339(self.clock.wall())));
            self.write("denial", line);
        }
    }

    /// Writes everything that is still to be written, in `patience` at most. For the end of the process; blocks.
    pub fn flush(&self, patience: Duration) {
        self.write_denials(self.denials.overdue(Duration::MAX));
        let (done, wait) = sync_channel(1);
        // Waits for a place in the queue as well, on a thread that may outlive us: the writer may never take another line.
        let lines = self.lines.clone();
        let sent = std::thread::Builder::new().spawn(move || drop(lines.send(Item::Flush(done))));
        if sent.is_ok() {
            let _ = wait.recv_timeout(patience);
        }
    }

    fn line(&self, action: &'static str) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("schema".into(), json!("podrole.audit/v1"));
        line.insert("time".into(), json!(rfc3339(self.clock.wall())));
        line.insert("type".into(), json!("audit"));
        line.insert("action".into(), json!(action));
        line.insert("node".into(), json!(self.node));
        line
    }

    fn add_subject(&self, line: &mut Map<String, Value>, subject: &Subject<'_>) {
        let pod = subject.pod;
        let container = subject.container.map(|id| {
            // A JSON string escapes whatever a name or annotation could smuggle into a terminal or a log parser.
            json!({"id": id.as_str(), "name": pod.container_name(id)})
        });
        line.insert(
            "pod".into(),
            json!({
                "namespace": pod.namespace, "name": pod.name, "uid": pod.uid.as_str(),
                "service_account": pod.service_account, "container": container,
            }),
        );
    }

    fn write(&self, kind: &'static str, line: Map<String, Value>) {
        match self.lines.try_send(Item::Line(Value::Object(line).to_string())) {
            Ok(()) => self.metrics.audit(kind),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.fault(Fault::AuditLost),
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}
