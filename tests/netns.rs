//! Runs the daemon's binary on a simulated node with a real kernel, real nft, and pods' real sockets.
//!
//! Every trial has its own world (see `podrole_lab::world`). A trial that says "never" has a control, which removes the defence and
//! must then see the attack succeed: a test that cannot fail proves nothing. Run as root: `cargo test -p podrole --test netns`.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests watch real time pass and start processes")]

#[path = "netns/answers.rs"]
mod answers;
#[path = "netns/attacks.rs"]
mod attacks;
#[path = "netns/by_address.rs"]
mod by_address;
#[path = "netns/cgroups.rs"]
mod cgroups;
#[path = "netns/claims.rs"]
mod claims;
#[path = "netns/clients.rs"]
mod clients;
#[path = "netns/connections.rs"]
mod connections;
#[path = "netns/containers.rs"]
mod containers;
#[path = "netns/failed_starts.rs"]
mod failed_starts;
#[path = "netns/family.rs"]
mod family;
#[path = "netns/flags.rs"]
mod flags;
#[path = "netns/guard.rs"]
mod guard;
#[path = "netns/late.rs"]
mod late;
#[path = "netns/lifecycle.rs"]
mod lifecycle;
#[path = "netns/refresh.rs"]
mod refresh;
#[path = "netns/relist.rs"]
mod relist;
#[path = "netns/reuse.rs"]
mod reuse;
#[path = "netns/rewrites.rs"]
mod rewrites;
#[path = "netns/shortages.rs"]
mod shortages;
#[path = "netns/support.rs"]
mod support;
#[path = "netns/tokens.rs"]
mod tokens;
#[path = "netns/two_guards.rs"]
mod two_guards;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 20] = [
        answers::TRIALS,
        attacks::TRIALS,
        by_address::TRIALS,
        cgroups::TRIALS,
        claims::TRIALS,
        clients::TRIALS,
        connections::TRIALS,
        containers::TRIALS,
        failed_starts::TRIALS,
        flags::TRIALS,
        guard::TRIALS,
        late::TRIALS,
        lifecycle::TRIALS,
        refresh::TRIALS,
        rewrites::TRIALS,
        relist::TRIALS,
        reuse::TRIALS,
        shortages::TRIALS,
        tokens::TRIALS,
        two_guards::TRIALS,
    ];
    run_trials("netns", modules.concat())
}
