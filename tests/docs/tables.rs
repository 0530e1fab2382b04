//! Compares the closed lists of the code with README's tables and with the directories of `daemonset/`. An addition to one of them must
//! be made in the others too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use podrole::metrics::Metrics;
use podrole::types::{AnnotationKey, Denial, SetBy};

use super::targets::TARGETS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README is text")
}

/// The cells of the rows of the table whose header row starts with `header`, without the rows of header and rule.
pub(super) fn rows<'a>(text: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let from_header = text.lines().skip_while(|line| !line.starts_with(header));
    let rows = from_header.skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    assert!(!rows.is_empty(), "README has no table that starts with {header}");
    rows
}

/// The parts of `text` between backticks.
pub(super) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

// === annotations ===

fn documented_annotations(readme: &str) -> BTreeSet<String> {
    let keys = rows(readme, "| on | annotation |").into_iter().filter_map(|row| quoted(row[1]).next());
    // `podrole.dev/role.<container>` continues a prefix; `podrole.dev/imds-v1: allow` shows the only value.
    keys.filter_map(|key| Some(key.split(['<', ':']).next()?.to_owned())).collect()
}

fn annotations() -> BTreeSet<String> {
    let documented = AnnotationKey::ALL.into_iter().filter(|key| key.set_by() == SetBy::People);
    documented.map(|key| key.name().to_owned()).collect()
}

#[test]
fn readme_has_every_annotation() {
    assert_eq!(documented_annotations(&readme()), annotations());
    let without = readme().replace("`iam.amazonaws.com/session-name`", "`iam.amazonaws.com/session`");
    assert_ne!(documented_annotations(&without), annotations(), "the control");
}

/// The words of `text` that look like an annotation key.
fn spelled_keys(text: &str) -> impl Iterator<Item = &str> {
    const DOMAINS: [&str; 4] = ["iam.amazonaws.com/", "eks.amazonaws.com/", "podrole.dev/", "kubernetes.io/config."];
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "./-_".contains(c));
    text.split(ends)
        .filter(|word| DOMAINS.iter().any(|domain| word.starts_with(domain) && word.len() > domain.len()))
        .map(|word| word.trim_end_matches('.'))
}

/// Names in podrole's domain that are not annotations: a taint, and the controller that signs Events.
const OTHER_NAMES: [&str; 2] = ["podrole.dev/not-ready", "podrole.dev/agent"];

#[test]
fn no_annotation_key_is_spelled_outside_the_table() {
    let is_known = |key: &str| {
        AnnotationKey::parse(key).is_some()
            || AnnotationKey::parse(&format!("{key}.")).is_some()
            || OTHER_NAMES.contains(&key)
    };
    let mut strangers = Vec::new();
    for file in sources(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file is text");
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        strangers
            .extend(spelled_keys(code).filter(|key| !is_known(key)).map(|key| format!("{}: {key}", file.display())));
    }
    assert!(strangers.is_empty(), "not in src/types/annotation.rs:\n{}", strangers.join("\n"));
    let control: Vec<&str> = spelled_keys("get(\"podrole.dev/new-key\")").filter(|key| !is_known(key)).collect();
    assert_eq!(control, ["podrole.dev/new-key"]);
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}

// === denials ===

/// An Event has room for 1024 bytes, and the fix must fit beside a long explanation.
#[test]
fn every_denial_has_its_texts() {
    for denial in Denial::ALL {
        let (meaning, fix) = (denial.meaning(), denial.fix());
        assert!(meaning.ends_with('.') && fix.ends_with('.'), "{denial}: {meaning} {fix}");
        assert!(meaning.len() < 512 && fix.len() < 512, "{denial}: {} {}", meaning.len(), fix.len());
        assert!(!meaning.contains("  ") && !fix.contains("  "), "{denial}: {meaning} {fix}");
        assert!(root().join(format!("docs/denials/{denial}.md")).exists(), "{denial} has no page");
    }
}

// === metrics ===

/// The labels of each metric by README, and each label's values where README lists them.
type Documented = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn documented_metrics(readme: &str) -> Documented {
    let mut documented = Documented::new();
    for row in rows(readme, "| metric | labels |") {
        // `result`: `hit`, `wait`; or only names: `route`, `outcome`.
        let cell = row.get(1).copied().unwrap_or_default();
        let labels: BTreeMap<String, BTreeSet<String>> = match cell.split_once(':') {
            Some((label, values)) => {
                let values = quoted(values).map(ToOwned::to_owned).collect();
                quoted(label).map(|label| (label.to_owned(), BTreeSet::clone(&values))).collect()
            }
            None => quoted(cell).map(|label| (label.to_owned(), BTreeSet::new())).collect(),
        };
        documented.extend(quoted(row[0]).map(|metric| (metric.to_owned(), labels.clone())));
    }
    documented
}

/// The mistakes in README's table.
fn wrong_rows(documented: &Documented) -> Vec<String> {
    let metrics = Metrics::new();
    let mut wrong = Vec::new();
    for family in metrics.families() {
        let Some(labels) = documented.get(family.name) else {
            wrong.push(format!("{} has no row", family.name));
            continue;
        };
        let names: BTreeSet<&str> = family.labels.iter().map(|label| label.name).collect();
        if labels.keys().map(String::as_str).collect::<BTreeSet<_>>() != names {
            wrong.push(format!("{} has the labels {names:?}", family.name));
        }
        for label in family.labels.iter().filter(|label| !label.values.is_empty()) {
            let values: BTreeSet<&str> = label.values.iter().copied().collect();
            let listed = labels.get(label.name).into_iter().flatten().map(String::as_str).collect::<BTreeSet<_>>();
            // The reasons of denials are listed in docs/denials.
            if listed != values && family.name != "podrole_denials_total" {
                wrong.push(format!("{} has {}: {values:?}", family.name, label.name));
            }
        }
    }
    let known = |name: &String| metrics.families().iter().any(|family| family.name == name);
    wrong.extend(documented.keys().filter(|name| !known(name)).map(|name| format!("there is no {name}")));
    wrong
}

#[test]
fn readme_has_every_metric_with_its_labels() {
    let text = readme();
    assert_eq!(wrong_rows(&documented_metrics(&text)), Vec::<String>::new());
    for (right, broken) in [
        ("| `podrole_faults_total` |", "| `podrole_fault_total` |"),
        ("`key_ring`, ", ""),
        ("| `route`, `outcome` |", "| `route` |"),
    ] {
        assert_ne!(wrong_rows(&documented_metrics(&text.replace(right, broken))), Vec::<String>::new(), "{right}");
    }
}

// === flags ===

#[test]
fn every_flag_has_its_environment_twin() {
    for subcommand in ["run", "check"] {
        let command = podrole::cli::Cli::command();
        let command = command.find_subcommand(subcommand).expect("the subcommand exists");
        let run_flags: BTreeSet<String> = super::flags_of_run();
        let mut seen = 0;
        for argument in command.get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            let twin = format!("PODROLE_{}", long.to_uppercase().replace('-', "_"));
            if run_flags.contains(&format!("--{long}")) {
                seen += 1;
                assert_eq!(
                    argument.get_env().and_then(std::ffi::OsStr::to_str),
                    Some(twin.as_str()),
                    "--{long} of {subcommand} has no twin: add env = \"{twin}\""
                );
            }
        }
        assert_eq!(seen, run_flags.len(), "{subcommand} takes every flag of run");
    }
}

// === kustomizations ===

/// The directories below `daemonset/` that contain a kustomization, relative to `daemonset/`.
fn kustomizations(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = root().join("daemonset");
    if directory.join("kustomization.yaml").exists() {
        let relative = directory.strip_prefix(&root).expect("below daemonset/").display().to_string();
        found.insert(if relative.is_empty() { ".".into() } else { relative });
    }
    for entry in
        fs::read_dir(directory).expect("a directory can be read").flatten().filter(|entry| entry.path().is_dir())
    {
        found.extend(kustomizations(&entry.path()));
    }
    found
}

#[test]
fn every_kustomization_is_tested() {
    let found = kustomizations(&root().join("daemonset"));
    let (components, targets): (BTreeSet<String>, BTreeSet<String>) =
        found.into_iter().partition(|path| path.starts_with("components/"));
    let tested: BTreeSet<String> = TARGETS.iter().map(|target| (*target).to_owned()).collect();
    assert_eq!(targets, tested, "daemonset/ and the list in tests/addon/targets.rs");
    let overlays: Vec<String> = TARGETS
        .iter()
        .map(|target| root().join("daemonset").join(target).join("kustomization.yaml"))
        .map(|path| fs::read_to_string(path).expect("a kustomization is text"))
        .collect();
    assert!(!components.is_empty());
    for component in components {
        let used = overlays.iter().any(|text| text.lines().any(|line| line.trim() == format!("- ../../{component}")));
        assert!(used, "no overlay uses daemonset/{component}, so no test renders it");
    }
}
