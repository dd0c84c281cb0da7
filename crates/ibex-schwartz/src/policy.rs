//! How often and when a failed job runs again, and what a finish call says for itself.
//!
//! Apart from `finish.rs` because four parties may have a say: the finish call, the job, its function, and the worker or the daemon, in this
//! order. The types here are what each of them says; `ending.rs` asks them in turn.

use crate::error::Error;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Longest delay: a year.
const SECONDS_MAX: u32 = 366 * 86_400;
/// Delays of one list: what fits the column.
const STEPS_MAX: usize = 20;

/// Delays between the runs of a job, by its own or its function's wish. Exact: no random part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backoff {
    /// Seconds before the second run, the third, and so on; the last holds for all later ones. 1 to 20 of them, each at most a year.
    Steps(Vec<u32>),
    /// From `first` seconds, twice as many each time, up to `most`.
    Doubling {
        /// 1 second to a year.
        first: u32,
        /// `first` to a year.
        most: u32,
    },
}

impl Backoff {
    /// The same delay each time.
    #[must_use]
    pub fn fixed(seconds: u32) -> Self {
        Self::Steps(vec![seconds])
    }

    /// Seconds until the next run after so many failures, counted from 1.
    #[must_use]
    pub fn delay(&self, failures: u32) -> u64 {
        let before = failures.saturating_sub(1);
        match self {
            Self::Steps(steps) => {
                let index = usize::try_from(before).unwrap_or(usize::MAX);
                steps
                    .get(index)
                    .or(steps.last())
                    .copied()
                    .map_or(0, u64::from)
            }
            Self::Doubling { first, most } => u64::from(*first)
                .checked_shl(before.min(32))
                .map_or(u64::from(*most), |delay| delay.min(u64::from(*most))),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_right = match self {
            Self::Steps(steps) => {
                (1..=STEPS_MAX).contains(&steps.len())
                    && steps.iter().all(|seconds| *seconds <= SECONDS_MAX)
            }
            Self::Doubling { first, most } => *first > 0 && first <= most && *most <= SECONDS_MAX,
        };
        if is_right {
            Ok(())
        } else {
            Err(Error::Invalid(
                "backoff is 1 to 20 delays of at most a year, or first and most with 1 <= first <= most <= a year".to_owned(),
            ))
        }
    }

    /// As it is kept: `10,60,600`, or `10*3600` when it doubles.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Steps(steps) => {
                let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
                steps.join(",")
            }
            Self::Doubling { first, most } => format!("{first}*{most}"),
        }
    }

    /// What [`Backoff::text`] wrote; `None` for what it cannot have written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let backoff = match text.split_once('*') {
            Some((first, most)) => Self::Doubling {
                first: first.parse().ok()?,
                most: most.parse().ok()?,
            },
            None => Self::Steps(
                text.split(',')
                    .map(|step| step.parse().ok())
                    .collect::<Option<_>>()?,
            ),
        };
        backoff.check().ok().map(|()| backoff)
    }
}

/// How often and when a failed job runs again, as its worker or the daemon sees it.
#[derive(Clone)]
pub struct RetryPolicy {
    /// Failures that are forgiven: n means n + 1 runs.
    pub max_retries: u32,
    /// Seconds until the next run after this many failures, counted from 1; 0 is at once.
    pub retry_delay: Arc<dyn Fn(u32) -> u64 + Send + Sync>,
    /// No second run, whatever the job itself says.
    pub is_final: bool,
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}

impl RetryPolicy {
    /// No second run: the classic default.
    #[must_use]
    pub fn never() -> Self {
        Self::fixed(0, 0)
    }

    /// No second run, even of a job that says how many runs it has.
    #[must_use]
    pub fn permanent() -> Self {
        Self {
            is_final: true,
            ..Self::never()
        }
    }

    /// The same delay each time.
    #[must_use]
    pub fn fixed(max_retries: u32, delay_seconds: u64) -> Self {
        Self::with(max_retries, move |_| delay_seconds)
    }

    /// Delays by a function of the number of failures, counted from 1.
    #[must_use]
    pub fn with(max_retries: u32, delay: impl Fn(u32) -> u64 + Send + Sync + 'static) -> Self {
        Self {
            max_retries,
            retry_delay: Arc::new(delay),
            is_final: false,
        }
    }

    /// Twenty-four retries over about twenty days: n^4 + 15 seconds and some.
    #[must_use]
    pub fn backoff(max_retries: u32) -> Self {
        Self::with(max_retries, |failures| {
            u64::from(failures).saturating_pow(4).saturating_add(15)
        })
    }
}

/// What a finish call says for itself: it goes before what the job, its function and the worker say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Seconds until the next run of a job that failed.
    pub retry_in: Option<u64>,
    /// Seconds the exit status is kept.
    pub keep: Option<u64>,
    /// With a longer lease: how far the run is, for whoever looks; see [`crate::Notes::progress`].
    pub progress: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_list_or_double() {
        let steps = Backoff::Steps(vec![10, 60, 600]);
        let delays: Vec<u64> = (0..6).map(|failures| steps.delay(failures)).collect();
        assert_eq!(delays, [10, 10, 60, 600, 600, 600]);
        let doubling = Backoff::Doubling {
            first: 5,
            most: 100,
        };
        let delays: Vec<u64> = [1, 2, 3, 5, 6, u32::MAX]
            .map(|failures| doubling.delay(failures))
            .into();
        assert_eq!(delays, [5, 10, 20, 80, 100, 100]);
        assert_eq!(Backoff::fixed(0).delay(9), 0);
    }

    #[test]
    fn a_backoff_survives_its_text_and_others_are_none() {
        let largest = Backoff::Steps(vec![SECONDS_MAX; STEPS_MAX]);
        let doubling = Backoff::Doubling {
            first: 1,
            most: SECONDS_MAX,
        };
        for backoff in [Backoff::fixed(0), largest, doubling] {
            assert!(backoff.check().is_ok() && backoff.text().len() <= 255);
            assert_eq!(Backoff::parse(&backoff.text()), Some(backoff));
        }
        for text in [
            "",
            "x",
            "1,",
            "-1",
            "0*5",
            "9*5",
            "1*",
            "1*2*3",
            "4294967296",
        ] {
            assert_eq!(Backoff::parse(text), None, "{text}");
        }
        assert!(Backoff::Steps(vec![0; STEPS_MAX + 1]).check().is_err());
        assert!(Backoff::fixed(SECONDS_MAX + 1).check().is_err());
    }
}
