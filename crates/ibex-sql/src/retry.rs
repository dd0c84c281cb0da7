//! Jittered backoff under a deadline.
//!
//! Apart because both engines and the transaction loop share one policy. It decides when, never whether: the class of an
//! error says that.

use ibex_base::rng::Rng;
use std::time::{Duration, Instant};

/// The first pause; a deadlock's winner is usually done by then.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause: short enough that a server that came back is used at once.
const PAUSE_MAX: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Backoff {
    deadline: Instant,
    pause: Duration,
    rng: Rng,
}

impl Backoff {
    pub(crate) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        let seed = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| u64::from(since.subsec_nanos()))
            ^ u64::from(std::process::id()) << 32;
        Self {
            deadline: now + timeout,
            pause: PAUSE_FIRST,
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits half to all of the next pause; `false` when the deadline would pass meanwhile.
    pub(crate) async fn pause(&mut self) -> bool {
        let whole = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(whole / 2 + self.rng.below(whole / 2 + 1));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if Instant::now() + wait >= self.deadline {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}
