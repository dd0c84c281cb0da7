//! Liveness and readiness: heartbeats of loops, checks of dependencies.
//!
//! Owns the two lists behind `/healthz`, `/readyz` and the watchdog. Liveness never looks at dependencies: restarting a
//! daemon because its database is down makes an outage worse.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lock;

/// The time since `start`, in milliseconds, for atomics.
fn millis_since(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Beats {
    name: String,
    start: Instant,
    /// Milliseconds after `start` of the last beat.
    last: AtomicU64,
    /// The longest gap between beats since the last look, in milliseconds.
    gap: AtomicU64,
    /// Upper-bound counts of gaps, in [`STALL_BUCKETS`] and one beyond.
    stalls: Mutex<Stalls>,
}

/// Bounds of the stall histogram, in seconds.
pub(crate) const STALL_BUCKETS: [f64; 6] = [0.01, 0.1, 0.5, 1.0, 5.0, 10.0];

/// A histogram of gaps: counts per bucket (the last is "more"), and their sum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stalls {
    pub(crate) counts: [u64; 7],
    pub(crate) sum: f64,
}

/// A loop that must turn. Dropping it takes the loop off the list.
#[derive(Debug)]
pub struct Heartbeat {
    beats: Arc<Beats>,
    list: Arc<Mutex<Vec<Arc<Beats>>>>,
}

impl Heartbeat {
    /// The loop has turned. Cheap enough for every turn: one clock reading, two relaxed atomics.
    pub fn beat(&self) {
        let now = millis_since(self.beats.start, Instant::now());
        let before = self.beats.last.swap(now, Ordering::Relaxed);
        self.beats
            .gap
            .fetch_max(now.saturating_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        lock(&self.list).retain(|beats| !Arc::ptr_eq(beats, &self.beats));
    }
}

#[derive(Debug, Clone)]
enum State {
    Ok,
    Failed { why: String, since: Instant },
}

#[derive(Debug)]
struct CheckState {
    name: String,
    state: Mutex<State>,
}

/// A dependency the daemon needs to be ready. Starts as ok.
#[derive(Debug, Clone)]
pub struct Check {
    state: Arc<CheckState>,
}

impl Check {
    /// It is there.
    pub fn ok(&self) {
        *lock(&self.state.state) = State::Ok;
    }

    /// It is not there; the time counts from the first failure after an ok.
    pub fn failed(&self, why: impl Into<String>) {
        let mut state = lock(&self.state.state);
        let since = match &*state {
            State::Failed { since, .. } => *since,
            State::Ok => Instant::now(),
        };
        *state = State::Failed {
            why: why.into(),
            since,
        };
    }
}

/// One line of `/readyz?verbose`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    /// `None` = ok, else why and whether it already counts.
    pub(crate) failure: Option<(String, bool)>,
}

/// All heartbeats and checks of the process.
#[derive(Debug, Default)]
pub(crate) struct Health {
    beats: Arc<Mutex<Vec<Arc<Beats>>>>,
    checks: Mutex<Vec<Arc<CheckState>>>,
}

impl Health {
    pub(crate) fn heartbeat(&self, name: &str) -> Heartbeat {
        let beats = Arc::new(Beats {
            name: name.to_owned(),
            start: Instant::now(),
            last: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            stalls: Mutex::new(Stalls::default()),
        });
        lock(&self.beats).push(Arc::clone(&beats));
        Heartbeat {
            beats,
            list: Arc::clone(&self.beats),
        }
    }

    pub(crate) fn check(&self, name: &str) -> Check {
        let mut checks = lock(&self.checks);
        if let Some(known) = checks.iter().find(|check| check.name == name) {
            return Check {
                state: Arc::clone(known),
            };
        }
        let state = Arc::new(CheckState {
            name: name.to_owned(),
            state: Mutex::new(State::Ok),
        });
        checks.push(Arc::clone(&state));
        Check { state }
    }

    /// Loops that have not turned for longer than `limit`, with how long.
    pub(crate) fn stalled(&self, limit: Duration) -> Vec<(String, Duration)> {
        let now = Instant::now();
        let beats = lock(&self.beats);
        let age = |beats: &Beats| {
            Duration::from_millis(
                millis_since(beats.start, now).saturating_sub(beats.last.load(Ordering::Relaxed)),
            )
        };
        beats
            .iter()
            .map(|beats| (beats.name.clone(), age(beats)))
            .filter(|(_, age)| *age > limit)
            .collect()
    }

    /// Takes the longest gap of each loop since the last call into its histogram.
    pub(crate) fn observe(&self) {
        for beats in lock(&self.beats).iter() {
            let gap = Duration::from_millis(beats.gap.swap(0, Ordering::Relaxed)).as_secs_f64();
            let bucket = STALL_BUCKETS
                .iter()
                .position(|bound| gap <= *bound)
                .unwrap_or(STALL_BUCKETS.len());
            let mut stalls = lock(&beats.stalls);
            if let Some(count) = stalls.counts.get_mut(bucket) {
                *count += 1;
            }
            stalls.sum += gap;
        }
    }

    pub(crate) fn stalls(&self) -> Vec<(String, Stalls)> {
        lock(&self.beats)
            .iter()
            .map(|beats| (beats.name.clone(), lock(&beats.stalls).clone()))
            .collect()
    }

    /// Every check; a failure counts only after `tolerance`.
    pub(crate) fn verdicts(&self, tolerance: Duration) -> Vec<Verdict> {
        let checks = lock(&self.checks);
        let verdict = |check: &Arc<CheckState>| {
            let failure = match &*lock(&check.state) {
                State::Ok => None,
                State::Failed { why, since } => {
                    let age = since.elapsed();
                    Some((format!("{why} ({}s ago)", age.as_secs()), age >= tolerance))
                }
            };
            Verdict {
                name: check.name.clone(),
                failure,
            }
        };
        checks.iter().map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_turning_is_named_and_a_dropped_one_is_not() {
        let health = Health::default();
        let driver = health.heartbeat("driver");
        driver.beat();
        assert!(health.stalled(Duration::from_secs(5)).is_empty());
        let deadline = Instant::now() + Duration::from_secs(5);
        while health.stalled(Duration::from_millis(1)).is_empty() {
            assert!(Instant::now() < deadline, "never stalled");
            std::thread::yield_now();
        }
        assert_eq!(
            health
                .stalled(Duration::from_millis(1))
                .first()
                .map(|(name, _)| name.as_str()),
            Some("driver")
        );
        drop(driver);
        assert!(health.stalled(Duration::ZERO).is_empty());
    }

    #[test]
    fn a_failure_counts_after_the_tolerance_only() {
        let health = Health::default();
        let store = health.check("store");
        assert_eq!(
            health.verdicts(Duration::ZERO),
            [Verdict {
                name: "store".to_owned(),
                failure: None
            }]
        );
        store.failed("connect timeout");
        let counts = |tolerance| {
            health
                .verdicts(tolerance)
                .first()
                .and_then(|verdict| verdict.failure.clone())
                .map(|(_, counts)| counts)
        };
        assert_eq!(counts(Duration::from_secs(60)), Some(false));
        assert_eq!(counts(Duration::ZERO), Some(true));
        health.check("store").ok();
        assert_eq!(counts(Duration::ZERO), None);
    }

    #[test]
    fn gaps_go_into_the_histogram() {
        let health = Health::default();
        let beat = health.heartbeat("loop");
        beat.beat();
        health.observe();
        let stalls = health.stalls();
        assert_eq!(
            stalls
                .first()
                .map(|(_, stalls)| stalls.counts.iter().sum::<u64>()),
            Some(1)
        );
    }
}
