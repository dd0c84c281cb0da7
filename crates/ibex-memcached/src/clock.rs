//! The daemon's clock: whole seconds since the start, from the monotonic clock, so that a step of the wall clock expires nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// First second: 0 means "never" in an expiry and 1 "already over".
const FIRST_SECOND: u32 = 2;
/// An expiry that is always over.
const OVER: u32 = 1;
/// Longest relative expiry; larger numbers are dates.
const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// Seconds, and their relation to dates.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Date of second 0.
    zero_unix: i64,
    /// Seconds added by `debugtime`.
    ahead: AtomicU32,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let zero_unix = i64::try_from(unix).unwrap_or(i64::MAX) - i64::from(FIRST_SECOND);
        Self {
            start: Instant::now(),
            zero_unix,
            ahead: AtomicU32::new(0),
        }
    }

    /// The present second.
    pub(crate) fn now(&self) -> u32 {
        let elapsed = u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX);
        elapsed
            .saturating_add(FIRST_SECOND)
            .saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn uptime(&self) -> u32 {
        self.now() - FIRST_SECOND
    }

    /// Moves the clock forward, for tests.
    pub(crate) fn advance(&self, seconds: u32) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    /// The date of a second.
    pub(crate) fn unix(&self, second: u32) -> i64 {
        self.zero_unix + i64::from(second)
    }

    /// The second an expiry on the wire means: 0 never, negative already over, up to 30 days from now, else a date.
    pub(crate) fn expiry(&self, now: u32, exptime: i64) -> u32 {
        match exptime {
            0 => 0,
            ..0 => OVER,
            1..=RELATIVE_SECONDS_MAX => {
                now.saturating_add(u32::try_from(exptime).unwrap_or(u32::MAX))
            }
            date => u32::try_from((date.saturating_sub(self.zero_unix)).max(i64::from(OVER)))
                .unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries() {
        let clock = Clock::new();
        let now = 100;
        assert_eq!(clock.expiry(now, 0), 0);
        assert_eq!(clock.expiry(now, -1), OVER);
        assert_eq!(clock.expiry(now, 5), 105);
        assert_eq!(clock.expiry(now, RELATIVE_SECONDS_MAX), 100 + 2_592_000);
        assert_eq!(clock.expiry(now, RELATIVE_SECONDS_MAX + 1), OVER);
        assert_eq!(clock.expiry(now, clock.unix(now) + 7), 107);
        assert_eq!(
            clock.expiry(now, 9_999_999_999),
            u32::try_from(9_999_999_999 - clock.zero_unix).unwrap_or(u32::MAX)
        );
        assert_eq!(clock.expiry(now, i64::MAX), u32::MAX);
    }
}
