//! The demo's output: plain lines everywhere, colors and a progress line only on a terminal.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

/// Paragraphs are wrapped at this width, in characters.
const WIDTH: usize = 98;

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    terminal: bool,
    colors: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, colors: terminal && env::var_os("NO_COLOR").is_none() }
    }

    /// Prints a line.
    pub(crate) fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Prints an empty line and a section's title.
    pub(crate) fn heading(&self, title: &str, detail: &str) {
        self.line("");
        let detail = if detail.is_empty() { String::new() } else { self.dim(&format!("   {detail}")) };
        self.line(&format!("{}{detail}", self.strong(title)));
    }

    /// Prints text, wrapped and indented.
    pub(crate) fn paragraph(&self, indent: usize, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&format!("{:indent$}{line}", ""));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(&format!("{:indent$}{line}", ""));
    }

    /// Shows progress until the next line replaces it. Does nothing without a terminal.
    pub(crate) fn doing(&self, what: &str) {
        if self.terminal {
            self.write(&format!("   {what} ..."));
        }
    }

    /// Green: as expected.
    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Red: a problem.
    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Bold: important.
    pub(crate) fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Dim: less important.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colors { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, text: &str) {
        // Overwrite the progress line.
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let mut out = io::stdout().lock();
        // A closed pipe, as `| head` leaves, must not change the checks or the exit code.
        write!(out, "{start}{text}").and_then(|()| out.flush()).ok();
    }
}
