//! The pages of the documentation that say what the code knows: one for each check and each denial, from the same tables. Pure.

use std::fmt::Write as _;

use crate::types::{Denial, DenialClass};

use super::check::table::{Area, Check};

/// A page: its path from the root of the source, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// `docs/checks/PR-N01.md`
    pub path: String,
    /// Markdown.
    pub text: String,
}

/// Said on top of each: whoever edits one by hand would lose it.
const GENERATED: &str = "<!-- From the tables in src/, by UPDATE_DOCS=1 cargo test --test docs. Do not edit. -->";

/// All of them, indices too.
pub fn pages() -> Vec<Page> {
    let checks = Check::ALL.into_iter().map(check);
    let denials = Denial::ALL.into_iter().map(denial);
    [check_index(), denial_index()].into_iter().chain(checks).chain(denials).collect()
}

fn check(check: Check) -> Page {
    let about = check.about();
    let (code, severity, area) = (about.code, about.severity.name(), check.area().name());
    let text = format!(
        "{GENERATED}\n\n# {code}: {}\n\n| area | when it does not hold |\n|---|---|\n| {area} | {severity} |\n\n{}\n\n## What to do\n\n{}\n\n\
         [All checks](README.md)\n",
        about.title, about.meaning, about.fix
    );
    Page { path: format!("docs/checks/{code}.md"), text }
}

fn check_index() -> Page {
    let mut text = format!(
        "{GENERATED}\n\n# Checks\n\nWhat `podrole check` looks at. A code keeps its meaning; what it prints beside it may change.\n\n\
         The form for programs, `-o json`, has the schema `podrole.check/v1`: `success`, `summary`, and `areas`, each with its \
         `checks`; a check has `code`, `title`, `result` (`ok`, `warning`, `error`, `skipped`), `found`, `fix` (null where nothing \
         is wrong) and `page`. Members may come; none goes or changes its meaning.\n"
    );
    for area in Area::ALL {
        let _ = write!(text, "\n## {}\n\n| code | what holds | else |\n|---|---|---|\n", area.name());
        for check in Check::ALL.into_iter().filter(|check| check.area() == area) {
            let about = check.about();
            let _ = writeln!(text, "| [{0}]({0}.md) | {1} | {2} |", about.code, about.title, about.severity.name());
        }
    }
    Page { path: "docs/checks/README.md".into(), text }
}

fn denial(denial: Denial) -> Page {
    let text = format!(
        "{GENERATED}\n\n# {0}\n\n{1}\n\nIn the audit log and in `podrole_denials_total` it is the reason `{0}`; its class is `{2}`.\n\n\
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
        "{GENERATED}\n\n# Denials\n\nWhy a pod that podrole knows gets no credentials: the reason in the audit log and in the metric \
         `podrole_denials_total`.\n"
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
    fn each_check_and_each_denial_has_one_page_that_its_index_names() {
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
