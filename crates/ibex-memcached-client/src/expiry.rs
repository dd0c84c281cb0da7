//! When an item ends, and how the protocol writes that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest span the protocol takes as relative; longer ones are read as a date since 1970.
const RELATIVE_SECONDS_MAX: u64 = 30 * 24 * 60 * 60;

/// When an item ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// It stays until it is evicted.
    #[default]
    Never,
    /// This long from now, rounded up to whole seconds; zero is one second, because 0 on the wire means never.
    After(Duration),
    /// At this time.
    At(SystemTime),
}

impl From<Duration> for Expiry {
    fn from(span: Duration) -> Self {
        Self::After(span)
    }
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

impl Expiry {
    /// This, but no later than `max` from now.
    pub(crate) fn at_most(self, max: Duration) -> Self {
        match self {
            Self::Never => Self::After(max),
            Self::After(span) => Self::After(span.min(max)),
            Self::At(time) => match time.duration_since(SystemTime::now()) {
                Ok(span) if span > max => Self::After(max),
                Ok(_) | Err(_) => self,
            },
        }
    }

    /// The number on the wire.
    pub(crate) fn on_wire(self) -> i64 {
        let seconds = match self {
            Self::Never => 0,
            Self::After(span) if whole_seconds(span) <= RELATIVE_SECONDS_MAX => {
                whole_seconds(span).max(1)
            }
            Self::After(span) => whole_seconds(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    + span,
            ),
            // A date within 30 days of 1970 would read as relative; it is long past.
            Self::At(time) => {
                let seconds = whole_seconds(time.duration_since(UNIX_EPOCH).unwrap_or_default());
                if seconds <= RELATIVE_SECONDS_MAX {
                    return -1;
                }
                seconds
            }
        };
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_up_and_never_become_never() {
        assert_eq!(Expiry::Never.on_wire(), 0);
        assert_eq!(Expiry::After(Duration::ZERO).on_wire(), 1);
        assert_eq!(Expiry::After(Duration::from_millis(1001)).on_wire(), 2);
        assert_eq!(Expiry::At(UNIX_EPOCH).on_wire(), -1);
    }

    #[test]
    fn a_bound_shortens_and_never_lengthens() {
        let seconds = Duration::from_secs;
        let max = seconds(10);
        assert_eq!(Expiry::Never.at_most(max), Expiry::After(max));
        assert_eq!(
            Expiry::After(seconds(11)).at_most(max),
            Expiry::After(seconds(10))
        );
        assert_eq!(
            Expiry::After(seconds(9)).at_most(max),
            Expiry::After(seconds(9))
        );
        let past = Expiry::At(UNIX_EPOCH);
        assert_eq!(past.at_most(max), past);
        let future = Expiry::At(SystemTime::now() + seconds(3600));
        assert_eq!(future.at_most(max), Expiry::After(max));
    }

    #[test]
    fn thirty_days_at_zero_and_plus_one() {
        assert_eq!(
            Expiry::After(Duration::from_secs(RELATIVE_SECONDS_MAX)).on_wire(),
            2_592_000
        );
        assert!(
            Expiry::After(Duration::from_secs(RELATIVE_SECONDS_MAX + 1)).on_wire() > 1_700_000_000
        );
    }
}
