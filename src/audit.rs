//! The audit log: one JSON line per STS call and per first delivery of credentials to a container. Denials are counted and
//! summarized, so that no pod can flood the log.
//!
//! A thread receives the lines through a bounded queue and writes them. No secret can get into the log, because none of the types
//! used here contains one.

mod deliveries;
mod denials;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::issuer::StsCall;
use crate::line_writer::LineWriter;
use crate::metrics::{AuditRecord, Fault, Metrics};
use crate::types::{ContainerId, Denial, PodEntry};

use deliveries::Deliveries;
use denials::Denials;

/// The number of lines that may wait for a slow writer. Further lines are dropped and counted, because a full pipe must not stop
/// pods from getting credentials.
const QUEUE: usize = 8192;

/// The interval at which the audit log looks for counted denials whose line is due.
const SWEEP: Duration = Duration::from_secs(5);

/// The audit log.
pub struct Audit {
    lines: LineWriter,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    node: Arc<str>,
    deliveries: Deliveries,
    denials: Denials,
}

/// The pod and the container that an audit line describes.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a PodEntry,
    /// The container, if known.
    pub container: Option<&'a ContainerId>,
}

/// A delivery of credentials to a container.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The recipient.
    pub subject: Subject<'a>,
    /// The role.
    pub role: &'a str,
    /// The session name.
    pub session_name: &'a str,
    /// The access key ID, which links this line to the line of the STS call and to CloudTrail.
    pub access_key_id: &'a Arc<str>,
    /// How the caller was identified: `kernel` or `ip`.
    pub identity: &'static str,
}

// === impl Audit ===

impl Audit {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    ///
    /// The thread could not be started.
    pub fn new(
        out: impl Write + Send + 'static,
        node: Arc<str>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let lost = metrics.clone();
        let lines = LineWriter::start("podrole-audit", QUEUE, out, Arc::new(move || lost.fault(Fault::AuditLost)))?;
        Ok(Self { lines, metrics, clock, node, deliveries: Deliveries::default(), denials: Denials::default() })
    }

    /// Writes a line for an STS call.
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
        self.write(AuditRecord::StsCall, line);
    }

    /// Writes a line for the first delivery of these credentials to this container. Later deliveries get no line.
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
            // Containers of one pod share a network namespace, so a privileged sibling can read this answer on the wire.
            line.insert("siblings_may_read".into(), json!(delivery.subject.pod.siblings_may_read));
        }
        self.write(AuditRecord::Delivery, line);
    }

    /// Records a denial. Writes at most one line per pod and reason in ten seconds. The line contains the number of denials that
    /// it stands for.
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

    /// Writes, every few seconds, the lines for counted denials of pods that no longer send requests. Never returns.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.write_denials(self.denials.overdue(self.clock.boot()));
        }
    }

    /// Writes the counted denials of a pod that is gone or has changed, and forgets the pod.
    pub fn forget(&self, pod: &crate::types::PodUid) {
        self.deliveries.forget(pod);
        self.write_denials(self.denials.forget(pod));
    }

    fn write_denials(&self, lines: impl IntoIterator<Item = (Map<String, Value>, u64)>) {
        for (mut line, count) in lines {
            line.insert("count".into(), json!(count));
            line.insert("time".into(), json!(rfc3339(self.clock.wall())));
            self.write(AuditRecord::Denial, line);
        }
    }

    /// Writes all pending lines and blocks for at most `timeout`. The daemon calls this function before the process ends.
    pub fn flush(&self, timeout: Duration) {
        self.write_denials(self.denials.overdue(Duration::MAX));
        self.lines.flush(timeout);
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
            // JSON strings escape control characters that a name could smuggle into a terminal or a log parser.
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

    fn write(&self, kind: AuditRecord, line: Map<String, Value>) {
        if self.lines.write(format!("{}\n", Value::Object(line)).into_bytes()) {
            self.metrics.audit(kind);
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
