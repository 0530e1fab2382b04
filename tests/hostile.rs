//! Runs the daemon's binary against malicious and malformed requests: raw bytes over the real network, sent from inside
//! a container.
//!
//! Tables (`hostile/corpus`) list the requests and the permitted responses. Every check that asserts "never" has a
//! control that must fail the same check. Run as root: `cargo test -p podrole --test hostile`.
#![allow(
    clippy::disallowed_methods,
    reason = "these rules are for the daemon; tests use real time and start processes"
)]

#[path = "hostile/audit.rs"]
mod audit;
#[path = "hostile/corpus.rs"]
mod corpus;
#[path = "hostile/denials.rs"]
mod denials;
#[path = "hostile/imds_v1.rs"]
mod imds_v1;
#[path = "hostile/logs.rs"]
mod logs;
#[path = "hostile/planted.rs"]
mod planted;
#[path = "hostile/platform.rs"]
mod platform;
#[path = "hostile/sloppy.rs"]
mod sloppy;
#[path = "hostile/slow.rs"]
mod slow;
#[path = "hostile/spellings.rs"]
mod spellings;
#[path = "hostile/status.rs"]
mod status;
#[path = "hostile/support.rs"]
mod support;
#[path = "hostile/texts.rs"]
mod texts;
#[path = "hostile/wire.rs"]
mod wire;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 11] = [
        audit::TRIALS,
        denials::TRIALS,
        imds_v1::TRIALS,
        logs::TRIALS,
        planted::TRIALS,
        platform::TRIALS,
        slow::TRIALS,
        spellings::TRIALS,
        status::TRIALS,
        texts::TRIALS,
        wire::TRIALS,
    ];
    run_trials("hostile", modules.concat())
}
