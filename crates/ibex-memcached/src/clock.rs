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
    /// The second at the start.
    first: u32,
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
            first: FIRST_SECOND,
            zero_unix,
            ahead: AtomicU32::new(0),
        }
    }

    /// A clock that goes on counting from another's second 0. It is never behind `last`, the other's last second, whatever the wall clock says.
    pub(crate) fn resumed(zero_unix: i64, last: u32) -> Self {
        let fresh = Self::new();
        let by_date = fresh.unix(FIRST_SECOND).saturating_sub(zero_unix);
        let by_date = u32::try_from(by_date.max(0)).unwrap_or(u32::MAX);
        Self {
            first: by_date.max(last).max(FIRST_SECOND),
            zero_unix,
            ..fresh
        }
    }

    /// The present second.
    pub(crate) fn now(&self) -> u32 {
        let elapsed = u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX);
        elapsed
            .saturating_add(self.first)
            .saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn uptime(&self) -> u32 {
        self.now() - self.first
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
    fn a_resumed_clock_counts_the_time_in_between() {
        let clock = Clock::new();
        let today = clock.unix(FIRST_SECOND);
        let resumed = Clock::resumed(today - 1000, 900);
        assert!((1000..1010).contains(&resumed.now()));
        assert!(resumed.uptime() < 10);
        assert_eq!(resumed.unix(1000), today);
        // The wall clock was set back meanwhile: no second is counted twice.
        assert!((5000..5010).contains(&Clock::resumed(today - 1000, 5000).now()));
        assert!((7..17).contains(&Clock::resumed(today + 1000, 7).now()));
    }

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
