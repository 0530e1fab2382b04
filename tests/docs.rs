//! The generated pages match the code, and everything that the documentation names exists.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes the pages again.

#[path = "docs/words.rs"]
mod words;

#[path = "docs/tables.rs"]
mod tables;
#[path = "addon/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use podrole::cli::docs::{Page, pages};

/// Locked while the pages are written or read.
static PAGES: Mutex<()> = Mutex::new(());

/// Directories that contain only generated pages.
const GENERATED: [&str; 2] = ["docs/checks", "docs/denials"];

#[test]
fn pages_are_as_the_code_has_them() {
    let _pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        write(root, &pages);
    }
    let wrong = differences(root, &pages);
    assert!(wrong.is_empty(), "\n{}\nto write them again: UPDATE_DOCS=1 cargo test --test docs\n", wrong.join("\n"));
}

/// The positive control: a page that is edited, missing or left over is found.
#[test]
fn differences_are_found() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-control");
    let _ = fs::remove_dir_all(&root);
    let pages = pages();
    write(&root, &pages);
    assert_eq!(differences(&root, &pages), Vec::<String>::new());
    let paths: Vec<PathBuf> = pages.iter().map(|page| root.join(&page.path)).collect();
    fs::write(&paths[0], "edited").expect("a page can be written");
    fs::remove_file(&paths[1]).expect("a page can be removed");
    fs::write(root.join("docs/checks/PR-X99.md"), "left over").expect("a page can be written");
    assert_eq!(differences(&root, &pages).len(), 3);
    write(&root, &pages);
    assert_eq!(differences(&root, &pages), Vec::<String>::new());
}

#[test]
fn links_lead_somewhere() {
    let _pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = markdown(&root.join("docs"));
    files.extend(markdown_in(root));
    assert!(files.len() > 40, "only {} files found: is this the documentation?", files.len());
    let mut broken = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a page is text");
        let here = file.parent().expect("a file has a directory");
        broken.extend(
            links(&text).filter(|link| !leads_somewhere(here, link)).map(|link| format!("{}: {link}", file.display())),
        );
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
    // The control.
    assert!(!leads_somewhere(root, "docs/checks/PR-X99.md") && leads_somewhere(root, "README.md#more"));
}

/// Every flag that a generated page names is a flag of `podrole run` or of a listed other program.
#[test]
fn flags_exist() {
    let known = flags_of_run();
    let pages = pages();
    let named: BTreeSet<&str> = pages.iter().flat_map(|page| flags(&page.text)).collect();
    let unknown: Vec<&&str> = named.iter().filter(|flag| !known.contains(**flag) && !OTHERS.contains(*flag)).collect();
    assert!(unknown.is_empty(), "no flag of podrole run, nor in the list of other programs' flags: {unknown:?}");
    assert!(named.contains("--cgroup-root"), "the pages name flags: {named:?}");
}

/// README's table has exactly the flags of `podrole run`.
#[test]
fn readme_has_every_flag() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).expect("README is text");
    let table = |text: &str| -> BTreeSet<String> {
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `--")?.split('`').next());
        rows.map(|flag| format!("--{flag}")).collect()
    };
    assert_eq!(table(&text), flags_of_run());
    // The control: a row less, and one too many.
    assert_ne!(table(&text.replace("| `--pod-name`", "| `--pod-named`")), flags_of_run());
}

fn flags_of_run() -> BTreeSet<String> {
    use clap::CommandFactory as _;
    let command = podrole::cli::Cli::command();
    let run = command.find_subcommand("run").expect("there is a subcommand run");
    run.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect()
}

/// Every metric that the documentation names exists.
#[test]
fn metrics_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = podrole::metrics::Metrics::new();
    let exists = |name: &str| known.families().iter().any(|family| family.name == name);
    let mut texts: Vec<String> = pages().into_iter().map(|page| page.text).collect();
    texts.extend(markdown_in(root).iter().map(|path| fs::read_to_string(path).expect("a page is text")));
    let named: BTreeSet<&str> = texts.iter().flat_map(|text| metrics(text)).collect();
    let unknown: Vec<&&str> = named.iter().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty(), "no metrics of podrole: {unknown:?}");
    assert!(named.len() > 10 && !exists("podrole_nonsense_total"), "{named:?}");
}

/// Flags of other programs: the AWS CLI, cargo.
const OTHERS: [&str; 4] = ["--http-tokens", "--http-put-response-hop-limit", "--instance-id", "--test"];

fn write(root: &Path, pages: &[Page]) {
    for directory in GENERATED {
        fs::create_dir_all(root.join(directory)).expect("a directory can be made");
        for path in markdown(&root.join(directory)) {
            if !pages.iter().any(|page| root.join(&page.path) == path) {
                fs::remove_file(path).expect("a page can be removed");
            }
        }
    }
    for page in pages {
        fs::write(root.join(&page.path), &page.text).expect("a page can be written");
    }
}

fn differences(root: &Path, pages: &[Page]) -> Vec<String> {
    let mut wrong: Vec<String> = pages
        .iter()
        .filter(|page| fs::read_to_string(root.join(&page.path)).ok().as_deref() != Some(&page.text))
        .map(|page| format!("{} is missing or differs from the code", page.path))
        .collect();
    for directory in GENERATED {
        for path in markdown(&root.join(directory)) {
            let path = path.strip_prefix(root).expect("found below the root").display().to_string();
            if !pages.iter().any(|page| page.path == path) {
                wrong.push(format!("{path} belongs to no check or denial"));
            }
        }
    }
    wrong
}

fn markdown(directory: &Path) -> Vec<PathBuf> {
    let mut files = markdown_in(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(markdown(&entry.path()));
        }
    }
    files
}

fn markdown_in(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The targets of `[text](target)` that are files of the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.filter(|target| !target.contains("://") && !target.starts_with('#'))
}

fn leads_somewhere(here: &Path, link: &str) -> bool {
    here.join(link.split('#').next().unwrap_or(link)).exists()
}

fn flags(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    text.split(ends).filter(|word| word.starts_with("--") && word.len() > 4 && !word.starts_with("---"))
}

fn metrics(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("podrole_"))
}
