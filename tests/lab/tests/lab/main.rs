//! The lab's tests of itself: the properties on which podrole's tests rely.
//!
//! Every trial runs in its own world. Run as root: `cargo test -p podrole-lab --test lab`.
#![allow(
    clippy::disallowed_methods,
    reason = "these rules are for the daemon; the lab uses real time and starts processes"
)]

mod demo;
mod metadata;
mod pods;
mod worlds;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    if let Some(code) = worlds::subject() {
        return code;
    }
    run_trials(
        "lab",
        vec![
            Trial::new("pods_of_every_shape_leak_before_podrole", metadata::pods_of_every_shape_leak).alone(),
            Trial::new("node_use_is_no_leak", metadata::node_use_is_no_leak),
            Trial::new("every_port_is_recorded", metadata::every_port_is_recorded),
            Trial::new("metadata_is_byte_compatible", metadata::is_byte_compatible),
            Trial::new("metadata_session_tokens", metadata::session_tokens),
            Trial::new("metadata_misbehaves_on_demand", metadata::misbehaves_when_told),
            Trial::new("sockets_carry_their_containers_cgroup", pods::sockets_carry_their_containers_cgroup),
            Trial::new("agents_hold_connections", pods::agents_hold_connections),
            Trial::new("agents_make_load", pods::agents_make_load),
            Trial::new("containers_come_and_go", pods::containers_come_and_go),
            Trial::new("deleted_pods_leave_nothing", pods::deleted_pods_leave_nothing),
            Trial::new("pods_can_reuse_an_address", pods::pods_can_reuse_an_address),
            Trial::new("objects_match_the_pods", pods::objects_match_the_pods),
            Trial::new("many_pods_are_quick", pods::many_pods_are_quick).alone(),
            Trial::new("demo_fails_when_something_is_wrong", demo::fails_when_something_is_wrong),
            Trial::new("demo_stays_until_it_is_told_to_end", demo::stays_until_it_is_told_to_end),
            Trial::new("worlds_vanish_when_killed", worlds::vanish_when_killed),
            Trial::new("worlds_clean_up_after_signals", worlds::clean_up_after_signals),
            Trial::new("worlds_clean_up_after_a_panic", worlds::clean_up_after_a_panic),
            Trial::new("worlds_reap_orphans", worlds::reap_orphans),
            Trial::new("worlds_need_root", worlds::need_root),
            Trial::new("runner_reports_as_cargo_does", worlds::runner_reports_as_cargo_does),
        ],
    )
}
