//! Another pod, which is served all the while: what happens to others is none of its business.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{Agent, Creds, CredsError};
use podrole_lab::rig::{ControlPlane, ROLE, Rig};

use crate::support::{BUDGET, TEAM, becomes, figure, spec};

const ROLE_OF_IT: &str = "bystander-role";

/// A pod that asks for its credentials over and over.
#[derive(Debug)]
pub(crate) struct Bystander {
    agent: Agent,
}

impl Bystander {
    /// Starts it; when this returns it is served.
    pub(crate) fn start<A: ControlPlane>(rig: &Rig<A>) -> Result<Self> {
        let pod = rig.pod(spec(TEAM, "bystander").annotation(ROLE, ROLE_OF_IT))?;
        let agent = pod.agent("app")?;
        becomes(rig, agent.v4(), ROLE_OF_IT, &[])?;
        Ok(Self { agent })
    }

    /// Does `work`; an error, whatever came of that, if the pod was not served correctly and in time throughout.
    pub(crate) fn served_while<A, T>(&self, rig: &Rig<A>, work: impl FnOnce() -> Result<T>) -> Result<T>
    where
        A: ControlPlane,
    {
        let done = AtomicBool::new(false);
        let (result, seen) = thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask_until(&done));
            // Set also when `work` panics, or the scope would wait for ever.
            let end = SetOnDrop(&done);
            let result = work();
            drop(end);
            (result, asking.join())
        });
        let seen = seen.map_err(|_| anyhow::anyhow!("the bystander's thread panicked"))?;
        let slowest = seen.iter().map(|(took, _)| *took).max().unwrap_or_default();
        figure("bystander", format_args!("{} times served, slowest {slowest:?}", seen.len()));
        ensure!(!seen.is_empty(), "it never asked");
        for (took, answer) in seen {
            let credentials = answer.map_err(|error| anyhow::anyhow!("the bystander was not served: {error}"))?;
            ensure!(rig.role_of(&credentials).as_deref() == Some(ROLE_OF_IT), "the bystander got {credentials:?}");
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
