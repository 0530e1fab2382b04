//! The measured figures beside their budgets.

use std::process::ExitCode;

/// All figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

#[derive(Debug)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

/// The budget of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// The figure may be no more than this.
    AtMost(f64),
    /// The figure may be no less than this.
    AtLeast(f64),
    /// The figure has no budget; it explains the others.
    None,
}

// === impl Report ===

impl Report {
    /// Records a figure and prints it.
    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str, bound: Bound) {
        let figure = Figure { what: what.into(), value, unit, bound };
        show(&figure.line());
        self.figures.push(figure);
    }

    /// Prints a summary and returns the exit code.
    pub(crate) fn finish(&self) -> ExitCode {
        let missed: Vec<&Figure> = self.figures.iter().filter(|figure| !figure.holds()).collect();
        let bounded = self.figures.iter().filter(|figure| !matches!(figure.bound, Bound::None)).count();
        show(&format!("{} of {bounded} budgets are met", bounded - missed.len()));
        for figure in &missed {
            complain(&format!("missed: {}", figure.line()));
        }
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Figure {
    fn holds(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.value <= most,
            Bound::AtLeast(least) => self.value >= least,
            Bound::None => true,
        }
    }

    fn line(&self) -> String {
        let bound = match self.bound {
            Bound::AtMost(most) => format!("at most {most} {}", self.unit),
            Bound::AtLeast(least) => format!("at least {least} {}", self.unit),
            Bound::None => String::new(),
        };
        let mark = if self.holds() { ' ' } else { '!' };
        format!("{mark} {:<58} {:>12.3} {:<8} {bound}", self.what, self.value, self.unit).trim_end().to_owned()
    }
}

/// The median; NaN if there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::print_stdout, reason = "the report is what a benchmark is for")]
pub(crate) fn show(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "and so are its complaints")]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}
