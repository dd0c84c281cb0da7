//! What a submission says beside its argument (wire extension `headers`): how long, how often, how late, for whom.
//!
//! Owns their bounds, which are the server's, so that a wish that no server would accept fails before anything is sent. How they travel and what
//! happens where the server does not know them is in `connection.rs`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ibex_gearman_proto::{headers, limits};

use crate::error::Error;

/// Longest time a header may name: a year.
const SECONDS_MAX: u64 = 366 * 86_400;
/// Most attempts a header may name.
const ATTEMPTS_MAX: u32 = 1000;

/// The wishes of one submission.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) timeout: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) backoff: Option<(Duration, Duration)>,
    pub(crate) dedupe: Option<Duration>,
    pub(crate) result_ttl: Option<Duration>,
    pub(crate) trace: Option<Bytes>,
    /// Keys that begin with `x-`.
    pub(crate) free: Vec<(String, Bytes)>,
    /// Do without what the server does not know.
    pub(crate) is_best_effort: bool,
}

/// Wishes as they travel.
#[derive(Debug, Clone)]
pub(crate) struct HeaderText {
    pub(crate) text: Vec<u8>,
    /// Without them it would be another job: not to be sent to a server that does not know headers.
    pub(crate) is_needed: bool,
    /// The start time that says the delay to a server without headers.
    pub(crate) epoch: Option<String>,
}

impl Wishes {
    /// `None` when nothing is wished.
    pub(crate) fn text(&self, is_background: bool) -> Result<Option<HeaderText>, Error> {
        let mut text = Vec::new();
        let times = [
            ("timeout", self.timeout),
            ("ttl", self.ttl),
            ("dedupe", self.dedupe),
            ("result-ttl", self.result_ttl),
            ("delay", self.delay),
        ];
        for (key, time) in times {
            if let Some(time) = time {
                headers::put(&mut text, key, seconds(key, time)?.to_string().as_bytes());
            }
        }
        if let Some(attempts) = self.attempts {
            if !(1..=ATTEMPTS_MAX).contains(&attempts) {
                return Err(bad(&format!("attempts must be from 1 to {ATTEMPTS_MAX}")));
            }
            headers::put(&mut text, "attempts", attempts.to_string().as_bytes());
        }
        if let Some((min, max)) = self.backoff {
            let (min, max) = (seconds("backoff", min)?, seconds("backoff", max)?);
            if min > max {
                return Err(bad("backoff: the shortest pause exceeds the longest"));
            }
            headers::put(&mut text, "backoff", format!("{min}..{max}").as_bytes());
        }
        if let Some(trace) = &self.trace {
            headers::put(&mut text, "traceparent", trace);
        }
        for (key, value) in &self.free {
            let is_name = key.strip_prefix("x-").is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            });
            if !is_name {
                return Err(bad(&format!("{key:?} is not x- and letters, digits, -_.")));
            }
            headers::put(&mut text, key, value);
        }
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > limits::HEADERS_BYTES_MAX {
            let max = limits::HEADERS_BYTES_MAX;
            return Err(bad(&format!("all together exceed {max} bytes")));
        }
        let epoch = self.delay.filter(|_| is_background).map(epoch_after);
        let steers = [self.timeout, self.ttl, self.dedupe, self.result_ttl]
            .iter()
            .any(Option::is_some)
            || self.attempts.is_some()
            || self.backoff.is_some()
            || (self.delay.is_some() && epoch.is_none());
        Ok(Some(HeaderText {
            text,
            is_needed: steers && !self.is_best_effort,
            epoch,
        }))
    }
}

fn bad(what: &str) -> Error {
    Error::InvalidArgument(format!("headers: {what}"))
}

/// Whole seconds, rounded up.
fn seconds(key: &str, time: Duration) -> Result<u64, Error> {
    let seconds = rounded_up(time).as_secs();
    if (1..=SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(bad(&format!("{key} must be from 1 second to a year")))
    }
}

pub(crate) fn rounded_up(time: Duration) -> Duration {
    Duration::from_secs(
        time.as_secs()
            .saturating_add(u64::from(time.subsec_nanos() > 0)),
    )
}

/// Decimal seconds since 1970, that long from now.
fn epoch_after(delay: Duration) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    rounded_up(now.saturating_add(delay)).as_secs().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn wishes_become_pairs() {
        let wishes = Wishes {
            timeout: Some(Duration::from_millis(1500)),
            ttl: secs(60),
            delay: secs(5),
            attempts: Some(3),
            backoff: Some((Duration::from_secs(1), Duration::from_secs(30))),
            dedupe: secs(7),
            result_ttl: secs(9),
            trace: Some("00-a-b-01".into()),
            free: vec![("x-tenant".into(), "a;b".into())],
            is_best_effort: false,
        };
        let text = wishes.text(true).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(text.text).unwrap(),
            "timeout=2;ttl=60;dedupe=7;result-ttl=9;delay=5;attempts=3;backoff=1..30;traceparent=00-a-b-01;x-tenant=a%3Bb"
        );
        assert!(text.is_needed && text.epoch.is_some());
        assert!(Wishes::default().text(true).unwrap().is_none());
    }

    #[test]
    fn a_delay_can_be_said_otherwise_in_the_background_only() {
        let wishes = Wishes {
            delay: secs(5),
            ..Wishes::default()
        };
        let background = wishes.text(true).unwrap().unwrap();
        assert!(!background.is_needed && background.epoch.is_some());
        let foreground = wishes.text(false).unwrap().unwrap();
        assert!(foreground.is_needed && foreground.epoch.is_none());
    }

    #[test]
    fn what_no_server_accepts_is_refused_here() {
        let free = |key: &str| Wishes {
            free: vec![(key.into(), Bytes::new())],
            ..Wishes::default()
        };
        for wishes in [
            Wishes {
                ttl: secs(0),
                ..Wishes::default()
            },
            Wishes {
                ttl: secs(SECONDS_MAX + 1),
                ..Wishes::default()
            },
            Wishes {
                attempts: Some(0),
                ..Wishes::default()
            },
            Wishes {
                backoff: Some((Duration::from_secs(2), Duration::from_secs(1))),
                ..Wishes::default()
            },
            Wishes {
                trace: Some(vec![b't'; 5000].into()),
                ..Wishes::default()
            },
            free("tenant"),
            free("x-"),
            free("x-a=b"),
        ] {
            assert!(
                matches!(wishes.text(true), Err(Error::InvalidArgument(_))),
                "{wishes:?}"
            );
        }
    }
}
