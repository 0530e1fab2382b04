//! The judgement: everything that is shown is also compared with what it must be.

use std::fmt::Debug;

use crate::screen::Screen;

/// How many comparisons were made, and what came out wrong.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    made: usize,
    failures: Vec<String>,
}

impl Checks {
    /// `holds`, or else this is wrong.
    pub(crate) fn that(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        self.made += 1;
        if !holds {
            self.failures.push(wrong());
        }
    }

    /// `found` is what it must be.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, found: T, expected: T) {
        let holds = found == expected;
        self.that(holds, || format!("{what}: expected {expected:?}, found {found:?}"));
    }

    /// True if something was wrong so far.
    pub(crate) fn any_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Shows the verdict; true if all hold.
    pub(crate) fn report(&self, screen: &Screen) -> bool {
        if self.failures.is_empty() {
            screen.line(&screen.good(&format!("{} checks, all hold.", self.made)));
            return true;
        }
        screen.line(&screen.bad(&format!("NOT as it should be, {} of {} checks:", self.failures.len(), self.made)));
        for failure in &self.failures {
            screen.paragraph(3, failure);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mismatch_is_a_failure() {
        let screen = Screen::new();
        let mut checks = Checks::default();
        checks.same("a number", 1, 1);
        checks.that(true, || "not asked for".to_owned());
        assert!(!checks.any_failed() && checks.report(&screen));
        checks.same("a role", "node-role", "web");
        assert!(checks.any_failed() && !checks.report(&screen));
        // What is right afterwards does not make it good.
        checks.that(true, String::new);
        assert!(!checks.report(&screen));
        assert_eq!(checks.failures, ["a role: expected \"web\", found \"node-role\""]);
        assert_eq!(checks.made, 4);
    }
}
