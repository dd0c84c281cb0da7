//! Policies of the job server: what an operator may choose. Values are checked by the daemon before they come here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::job::JobId;

/// What the number in CAN_DO_TIMEOUT means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutUnit {
    /// Below 1000 seconds, from 1000 on milliseconds. The protocol text says milliseconds; every widespread client library passes seconds.
    #[default]
    Auto,
    /// Always seconds.
    Seconds,
    /// Always milliseconds.
    Milliseconds,
}

/// What happens to a foreground job whose worker took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// Its clients get WORK_FAIL, as the protocol text promises.
    #[default]
    Fail,
    /// It waits again, as in the original server.
    Requeue,
}

/// How many sleeping workers a new job wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wakeup {
    /// One per waiting job; when a woken worker stays silent for [`Config::wakeup_delay`], the next ones, doubling.
    #[default]
    Auto,
    /// All of the function, the original's default.
    All,
    /// That many.
    Count(u32),
}

/// What becomes of a function's background jobs that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts, the first counted, after which a job is given up, whatever ended them; at least 1.
    pub attempts: u32,
    /// Pause after the first failure. At least a second: some workers send two packets for one failure.
    pub pause_min: Duration,
    /// The pause doubles with each failure, up to this.
    pub pause_max: Duration,
}

impl RetryPolicy {
    /// The pause after `attempts` attempts, in milliseconds. Up to a quarter is taken off by the job's number, so that jobs that failed together do not
    /// come back together.
    pub(crate) fn pause_ms(&self, job: JobId, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(31);
        let pause = self
            .pause_min
            .saturating_mul(1 << doublings)
            .min(self.pause_max);
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let spread = (job.0 ^ u64::from(attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        pause - pause / 1024 * spread
    }
}

/// Policies.
#[derive(Debug, Clone)]
pub struct Config {
    /// Text before the number in handles, `H:<host>`; at most 42 bytes, so that a colon and twenty digits fit behind it.
    pub handle_prefix: String,
    /// Number of the first job. Must never go back over restarts.
    pub first_job: u64,
    /// Background jobs are answered only after [`crate::Input::Persisted`].
    pub durable: bool,
    /// There is a store, even if new background jobs do not go there: recurring jobs do. Follows from `durable`.
    pub has_store: bool,
    /// Attempts after which a job whose workers disappear is given up: `None` never; `Some(n)` after max(n, 1).
    pub retries_max: Option<u32>,
    /// Functions whose background jobs are tried again when a worker reports failure, by name.
    pub retry: BTreeMap<Bytes, RetryPolicy>,
    /// Meaning of CAN_DO_TIMEOUT's number.
    pub timeout_unit: TimeoutUnit,
    /// What a timeout does to foreground jobs.
    pub timeout_action: TimeoutAction,
    /// Sleepers woken per job.
    pub wakeup: Wakeup,
    /// How long a woken worker may take to grab before others are woken too.
    pub wakeup_delay: Duration,
    /// How long a grab that finds nothing may stay unanswered, for a worker whose last sleep was no longer than that: the job that comes meanwhile is its
    /// answer, instead of NO_JOB, PRE_SLEEP, NOOP and another grab. Zero answers at once.
    pub grab_hold: Duration,
    /// Foreground jobs fail when their worker is lost, as with the Perl server.
    pub is_loss_failure: bool,
    /// Functions of a worker are served in turn; otherwise the last registered first.
    pub is_round_robin: bool,
    /// Every client gets WORK_EXCEPTION, as if it had asked.
    pub exceptions_for_all: bool,
    /// Jobs there may be; 0 is no bound. Beyond it: QUEUE_ERROR.
    pub jobs_max: usize,
    /// Functions there may be; 0 is no bound. Beyond it new names are refused with QUEUE_ERROR, known ones go on. What the store has is restored anyway.
    pub functions_max: usize,
    /// Bytes jobs may take in memory; 0 is no bound. Beyond half of it, workloads that wait in a durable queue stay in the store only; beyond all of it:
    /// QUEUE_ERROR.
    pub workload_bytes_max: u64,
    /// How long results of background jobs are kept, those of durable jobs in the store too; `None` not at all.
    pub result_ttl: Option<Duration>,
    /// Bytes of kept results, with 256 for each; those that would be forgotten next go first.
    pub results_bytes_max: usize,
    /// A function without workers, jobs, bounds and pause is forgotten after that long; `None` never.
    pub function_ttl: Option<Duration>,
    /// Secret of the index of unique keys, so that nobody can choose keys that collide.
    pub hash_seed: u64,
    /// Dead jobs that are kept; the oldest goes first.
    pub dead_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            handle_prefix: "H:localhost".into(),
            first_job: 1,
            durable: false,
            has_store: false,
            result_ttl: None,
            results_bytes_max: 64 << 20,
            function_ttl: None,
            retries_max: None,
            retry: BTreeMap::new(),
            timeout_unit: TimeoutUnit::default(),
            timeout_action: TimeoutAction::default(),
            wakeup: Wakeup::default(),
            wakeup_delay: WAKEUP_DELAY,
            grab_hold: Duration::ZERO,
            is_loss_failure: false,
            is_round_robin: true,
            exceptions_for_all: false,
            jobs_max: 0,
            functions_max: 0,
            workload_bytes_max: 0,
            hash_seed: 0,
            dead_max: DEAD_MAX,
        }
    }
}

/// Long for a healthy worker on any network, short for a person.
const WAKEUP_DELAY: Duration = Duration::from_millis(50);

/// Enough to see what went wrong last night, little enough to keep in memory.
const DEAD_MAX: usize = 10_000;

impl Config {
    /// The running time that a number in CAN_DO_TIMEOUT stands for; `None` when it is no positive decimal number.
    pub(crate) fn job_timeout(&self, text: &[u8]) -> Option<Duration> {
        let number = ibex_base::ascii::parse_u64(text).filter(|n| *n > 0)?;
        Some(match self.timeout_unit {
            TimeoutUnit::Seconds => Duration::from_secs(number),
            TimeoutUnit::Milliseconds => Duration::from_millis(number),
            TimeoutUnit::Auto if number < 1000 => Duration::from_secs(number),
            TimeoutUnit::Auto => Duration::from_millis(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_spread() {
        let policy = RetryPolicy {
            attempts: 5,
            pause_min: Duration::from_secs(8),
            pause_max: Duration::from_secs(60),
        };
        for (attempts, seconds) in [(1, 8), (2, 16), (3, 32), (4, 60), (40, 60)] {
            for id in 0..100 {
                let ms = policy.pause_ms(JobId(id), attempts);
                assert!(
                    (seconds * 750..=seconds * 1000).contains(&ms),
                    "{attempts}: {ms}"
                );
            }
        }
    }

    #[test]
    fn timeouts_by_unit() {
        let mut config = Config::default();
        let ms = |config: &Config, text: &str| {
            config.job_timeout(text.as_bytes()).map(|d| d.as_millis())
        };
        assert_eq!(ms(&config, "999"), Some(999_000));
        assert_eq!(ms(&config, "1000"), Some(1000));
        assert_eq!(ms(&config, "0"), None);
        assert_eq!(ms(&config, "-5"), None);
        assert_eq!(ms(&config, "soon"), None);
        config.timeout_unit = TimeoutUnit::Seconds;
        assert_eq!(ms(&config, "1000"), Some(1_000_000));
        config.timeout_unit = TimeoutUnit::Milliseconds;
        assert_eq!(ms(&config, "30"), Some(30));
    }
}
