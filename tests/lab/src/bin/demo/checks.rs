//! The verdict: everything that the demo shows is also checked against its expected value.

use std::fmt::Debug;

use crate::screen::Screen;

/// The number of checks made and the messages of those that failed.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    made: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Records a check; `wrong` describes the failure if it does not hold.
    pub(crate) fn that(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        self.made += 1;
        if !holds {
            self.failures.push(wrong());
        }
    }

    /// Checks that `found` equals `expected`.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, found: T, expected: T) {
        let holds = found == expected;
        self.that(holds, || format!("{what}: expected {expected:?}, found {found:?}"));
    }

    /// Whether any check has failed so far.
    pub(crate) fn any_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Prints the verdict; returns true if all checks passed.
    pub(crate) fn report(&self, screen: &Screen) -> bool {
        if self.failures.is_empty() {
            screen.line(&screen.good(&format!("All {} checks passed.", self.made)));
            return true;
        }
        screen.line(&screen.bad(&format!("FAILED: {} of {} checks.", self.failures.len(), self.made)));
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
        // A later success does not clear the failure.
        checks.that(true, String::new);
        assert!(!checks.report(&screen));
        assert_eq!(checks.failures, ["a role: expected \"web\", found \"node-role\""]);
        assert_eq!(checks.made, 4);
    }
}
