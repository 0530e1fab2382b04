//! The container image that `make image` builds: its contents, and that it runs.
//!
//! The trials are ignored if there is no image, because building one takes minutes. `PODROLE_IMAGE` names another archive, which must
//! exist; then only trials that would run programs of another architecture are ignored. `make image-check` builds an image and tests it.
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
