//! Whether a request body is streamed, held in memory or spooled to disk.
//!
//! Owns the thresholds of buffered uploads (spec part A7). Apart from the daemon as arithmetic over sizes and times.
//! It reads and writes nothing.

use std::time::Duration;

/// Tunables of uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Bytes read before a backend is asked for; 0 = ask at once.
    pub before_connect_bytes: u64,
    /// Spooling is on.
    pub spools: bool,
    /// Spool bodies at least this large; 0 = not checked.
    pub size_min: u64,
    /// Spool bodies slower than this, in bytes a second; 0 = not checked.
    pub rate_min: u64,
    /// Spool bodies that will take longer than this, in seconds; 0 = not checked.
    pub secs_max: u64,
}

/// Length of the body as the head announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Known in advance.
    Known(u64),
    /// Chunked.
    Unknown,
}

/// Why a body is spooled; the texts appear in `X-PERLBAL-BUFFERED-UPLOAD-REASON`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Large.
    Size,
    /// Slow.
    Rate,
    /// Will take long.
    Time,
    /// Chunked: its size is unknown until it is complete.
    Chunked,
}

impl Reason {
    /// Text for the debugging header.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Rate => "rate",
            Self::Time => "time",
            Self::Chunked => "chunked",
        }
    }
}

/// What to do with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Ask for a backend now; what is missing is streamed.
    Ask,
    /// Read more into memory first.
    ReadMore,
    /// Write all of it to disk first.
    Spool(Reason),
}

/// Decides when the head is complete.
#[must_use]
pub fn at_head(policy: &Policy, length: Length) -> Decision {
    match length {
        Length::Unknown if policy.spools => Decision::Spool(Reason::Chunked),
        Length::Known(n) if policy.spools && policy.size_min > 0 && n >= policy.size_min => {
            Decision::Spool(Reason::Size)
        }
        Length::Known(_) | Length::Unknown if policy.before_connect_bytes == 0 => Decision::Ask,
        Length::Known(_) | Length::Unknown => Decision::ReadMore,
    }
}

/// Decides after some of the body has arrived in memory and more is to come.
#[must_use]
pub fn on_progress(policy: &Policy, length: Length, received: u64, elapsed: Duration) -> Decision {
    if received < policy.before_connect_bytes {
        return Decision::ReadMore;
    }
    let Length::Known(total) = length else {
        return Decision::Ask;
    };
    if !policy.spools {
        return Decision::Ask;
    }
    // Rates are in bytes a second over the time since the head; a body that came at once is infinitely fast.
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return Decision::Ask;
    }
    let rate = received.saturating_mul(1000) / millis;
    let missing = total.saturating_sub(received);
    // COMPAT(perlbal): both are checked in this order and the later reason wins (ClientProxy.pm, continue_buffered_upload).
    let too_long = policy.secs_max > 0 && missing > rate.saturating_mul(policy.secs_max);
    let too_slow = policy.rate_min > 0 && rate < policy.rate_min;
    match (too_long, too_slow) {
        (true, _) => Decision::Spool(Reason::Time),
        (false, true) => Decision::Spool(Reason::Rate),
        (false, false) => Decision::Ask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        before_connect_bytes: 1000,
        spools: true,
        size_min: 10_000,
        rate_min: 100,
        secs_max: 5,
    };

    #[test]
    fn size_at_minus_one_zero_plus_one() {
        assert_eq!(at_head(&POLICY, Length::Known(9_999)), Decision::ReadMore);
        assert_eq!(
            at_head(&POLICY, Length::Known(10_000)),
            Decision::Spool(Reason::Size)
        );
        assert_eq!(
            at_head(&POLICY, Length::Known(10_001)),
            Decision::Spool(Reason::Size)
        );
        assert_eq!(
            at_head(&POLICY, Length::Unknown),
            Decision::Spool(Reason::Chunked)
        );
        let off = Policy {
            spools: false,
            ..POLICY
        };
        assert_eq!(at_head(&off, Length::Known(10_001)), Decision::ReadMore);
        assert_eq!(
            at_head(
                &Policy {
                    before_connect_bytes: 0,
                    ..off
                },
                Length::Known(1)
            ),
            Decision::Ask
        );
        assert_eq!(
            at_head(
                &Policy {
                    size_min: 0,
                    ..POLICY
                },
                Length::Known(1 << 40)
            ),
            Decision::ReadMore
        );
    }

    #[test]
    fn rate_and_time() {
        let after = |received, secs| {
            on_progress(
                &POLICY,
                Length::Known(9_000),
                received,
                Duration::from_secs(secs),
            )
        };
        assert_eq!(after(999, 1), Decision::ReadMore);
        assert_eq!(after(1000, 0), Decision::Ask);
        assert_eq!(after(4500, 1), Decision::Ask);
        // 1000 bytes in 1 s: the other 8000 take 8 s.
        assert_eq!(after(1000, 1), Decision::Spool(Reason::Time));
        // 8900 bytes in 100 s: slow, but the rest comes soon.
        assert_eq!(after(8900, 100), Decision::Spool(Reason::Rate));
        assert_eq!(
            on_progress(
                &Policy {
                    spools: false,
                    ..POLICY
                },
                Length::Known(9_000),
                1000,
                Duration::from_secs(9)
            ),
            Decision::Ask
        );
    }
}
