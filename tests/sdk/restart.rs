//! Restarts of the daemon while programs keep running with the credentials and tokens that they hold.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::Cluster;
use podrole_lab::pod::Pod;
use podrole_lab::rig::Rig;
use podrole_lab::world::{self, Trial};

use crate::programs::{Programs, Sdk, Serving};
use crate::support::{TEAM, no_leak, real_ready, session_arn, with_role};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("programs_keep_working_through_an_orderly_restart", orderly),
    Trial::new("programs_keep_working_through_a_crash", crash),
    Trial::new("programs_keep_working_when_the_token_keys_are_lost", keys_lost),
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
    // Control for the other two trials: here the token that Go held was rejected, and Go requested a new one.
    let rejected = rig.daemon()?.metric(REQUESTS, &[("outcome", "bad_token")])?;
    ensure!(rejected >= 1.0, "no program held a token, so the other trials show nothing about tokens");
    no_leak(&rig)
}

struct Held {
    pod: Pod,
    boto: Serving,
    go: Serving,
}

/// Starts a ready rig and two programs, and checks that each has been served once.
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

    /// Checks both programs while the daemon is down, when they use what they hold, and after it is back.
    fn go_on(&mut self, rig: &mut Rig<Cluster>) -> Result<()> {
        let arn = self.arn()?;
        self.go.ask()?.is(&arn).context("Go, while the daemon is down")?;
        self.boto.ask()?.is(&arn).context("boto3, while the daemon is down")?;
        rig.restart()?;
        // Go first, because it uses the token that it holds.
        self.go.ask()?.is(&arn).context("Go, after the restart")?;
        self.go.fresh()?.is(&arn).context("Go, with fresh credentials")?;
        self.boto.ask()?.is(&arn).context("boto3, after the restart")?;
        self.boto.fresh()?.is(&arn).context("boto3, with a new session")?;
        Ok(())
    }
}

/// Checks that no token was rejected after the restart.
fn tokens_were_good(rig: &Rig<Cluster>) -> Result<()> {
    let rejected = rig.daemon()?.metric(REQUESTS, &[("outcome", "bad_token")])?;
    ensure!(rejected == 0.0, "{rejected} tokens were rejected after the restart");
    no_leak(rig)
}
