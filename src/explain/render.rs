//! Renders the report as text and as JSON. Control characters from objects never reach the terminal.

use std::fmt::Write as _;

use super::report::{Answer, ContainerReport, PodReport, Report, RulesReport, Verdict};

/// The column in which values begin.
const INDENT: usize = 13;

// === impl Report ===

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut page = Page::default();
        for pod in &self.pods {
            page.pod(pod, &self.rules);
        }
        for sentence in &self.assumed {
            page.line("Assumed", sentence);
        }
        page.0
    }

    /// The report for programs: one indented JSON document in ASCII.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let mut ascii = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            // Any other character can only be inside a string, where JSON allows the escape.
            if c == '\n' || c == ' ' || c.is_ascii_graphic() {
                ascii.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
        ascii.push('\n');
        ascii
    }
}

/// `text` on one line of printable ASCII. All other characters are escaped, such as terminal sequences, line breaks and changes
/// of text direction.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c == ' ' || c.is_ascii_graphic() { safe.push(c) } else { safe.extend(c.escape_unicode()) }
    }
    safe
}

#[derive(Default)]
struct Page(String);

// === impl Page ===

impl Page {
    fn line(&mut self, label: &str, value: &str) {
        // This function writes all values, so that no value can start a new line or send an escape sequence.
        let _ = writeln!(self.0, "{label:INDENT$}{}", printable(value).trim_end());
    }

    fn pod(&mut self, pod: &PodReport, rules: &RulesReport) {
        let kind = if pod.kind == "Pod" { "Pod" } else { "Pods of" };
        let owner = if pod.kind == "Pod" { String::new() } else { format!("{} ", pod.kind) };
        let mut about: Vec<String> = Vec::new();
        about.extend(pod.uid.as_ref().map(|uid| format!("uid {uid}")));
        about.extend(pod.node.as_ref().map(|node| format!("node {node}")));
        about.extend((!pod.ips.is_empty()).then(|| format!("ip {}", pod.ips.join(" "))));
        about.push(format!("service account {}", pod.service_account));
        self.line(kind, &format!("{owner}{}/{}  ({})", pod.namespace, pod.name, about.join(", ")));
        match pod.lists.as_slice() {
            [] if rules.require_allow => {
                self.line("Allowed", "nothing: the namespace has no allow list, and --allow has none for it")
            }
            [] => {
                self.line("Allowed", "everything under the ceiling: there is no allow list, and --require-allow=false")
            }
            lists => {
                for list in lists {
                    let error = list.error.as_ref().map(|error| format!("  UNUSABLE: {error}")).unwrap_or_default();
                    self.line("Allowed", &format!("{} = {}{error}", list.source, quoted(&list.value)));
                }
            }
        }
        self.line("Ceiling", &rules.ceiling.join(" "));
        for note in &pod.notes {
            self.line("Note", note);
        }
        // Containers with the same answer share a block.
        let mut rest: Vec<&ContainerReport> = pod.containers.iter().collect();
        while let Some(first) = rest.first().copied() {
            let same =
                |other: &&ContainerReport| other.answer == first.answer && other.once_started == first.once_started;
            let (block, others) = rest.into_iter().partition::<Vec<_>, _>(same);
            rest = others;
            let names: Vec<&str> = block.iter().map(|container| container.name.as_str()).collect();
            self.0.push('\n');
            self.line("Container", &names.join(", "));
            self.answer(&first.answer);
            if let Some(later) = &first.once_started {
                self.line("Then", "once it has started:");
                self.answer(later);
            }
        }
        self.0.push('\n');
    }

    fn answer(&mut self, answer: &Answer) {
        match &answer.requested {
            None if answer.decision == Verdict::NotReady => {}
            None => self.line("Requested", "nothing"),
            Some(requested) => {
                self.line(
                    "Requested",
                    &format!(
                        "{} = {}  (from the {})",
                        requested.annotation,
                        quoted(&requested.value),
                        spoken(requested.source)
                    ),
                );
            }
        }
        if let Some(role) = &answer.role {
            let ceiling = if answer.under_ceiling == Some(true) { "under the ceiling" } else { "ABOVE the ceiling" };
            let lists = if answer.on_lists.is_empty() {
                "not on any list".into()
            } else {
                format!("on {}", answer.on_lists.join(", "))
            };
            self.line("Role", &format!("{role}  ({ceiling}, {lists})"));
        }
        let word = match answer.decision {
            Verdict::Allow => "ALLOW",
            Verdict::NotReady => "NOT YET",
            Verdict::Deny => "DENY",
        };
        self.line("Decision", &format!("{word}  {}", answer.reason.unwrap_or_default()));
        // A ready command is more useful than general advice.
        for (label, value) in
            [("Why", &answer.why), ("Fix", answer.command.as_ref().map_or(&answer.fix, |_| &answer.command))]
        {
            if let Some(value) = value {
                self.line(label, value);
            }
        }
        if answer.decision == Verdict::Allow {
            let name = answer.session_name.as_deref().unwrap_or("not known yet");
            let external = match answer.external_id_from {
                None => "no external id".into(),
                Some(owner) => format!("with the external id of the {owner}"),
            };
            self.line("Session", &format!("{name}, {external}"));
        }
    }
}

fn spoken(source: &str) -> &str {
    if source == "service-account" { "service account" } else { source }
}

/// `text` as a JSON string, which makes its spaces and quotes visible.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
