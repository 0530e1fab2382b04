//! The daemon ends and comes back under programs that run on, with what they hold.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::Cluster;
use podrole_lab::pod::Pod;
use podrole_lab::rig::Rig;
use podrole_lab::world::{self, Trial};

use crate::programs::{Programs, Sdk, Serving};
use crate::support::{TEAM, no_leak, real_ready, session_arn, with_role};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("programs_run_on_through_an_orderly_restart", orderly),
    Trial::new("programs_run_on_through_a_crash", crash),
    Trial::new("programs_run_on_when_the_token_keys_are_lost", keys_lost),
];

const REQUESTS: &str = "podrole_http_requests_total";

fn orderly() -> Result<()> {
    let (mut rig, mut held) = running()?;
    rig.daemon_mut()?.terminate()?;
    held.go_on(&mut rig)?;
    tokens_were_good(&rig)
}

fn crash() -> Result<()> {
    let (mut rig, mut held) = running()?;
    rig.daemon_mut()?.kill9()?;
    held.go_on(&mut rig)?;
    tokens_were_good(&rig)
}

fn keys_lost() -> Result<()> {
    let (mut rig, mut held) = running()?;
    rig.daemon_mut()?.kill9()?;
    fs::remove_dir_all(world::scratch().join("state")).context("remove the state directory")?;
    held.go_on(&mut rig)?;
    // The control of the other two: here the token that Go held was refused, and a new one asked for.
    let refused = rig.daemon()?.metric(REQUESTS, &[("outcome", "bad_token")])?;
    ensure!(refused >= 1.0, "nobody held a token, so the other trials show nothing about tokens");
    no_leak(&rig)
}

struct Held {
    pod: Pod,
    boto: Serving,
    go: Serving,
}

/// A ready rig and two programs that have been served once.
fn running() -> Result<(Rig<Cluster>, Held)> {
    let programs = Programs::find()?;
    let rig = real_ready()?;
    let pod = with_role(&rig, TEAM, "web", "web-role")?;
    let mut held = Held { boto: programs.serve(&rig, &pod, Sdk::Boto)?, go: programs.serve(&rig, &pod, Sdk::Go)?, pod };
    let arn = held.arn()?;
    held.go.ask()?.is(&arn).context("Go")?;
    held.boto.ask()?.is(&arn).context("boto3")?;
    Ok((rig, held))
}

impl Held {
    fn arn(&self) -> Result<String> {
        session_arn(&self.pod, "web-role")
    }

    /// Both are served while the daemon is gone, from what they hold, and after it is back.
    fn go_on(&mut self, rig: &mut Rig<Cluster>) -> Result<()> {
        let arn = self.arn()?;
        self.go.ask()?.is(&arn).context("Go, while it is gone")?;
        self.boto.ask()?.is(&arn).context("boto3, while it is gone")?;
        rig.restart()?;
        // Go first: it asks with the token that it holds.
        self.go.ask()?.is(&arn).context("Go, after the restart")?;
        self.go.fresh()?.is(&arn).context("Go, with fresh credentials")?;
        self.boto.ask()?.is(&arn).context("boto3, after the restart")?;
        self.boto.fresh()?.is(&arn).context("boto3, with a new session")?;
        Ok(())
    }
}

/// No token was refused after the restart.
fn tokens_were_good(rig: &Rig<Cluster>) -> Result<()> {
    let refused = rig.daemon()?.metric(REQUESTS, &[("outcome", "bad_token")])?;
    ensure!(refused == 0.0, "{refused} tokens were refused after the restart");
    no_leak(rig)
}
