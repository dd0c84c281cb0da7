//! Seeds and the clock of simulations: which seeds a run plays, how a failing one is named, and a time that moves only when told.
//!
//! `IBEX_SIM_SEED=n` replays one seed; `IBEX_SIM_SEEDS=n` widens (or narrows) the run; without either a test plays the number it asks for.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Seeds of an ordinary run.
pub const SEEDS_DEFAULT: u64 = 256;

/// The seeds of this run.
///
/// # Panics
/// When one of the two variables is set to something that is no number: silently playing other seeds would hide it.
#[must_use]
pub fn seeds(count_default: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("IBEX_SIM_SEED") {
        return seed..seed.saturating_add(1);
    }
    0..number("IBEX_SIM_SEEDS").unwrap_or(count_default)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(error) => panic!("{variable}={text}: {error}"),
    }
}

/// Plays `body` once for each seed of this run; when one fails, prints how to replay it and fails with it.
pub fn run(count_default: u64, body: impl Fn(u64)) {
    for seed in seeds(count_default) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("seed {seed} failed; replay it with IBEX_SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// A clock for cores that take `now: Instant`: it stands still until it is told to move, and never moves back.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    now: Instant,
}

impl Clock {
    /// A clock at zero. The real time it hides does not matter to anything that only compares and subtracts.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self { start: now, now }
    }

    /// The virtual present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Moves the clock by `step`.
    pub fn advance(&mut self, step: Duration) {
        self.now += step;
    }

    /// Moves the clock to `deadline` if that lies ahead.
    pub fn advance_to(&mut self, deadline: Instant) {
        self.now = self.now.max(deadline);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_only_forward_and_only_when_told() {
        let mut clock = Clock::new();
        let start = clock.now();
        clock.advance(Duration::from_secs(3600));
        clock.advance_to(start);
        assert_eq!(clock.elapsed(), Duration::from_secs(3600));
    }

    #[test]
    fn a_failing_seed_fails_the_run() {
        let played = std::cell::Cell::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            run(3, |seed| {
                played.set(played.get() + 1);
                assert!(seed != seeds(3).start, "made to fail");
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(played.get(), 1);
    }
}
