//! Turns outcomes into a report and an exit code. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Outcome;
use super::table::{Area, Check, Severity};

/// The schema of the JSON output. Members may be added. As long as the schema has this name, no member is removed or changes its
/// meaning.
const SCHEMA: &str = "podrole.check/v1";

/// The outcomes of all checks on one node.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) node: Arc<str>,
    pub(super) findings: BTreeMap<Check, Outcome>,
}

/// The style of the mark before each check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbols {
    Unicode,
    Ascii,
}

/// The result of a check, as the report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Failed(Severity),
    Skipped,
}

// === impl Report ===

impl Report {
    /// Whether the command succeeds: there is no error and, if `strict` is set, no warning.
    pub(super) fn passes(&self, strict: bool) -> bool {
        let worst = if strict { Severity::Warning } else { Severity::Error };
        !self.verdicts().any(|(_, verdict)| matches!(verdict, Verdict::Failed(severity) if severity >= worst))
    }

    /// The text output: all checks by area.
    pub(super) fn text(&self, symbols: Symbols) -> String {
        let mut text = String::new();
        for area in Area::ALL {
            let name = area.name();
            let _ = writeln!(text, "{name}\n{}", "-".repeat(name.len()));
            for (check, outcome) in self.findings.iter().filter(|(check, _)| check.area() == area) {
                let (about, verdict) = (check.about(), verdict(*check, outcome));
                let _ = writeln!(text, "{} {} {}", symbols.mark(verdict), about.code, about.title);
                match outcome {
                    Outcome::Ok(found) => push_lines(&mut text, "", found),
                    Outcome::Skipped(why) => push_lines(&mut text, "skipped: ", why),
                    Outcome::Failed { found, .. } => {
                        push_lines(&mut text, "", found);
                        push_lines(&mut text, "fix: ", fix(*check, outcome).unwrap_or_default());
                        push_lines(&mut text, "see ", &page(*check));
                    }
                }
            }
            text.push('\n');
        }
        let [ok, warnings, errors, skipped] = self.counts();
        let _ = write!(text, "{}: {ok} ok, {warnings} warnings, {errors} errors, {skipped} skipped", self.node);
        text
    }

    /// The short output: failed checks, one line each.
    pub(super) fn short(&self) -> String {
        let lines = self.findings.iter().filter_map(|(check, outcome)| {
            let (Verdict::Failed(severity), Outcome::Failed { found, .. }) = (verdict(*check, outcome), outcome) else {
                return None;
            };
            let about = check.about();
            Some(format!("{} {}: {} (expected: {})", about.code, severity.name(), one_line(found), about.title))
        });
        let lines: Vec<String> = lines.collect();
        if lines.is_empty() { "nothing is wrong".into() } else { lines.join("\n") }
    }

    /// The JSON output.
    pub(super) fn json(&self) -> String {
        let [ok, warnings, errors, skipped] = self.counts();
        let areas: Vec<Value> = Area::ALL.iter().map(|area| self.area_json(*area)).collect();
        let report = json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "node": self.node.as_ref(),
            "success": errors == 0,
            "summary": {"ok": ok, "warning": warnings, "error": errors, "skipped": skipped},
            "areas": areas,
        });
        format!("{report:#}")
    }

    fn area_json(&self, area: Area) -> Value {
        let of_area = self.findings.iter().filter(|(check, _)| check.area() == area);
        let checks: Vec<Value> = of_area
            .map(|(check, outcome)| {
                let about = check.about();
                let (Outcome::Ok(found) | Outcome::Failed { found, .. } | Outcome::Skipped(found)) = outcome;
                json!({
                    "code": about.code,
                    "title": about.title,
                    "result": verdict(*check, outcome).name(),
                    "found": found,
                    "fix": fix(*check, outcome),
                    "page": page(*check),
                })
            })
            .collect();
        json!({"name": area.name(), "checks": checks})
    }

    fn verdicts(&self) -> impl Iterator<Item = (Check, Verdict)> {
        self.findings.iter().map(|(check, outcome)| (*check, verdict(*check, outcome)))
    }

    /// The numbers of passed checks, warnings, errors and skipped checks.
    fn counts(&self) -> [usize; 4] {
        [Verdict::Ok, Verdict::Failed(Severity::Warning), Verdict::Failed(Severity::Error), Verdict::Skipped]
            .map(|wanted| self.verdicts().filter(|(_, verdict)| *verdict == wanted).count())
    }
}

// === impl Symbols ===

impl Symbols {
    /// Chooses Unicode only if the locale of the environment says that the terminal can show it.
    pub(super) fn of(environment: &HashMap<String, String>) -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| environment.get(*name));
        let locale = set.map(|value| value.to_lowercase()).find(|value| !value.is_empty()).unwrap_or_default();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }

    fn mark(self, verdict: Verdict) -> &'static str {
        match (self, verdict) {
            (Self::Unicode, Verdict::Ok) => "√",
            (Self::Unicode, Verdict::Failed(Severity::Warning)) => "‼",
            (Self::Unicode, Verdict::Failed(Severity::Error)) => "×",
            (Self::Unicode, Verdict::Skipped) => "·",
            (Self::Ascii, Verdict::Ok) => "[ok]  ",
            (Self::Ascii, Verdict::Failed(Severity::Warning)) => "[warn]",
            (Self::Ascii, Verdict::Failed(Severity::Error)) => "[FAIL]",
            (Self::Ascii, Verdict::Skipped) => "[skip]",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(severity) => severity.name(),
            Self::Skipped => "skipped",
        }
    }
}

fn verdict(check: Check, outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Ok(_) => Verdict::Ok,
        Outcome::Failed { .. } => Verdict::Failed(check.about().severity),
        Outcome::Skipped(_) => Verdict::Skipped,
    }
}

fn fix(check: Check, outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Failed { fix, .. } => Some(fix.as_deref().unwrap_or_else(|| check.about().fix)),
        Outcome::Ok(_) | Outcome::Skipped(_) => None,
    }
}

fn page(check: Check) -> String {
    format!("docs/checks/{}.md", check.code())
}

fn push_lines(text: &mut String, label: &str, words: &str) {
    for (number, line) in words.lines().enumerate() {
        let label = if number == 0 { label } else { "" };
        let _ = writeln!(text, "    {label}{line}");
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: impl IntoIterator<Item = (Check, Outcome)>) -> Report {
        Report { node: "node-1".into(), findings: outcomes.into_iter().collect() }
    }

    #[test]
    fn exit_codes() {
        let (bad, odd) = ((Check::TableGuard, Outcome::failed("x")), (Check::Counting, Outcome::failed("x")));
        let skipped = (Check::FirstHop, Outcome::skipped("x"));
        assert!(report([skipped.clone(), (Check::Kernel, Outcome::ok("x"))]).passes(true));
        assert!(report([odd.clone()]).passes(false) && !report([odd.clone()]).passes(true));
        assert!(!report([skipped, odd, bad]).passes(false));
    }

    #[test]
    fn a_skipped_check_does_not_look_passed() {
        let report = report([(Check::Kernel, Outcome::skipped("asleep")), (Check::TableGuard, Outcome::ok("there"))]);
        let text = report.text(Symbols::Ascii);
        assert!(text.contains("[skip] PR-N01") && text.contains("skipped: asleep"), "{text}");
        assert!(
            text.contains("[ok]   PR-R03") && text.ends_with("node-1: 1 ok, 0 warnings, 0 errors, 1 skipped"),
            "{text}"
        );
        assert!(text.is_ascii());
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["areas"][0]["checks"][0]["result"], "skipped");
        assert_eq!((&json["success"], &json["areas"][0]["checks"][0]["fix"]), (&json!(true), &Value::Null));
    }

    #[test]
    fn a_failed_check_is_reported_with_a_fix() {
        let here = Outcome::failed("two\nlines").fix("do this");
        let report = report([(Check::CgroupMount, here), (Check::Counting, Outcome::failed("0"))]);
        let text = report.text(Symbols::Unicode);
        assert!(text.contains("× PR-N02") && text.contains("    two\n    lines\n    fix: do this\n"), "{text}");
        assert!(text.contains("‼ PR-R05") && text.contains(Check::Counting.about().fix), "{text}");
        let short = report.short();
        assert!(
            short.starts_with("PR-N02 error: ") && short.lines().count() == 2 && short.contains("two; lines"),
            "{short}"
        );
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["success"], &json["areas"][0]["checks"][0]["result"]), (&json!(false), &json!("error")));
        let members: Vec<&String> = json["areas"][0]["checks"][0].as_object().unwrap().keys().collect();
        assert_eq!(members, ["code", "fix", "found", "page", "result", "title"]);
        assert_eq!(json["summary"], json!({"ok": 0, "warning": 1, "error": 1, "skipped": 0}));
    }

    #[test]
    fn the_locale_decides_on_symbols() {
        let of = |pairs: &[(&str, &str)]| {
            Symbols::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]), Symbols::Ascii);
        assert_eq!(of(&[("LANG", "C.UTF-8")]), Symbols::Unicode);
        assert_eq!(of(&[("LANG", "C.UTF-8"), ("LC_ALL", "C")]), Symbols::Ascii);
        assert_eq!(of(&[("LANG", "en_US.utf8"), ("LC_ALL", "")]), Symbols::Unicode);
    }
}
