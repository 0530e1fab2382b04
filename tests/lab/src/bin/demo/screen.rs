//! What the user sees: plain lines for any terminal, colours and a progress line only where somebody looks on.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

/// What text is wrapped to.
const WIDTH: usize = 98;

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    terminal: bool,
    colours: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, colours: terminal && env::var_os("NO_COLOR").is_none() }
    }

    /// A line.
    pub(crate) fn line(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// An empty line and the title of what follows.
    pub(crate) fn heading(&self, title: &str, detail: &str) {
        self.line("");
        let detail = if detail.is_empty() { String::new() } else { self.dim(&format!("   {detail}")) };
        self.line(&format!("{}{detail}", self.strong(title)));
    }

    /// Text of any length, on as many indented lines as it takes.
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

    /// What is being waited for, until the next line takes its place. Only on a terminal.
    pub(crate) fn doing(&self, what: &str) {
        if self.terminal {
            self.write(&format!("   {what} ..."));
        }
    }

    /// As it should be.
    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What nobody wants to see.
    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// What matters.
    pub(crate) fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, text: &str) {
        // Over what `doing` left.
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let mut out = io::stdout().lock();
        // A reader that has gone, as `head` does, changes nothing about the checks and the exit code.
        write!(out, "{start}{text}").and_then(|()| out.flush()).ok();
    }
}
