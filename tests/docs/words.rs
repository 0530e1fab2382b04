//! What the documentation explains and the code has: terms of the glossary, fields of the audit log, overlays.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// More terms than a reader can keep in mind are not a glossary.
const MAX_TERMS: usize = 30;

/// Every name in the last column of the glossary occurs in `src`, so a renamed type takes its entry along.
#[test]
fn names_in_the_glossary_exist() {
    let words = words_of_src();
    let text = read("docs/glossary.md");
    let names = names_in_tables(&text);
    let unknown: Vec<&str> = names.iter().copied().filter(|name| !words.contains(*name)).collect();
    assert!(unknown.is_empty(), "in docs/glossary.md and nowhere in src: {unknown:?}");
    let terms = rows(&text).count();
    assert!((20..=MAX_TERMS).contains(&terms), "{terms} terms in docs/glossary.md, at most {MAX_TERMS}");
    // The control.
    let renamed = text.replace("`Grant`", "`Granting`");
    assert!(names_in_tables(&renamed).iter().any(|name| !words.contains(*name)));
}

/// The table in `docs/development.md` explains every field that an audit line can have.
#[test]
fn fields_of_the_audit_log_are_explained() {
    let text = read("docs/development.md");
    let source = read("src/audit.rs");
    let fields: BTreeSet<&str> = source.split(".insert(").skip(1).filter_map(first_string).collect();
    assert!(fields.contains("access_key_id") && fields.contains("siblings_may_read"), "{fields:?}");
    let unexplained: Vec<&str> =
        fields.into_iter().filter(|field| !text.contains(&format!("\n| `{field}` |"))).collect();
    assert!(unexplained.is_empty(), "fields of src/audit.rs without a row in docs/development.md: {unexplained:?}");
}

/// Each overlay has a row in README's table of `daemonset/`.
#[test]
fn every_overlay_is_in_readme() {
    let readme = read("README.md");
    let is_named = |name: &str| readme.lines().any(|line| line.contains(&format!("`overlays/{name}`")));
    let overlays = fs::read_dir(root().join("daemonset/overlays")).expect("there are overlays").flatten();
    let names: Vec<String> = overlays.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let missing: Vec<&String> = names.iter().filter(|name| !is_named(name)).collect();
    assert!(missing.is_empty() && names.len() > 5, "overlays that README does not name: {missing:?} of {names:?}");
    assert!(!is_named("nonsense"), "the control");
}

/// The names in backticks in the last column of each table of `text`.
fn names_in_tables(text: &str) -> BTreeSet<&str> {
    let cells = rows(text).filter_map(|row| row.trim_end().trim_end_matches('|').rsplit('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// The rows of all tables, without heads and rules.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| word |"))
}

/// The literal that `text`, what follows an opening parenthesis, begins with.
fn first_string(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split('"').next()
}

fn words_of_src() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut directories: Vec<PathBuf> = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a source directory can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file is text");
            let identifiers = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            words.extend(identifiers.filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    words
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a file of the repository is text")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
