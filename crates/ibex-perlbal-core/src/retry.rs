//! When a request is tried again.
//!
//! Owns the schedule of `error_retry_schedule` and the rule for connections that break (spec parts A6 and C6). Apart as a
//! small decision of its own. It waits for nothing: the shell sleeps.

use std::time::Duration;

/// New tries after a 500 (`enable_error_retries`).
#[derive(Debug, Clone)]
pub struct Schedule {
    delays: Vec<Duration>,
    next: usize,
}

impl Schedule {
    /// A schedule of delays; n entries allow n new tries.
    #[must_use]
    pub fn new(delays: Vec<Duration>) -> Self {
        Self { delays, next: 0 }
    }

    /// The delay before the next try, or `None` when the error is to be shown.
    pub fn next_delay(&mut self) -> Option<Duration> {
        let delay = self.delays.get(self.next).copied();
        self.next += 1;
        delay
    }
}

/// What is known about an exchange that broke before its response began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The connection had served a request before.
    pub was_reused: bool,
    /// The method is idempotent.
    pub is_idempotent: bool,
    /// The request can be sent again as a whole.
    pub is_replayable: bool,
    /// Tries that were made again already.
    pub retries: u32,
}

/// True when the request may be sent again: a reused connection that breaks before the response was most likely closed by
/// an idle timeout of the backend, and an idempotent request does no harm twice.
#[must_use]
pub fn may_retry(broken: Broken, retries_max: u32) -> bool {
    broken.was_reused
        && broken.is_idempotent
        && broken.is_replayable
        && broken.retries < retries_max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_ends() {
        let mut schedule = Schedule::new(vec![Duration::ZERO, Duration::from_millis(250)]);
        assert_eq!(
            (
                schedule.next_delay(),
                schedule.next_delay(),
                schedule.next_delay()
            ),
            (Some(Duration::ZERO), Some(Duration::from_millis(250)), None)
        );
    }

    #[test]
    fn only_reused_and_harmless() {
        let fine = Broken {
            was_reused: true,
            is_idempotent: true,
            is_replayable: true,
            retries: 1,
        };
        assert!(may_retry(fine, 2));
        assert!(!may_retry(fine, 1));
        assert!(!may_retry(
            Broken {
                was_reused: false,
                ..fine
            },
            2
        ));
        assert!(!may_retry(
            Broken {
                is_idempotent: false,
                ..fine
            },
            2
        ));
        assert!(!may_retry(
            Broken {
                is_replayable: false,
                ..fine
            },
            2
        ));
    }
}
