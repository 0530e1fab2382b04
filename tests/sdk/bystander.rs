//! A bystander: a pod that must be served throughout, whatever happens to others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{Agent, Creds, CredsError};
use podrole_lab::rig::{ControlPlane, ROLE, Rig};

use crate::support::{BUDGET, TEAM, becomes, figure, spec};

const BYSTANDER_ROLE: &str = "bystander-role";

/// A pod that requests its credentials in a loop.
#[derive(Debug)]
pub(crate) struct Bystander {
    agent: Agent,
}

impl Bystander {
    /// Starts the pod and waits until it is served.
    pub(crate) fn start<A: ControlPlane>(rig: &Rig<A>) -> Result<Self> {
        let pod = rig.pod(spec(TEAM, "bystander").annotation(ROLE, BYSTANDER_ROLE))?;
        let agent = pod.agent("app")?;
        becomes(rig, agent.v4(), BYSTANDER_ROLE, &[])?;
        Ok(Self { agent })
    }

    /// Runs `work`. Fails, regardless of the result of `work`, unless the pod was served correctly and in time throughout.
    pub(crate) fn served_while<A, T>(&self, rig: &Rig<A>, work: impl FnOnce() -> Result<T>) -> Result<T>
    where
        A: ControlPlane,
    {
        let done = AtomicBool::new(false);
        let (result, seen) = thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask_until(&done));
            // Also set if `work` panics; otherwise the scope would never end.
            let end = SetOnDrop(&done);
            let result = work();
            drop(end);
            (result, asking.join())
        });
        let seen = seen.map_err(|_| anyhow::anyhow!("the bystander's thread panicked"))?;
        let slowest = seen.iter().map(|(took, _)| *took).max().unwrap_or_default();
        figure("bystander", format_args!("{} times served, slowest {slowest:?}", seen.len()));
        ensure!(!seen.is_empty(), "the bystander sent no request");
        for (took, answer) in seen {
            let credentials = answer.map_err(|error| anyhow::anyhow!("the bystander was not served: {error}"))?;
            ensure!(rig.role_of(&credentials).as_deref() == Some(BYSTANDER_ROLE), "the bystander got {credentials:?}");
            ensure!(took < BUDGET, "the bystander waited {took:?}");
        }
        result
    }

    fn ask_until(&self, done: &AtomicBool) -> Vec<(Duration, Result<Creds, CredsError>)> {
        let mut seen = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let answer = self.agent.credentials();
            seen.push((begin.elapsed(), answer));
            thread::sleep(Duration::from_millis(2));
        }
        seen
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
