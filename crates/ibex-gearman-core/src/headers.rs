//! Headers of a submission (option `headers`): `key=value` pairs joined by `;`, which travel with the job and steer it.
//!
//! Owns their grammar and meaning; what a job does by them is with the parts that do it. The text is kept as it came: workers get it, the store keeps it.

use std::time::Duration;

use bytes::Bytes;
use ibex_base::ascii;

use crate::config::RetryPolicy;

/// Bytes of all headers of one job.
pub(crate) const HEADERS_BYTES_MAX: usize = 4096;
/// Longest time a header may name: a year.
const SECONDS_MAX: u64 = 366 * 86_400;
/// Most attempts a header may name.
const ATTEMPTS_MAX: u64 = 1000;
/// Shortest pause before a job that failed comes again: some workers send two packets for one failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause where none is named.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// What a job does by its headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Headers {
    /// As they came.
    pub(crate) text: Bytes,
    /// `timeout`: how long a worker may take, instead of what the worker said.
    pub(crate) timeout: Option<Duration>,
    /// `ttl`: given up when no worker took it within that time.
    pub(crate) ttl: Option<Duration>,
    /// `delay`: not handed out before.
    pub(crate) delay: Option<Duration>,
    /// `attempts` and `backoff`: what failures mean, instead of the function's policy.
    pub(crate) retry: Option<RetryPolicy>,
    /// `dedupe`: an equal job that ended well that long ago or less will do.
    pub(crate) dedupe: Option<Duration>,
    /// `result-ttl`: how long its result is kept, instead of what the server does.
    pub(crate) result_ttl: Option<Duration>,
}

impl Headers {
    /// `None` for what cannot be read, and for keys that mean nothing here: what was asked for and cannot be done must not be dropped in silence.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > HEADERS_BYTES_MAX {
            return None;
        }
        let mut headers = Self::default();
        let (mut attempts, mut pauses) = (None, None);
        for pair in text
            .split(|byte| *byte == b';')
            .filter(|pair| !pair.is_empty())
        {
            let at = memchr_eq(pair)?;
            let (key, value) = (&pair[..at], &pair[at + 1..]);
            match key {
                b"timeout" => headers.timeout = Some(seconds(value)?),
                b"ttl" => headers.ttl = Some(seconds(value)?),
                b"delay" => headers.delay = Some(seconds(value)?),
                b"dedupe" => headers.dedupe = Some(seconds(value)?),
                b"result-ttl" => headers.result_ttl = Some(seconds(value)?),
                b"attempts" => {
                    let count = ascii::parse_u64(value)?;
                    attempts = Some(count).filter(|n| (1..=ATTEMPTS_MAX).contains(n));
                    attempts?;
                }
                b"backoff" => pauses = Some(backoff(value)?),
                b"traceparent" => {}
                _ if key.starts_with(b"x-") => {}
                _ => return None,
            }
        }
        if attempts.is_some() || pauses.is_some() {
            let (pause_min, pause_max) = pauses.unwrap_or((PAUSE_MIN, PAUSE_MAX));
            headers.retry = Some(RetryPolicy {
                attempts: attempts.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
                pause_min,
                pause_max,
            });
        }
        headers.text = Bytes::copy_from_slice(text);
        Some(headers)
    }
}

fn memchr_eq(pair: &[u8]) -> Option<usize> {
    pair.iter().position(|byte| *byte == b'=')
}

fn seconds(value: &[u8]) -> Option<Duration> {
    let seconds = ascii::parse_u64(value).filter(|n| (1..=SECONDS_MAX).contains(n))?;
    Some(Duration::from_secs(seconds))
}

/// `MIN` or `MIN..MAX`.
fn backoff(value: &[u8]) -> Option<(Duration, Duration)> {
    let dots = value.windows(2).position(|two| two == b"..");
    let (min, max) = match dots {
        Some(at) => (seconds(&value[..at])?, seconds(&value[at + 2..])?),
        None => {
            let min = seconds(value)?;
            (min, min.max(PAUSE_MAX))
        }
    };
    (min <= max).then_some((min, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pairs_are_read() {
        let text = b"timeout=3;ttl=60;delay=5;dedupe=7;result-ttl=9;attempts=4;backoff=2..30;traceparent=00-a-b-01;x-any=%3B;;";
        let headers = Headers::parse(text).unwrap();
        assert_eq!(
            (headers.timeout, headers.ttl),
            (Some(secs(3)), Some(secs(60)))
        );
        assert_eq!(
            (headers.delay, headers.dedupe),
            (Some(secs(5)), Some(secs(7)))
        );
        let retry = headers.retry.unwrap();
        assert_eq!(
            (retry.attempts, retry.pause_min, retry.pause_max),
            (4, secs(2), secs(30))
        );
        assert_eq!(&headers.text[..], text);
        let retry = Headers::parse(b"backoff=20").unwrap().retry.unwrap();
        assert_eq!((retry.attempts, retry.pause_max), (u32::MAX, secs(600)));
        assert_eq!(Headers::parse(b""), Some(Headers::default()));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            "timeout",
            "timeout=",
            "timeout=0",
            "timeout=-1",
            "ttl=x",
            "attempts=0",
            "attempts=1001",
            "backoff=5..2",
            "backoff=1..",
            "dedupe=99999999999",
            "speed=9",
            "=1",
        ] {
            assert_eq!(Headers::parse(text.as_bytes()), None, "{text}");
        }
        let longest = format!("x-a={}", "b".repeat(HEADERS_BYTES_MAX - 4));
        assert!(Headers::parse(longest.as_bytes()).is_some());
        assert_eq!(Headers::parse(format!("{longest}b").as_bytes()), None);
    }
}
