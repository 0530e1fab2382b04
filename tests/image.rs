//! The container image that `make image` built: what is in it, and that it runs.
//!
//! Ignored where none was built: it takes minutes. `PODROLE_IMAGE` names the archive instead, which then has to be there: nothing is
//! ignored but what would have to run a program of another architecture. `make image-check` builds and tests one.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests start processes")]

#[path = "image/archive.rs"]
mod archive;
#[path = "image/bom.rs"]
mod bom;
#[path = "image/contents.rs"]
mod contents;
#[path = "image/runs.rs"]
mod runs;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 3] = [bom::TRIALS, contents::TRIALS, runs::TRIALS];
    run_trials("image", modules.concat())
}
