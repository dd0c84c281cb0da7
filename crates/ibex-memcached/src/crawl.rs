//! Sweeps that were asked for with `lru_crawler crawl`: asked by any worker, done by the upkeep thread.
//!
//! Who asks and then sees that no sweep is running may rely on it that everything expired when he asked is gone.

use crate::sync::{AtomicU64, Ordering};

/// How many sweeps were asked for, and how many of these are over.
#[derive(Debug)]
pub(crate) struct Crawl {
    asked: AtomicU64,
    done: AtomicU64,
}

impl Crawl {
    pub(crate) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Asks for a sweep.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether one that was asked for is not over.
    pub(crate) fn is_running(&self) -> bool {
        let done = self.done.load(Ordering::Acquire);
        self.asked.load(Ordering::Acquire) != done
    }

    /// The upkeep's turn: sweeps if that is always wanted, or was asked for.
    pub(crate) fn turn(&self, always: bool, sweep: impl FnOnce()) {
        let asked = self.asked.load(Ordering::Acquire);
        if always || asked != self.done.load(Ordering::Relaxed) {
            sweep();
        }
        // Requests that came during the sweep are for the next turn.
        self.done.store(asked, Ordering::Release);
    }
}
