//! Generates the documentation page of each check and each denial from the tables that the code uses. Pure.

use std::fmt::Write as _;

use crate::types::{Denial, DenialClass};

use super::check::table::{Area, Check};

/// A documentation page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The path from the root of the repository, such as `docs/checks/PR-N01.md`.
    pub path: String,
    /// The text, in Markdown.
    pub text: String,
}

/// The first line of each page. The line says that the page is generated, because the next run overwrites manual changes.
const GENERATED: &str =
    "<!-- Generated from the tables in src/ by UPDATE_DOCS=1 cargo test --test docs. Do not edit. -->";

/// All generated pages, including the two indexes.
pub fn pages() -> Vec<Page> {
    let checks = Check::ALL.into_iter().map(check);
    let denials = Denial::ALL.into_iter().map(denial);
    [check_index(), denial_index()].into_iter().chain(checks).chain(denials).collect()
}

fn check(check: Check) -> Page {
    let about = check.about();
    let (code, severity, area) = (about.code, about.severity.name(), check.area().name());
    let text = format!(
        "{GENERATED}\n\n# {code}: {}\n\n| area | result if it does not hold |\n|---|---|\n| {area} | {severity} |\n\n{}\n\n## What to do\n\n{}\n\n\
         [All checks](README.md)\n",
        about.title, about.meaning, about.fix
    );
    Page { path: format!("docs/checks/{code}.md"), text }
}

fn check_index() -> Page {
    let mut text = format!(
        "{GENERATED}\n\n# Checks\n\nThe checks of `podrole check`. The meaning of a code never changes; the texts may.\n\n\
         `-o json` prints the schema `podrole.check/v1` for programs: `success`, `summary` and `areas`, each with its `checks`. A \
         check has `code`, `title`, `result` (`ok`, `warning`, `error`, `skipped`), `found`, `fix` (null if nothing is wrong) and \
         `page`. Fields may be added, but none is removed or changes its meaning.\n"
    );
    for area in Area::ALL {
        let _ = write!(text, "\n## {}\n\n| code | what must hold | result otherwise |\n|---|---|---|\n", area.name());
        for check in Check::ALL.into_iter().filter(|check| check.area() == area) {
            let about = check.about();
            let _ = writeln!(text, "| [{0}]({0}.md) | {1} | {2} |", about.code, about.title, about.severity.name());
        }
    }
    Page { path: "docs/checks/README.md".into(), text }
}

fn denial(denial: Denial) -> Page {
    let text = format!(
        "{GENERATED}\n\n# {0}\n\n{1}\n\nThe audit log and `podrole_denials_total` show it as reason `{0}`; the Event's reason is `{2}`.\n\n\
         ## What to do\n\n{3}\n\n[All denials](README.md)\n",
        denial.name(),
        denial.meaning(),
        denial.class().name(),
        denial.fix()
    );
    Page { path: format!("docs/denials/{}.md", denial.name()), text }
}

fn denial_index() -> Page {
    let mut text = format!(
        "{GENERATED}\n\n# Denials\n\nWhy a known pod gets no credentials. Each name is a reason in the audit log and in the metric \
         `podrole_denials_total`; the headings are the reasons of Events.\n"
    );
    for class in [DenialClass::RoleDenied, DenialClass::RoleInvalid, DenialClass::AssumeRoleFailed] {
        let _ = write!(text, "\n## {}\n\n", class.name());
        for denial in Denial::ALL.into_iter().filter(|denial| denial.class() == class) {
            let _ = writeln!(text, "- [{0}]({0}.md): {1}", denial.name(), first_sentence(denial.meaning()));
        }
    }
    Page { path: "docs/denials/README.md".into(), text }
}

fn first_sentence(text: &str) -> &str {
    text.split_inclusive(". ").next().unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_and_each_denial_has_one_page_listed_in_its_index() {
        let pages = pages();
        let (indices, rest): (Vec<Page>, Vec<Page>) =
            pages.into_iter().partition(|page| page.path.ends_with("README.md"));
        assert_eq!(rest.len(), Check::ALL.len() + Denial::ALL.len());
        for page in &rest {
            let (directory, name) = page.path.rsplit_once('/').unwrap();
            let index = indices.iter().find(|index| index.path.starts_with(directory)).unwrap();
            assert_eq!(index.text.matches(&format!("]({name})")).count(), 1, "{}", page.path);
        }
    }
}
