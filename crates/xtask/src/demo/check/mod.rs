//! `demo --check`: the tour without a person. Each step prints one line with what it saw; the first thing that does not hold ends the walk with an error.

mod daemons;
mod faults;
mod site;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::stack::Stack;

/// The walk so far.
struct Walk<'a> {
    stack: &'a mut Stack,
    stop: &'a AtomicBool,
    number: u32,
    /// Tells this walk's people, keys and jobs from those of earlier walks on the same state.
    run: String,
}

impl Walk<'_> {
    /// One step: says what was done and what was seen.
    fn step(
        &mut self,
        name: &str,
        step: impl FnOnce(&mut Stack, &str) -> Result<String>,
    ) -> Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        self.number += 1;
        let start = Instant::now();
        let run = self.run.clone();
        let seen =
            step(self.stack, &run).with_context(|| format!("step {}: {name}", self.number))?;
        eprintln!(
            "  {:>2}. {name}: {seen} ({} ms)",
            self.number,
            start.elapsed().as_millis()
        );
        Ok(())
    }
}

/// Walks the whole tour.
pub(crate) fn run(stack: &mut Stack, stop: &AtomicBool) -> Result<()> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let mut walk = Walk {
        stack,
        stop,
        number: 0,
        run: format!("{:x}", seconds % (1 << 28)),
    };
    walk.step("every process is ready", daemons::all_ready)?;
    walk.step("memcached: set and get on both", daemons::cache)?;
    walk.step("gearman: echo and a job done by a worker", daemons::jobs)?;
    walk.step("mogilefs: store, two copies, fetch", daemons::files)?;
    walk.step("schwartz: insert, grab, complete", daemons::reliable_jobs)?;
    let mut seen = site::walk(&mut walk)?;
    faults::walk(&mut walk, &mut seen)
}
