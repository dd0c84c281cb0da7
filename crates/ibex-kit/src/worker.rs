//! Background workers: replication, fsck, reaping, moving users. One small step at a time.
//!
//! Owns the loop that runs them, so that each can be paused, slowed and seen at `/-/workers`, and backs off on errors.
//! What a step does belongs to the daemon.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::lock;

/// Work that goes on in the background.
pub trait Worker: Send + 'static {
    /// Its name in pages, metrics and the tool; unique in the process.
    fn name(&self) -> String;

    /// How far it is.
    fn status(&self) -> WorkerStatus {
        WorkerStatus::default()
    }

    /// One small step. It must be safe to stop between any two.
    fn step(&mut self) -> impl Future<Output = Result<Step, anyhow::Error>> + Send;
}

/// How far a worker is, in its own units.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct WorkerStatus {
    /// Things done.
    pub done: u64,
    /// Things to do in all, if known.
    pub total: Option<u64>,
    /// What it is at, for people.
    pub note: String,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There was work and there is probably more.
    Busy,
    /// Nothing to do; look again after this time, or when woken.
    Idle {
        /// How long to wait.
        wait: Duration,
    },
}

/// First wait after an error; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait after errors: a dependency that comes back is noticed within it.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct State {
    paused: bool,
    /// 1 to 100: the share of time it may work.
    speed: u32,
    status: WorkerStatus,
    steps: u64,
    errors: u64,
    last_error: Option<String>,
    busy: bool,
    /// For the rate: when this process's run began and where it was.
    since: Instant,
    done_at_start: u64,
}

/// One worker as seen from outside.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    state: Mutex<State>,
    changed: tokio::sync::Notify,
}

/// A worker as the admin port shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct WorkerView {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) paused: bool,
    pub(crate) speed: u32,
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    pub(crate) note: String,
    pub(crate) rate_per_second: f64,
    pub(crate) eta_seconds: Option<f64>,
    pub(crate) steps: u64,
    pub(crate) errors: u64,
    pub(crate) last_error: Option<String>,
}

impl Entry {
    fn new(name: String, status: WorkerStatus) -> Self {
        let done_at_start = status.done;
        let state = State {
            paused: false,
            speed: 100,
            status,
            steps: 0,
            errors: 0,
            last_error: None,
            busy: false,
            since: Instant::now(),
            done_at_start,
        };
        Self {
            name,
            state: Mutex::new(state),
            changed: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn pause(&self, paused: bool) {
        lock(&self.state).paused = paused;
        self.changed.notify_one();
    }

    /// Sets the share of time it may work, 1 to 100 percent.
    pub(crate) fn speed(&self, percent: u32) {
        lock(&self.state).speed = percent.clamp(1, 100);
        self.changed.notify_one();
    }

    #[expect(clippy::cast_precision_loss, reason = "rates and estimates for people")]
    pub(crate) fn view(&self) -> WorkerView {
        let state = lock(&self.state);
        let rate = state.status.done.saturating_sub(state.done_at_start) as f64
            / state.since.elapsed().as_secs_f64().max(0.001);
        let left = state
            .status
            .total
            .map(|total| total.saturating_sub(state.status.done));
        WorkerView {
            name: self.name.clone(),
            state: if state.paused {
                "paused"
            } else if state.busy {
                "busy"
            } else {
                "idle"
            },
            paused: state.paused,
            speed: state.speed,
            done: state.status.done,
            total: state.status.total,
            note: state.status.note.clone(),
            rate_per_second: rate,
            eta_seconds: left.filter(|_| rate > 0.0).map(|left| left as f64 / rate),
            steps: state.steps,
            errors: state.errors,
            last_error: state.last_error.clone(),
        }
    }
}

/// All workers of the process.
#[derive(Debug, Default)]
pub(crate) struct Workers(Mutex<Vec<Arc<Entry>>>);

/// Wakes an idle worker before its wait is over.
#[derive(Debug, Clone)]
pub struct WorkerHandle(Arc<Entry>);

impl WorkerHandle {
    /// There is work now.
    pub fn wake(&self) {
        self.0.changed.notify_one();
    }
}

impl Workers {
    pub(crate) fn add(&self, name: String, status: WorkerStatus) -> (Arc<Entry>, WorkerHandle) {
        let entry = Arc::new(Entry::new(name, status));
        lock(&self.0).push(Arc::clone(&entry));
        (Arc::clone(&entry), WorkerHandle(entry))
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Entry>> {
        lock(&self.0)
            .iter()
            .find(|entry| entry.name == name)
            .cloned()
    }

    pub(crate) fn views(&self) -> Vec<WorkerView> {
        lock(&self.0).iter().map(|entry| entry.view()).collect()
    }
}

/// Runs a worker until `stop`; a step under way is finished.
pub(crate) async fn run<W: Worker>(mut worker: W, entry: Arc<Entry>, stop: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    while !stop.is_cancelled() {
        let (paused, speed) = {
            let state = lock(&entry.state);
            (state.paused, state.speed)
        };
        if paused {
            tokio::select! { () = entry.changed.notified() => {} () = stop.cancelled() => {} }
            continue;
        }
        lock(&entry.state).busy = true;
        let began = Instant::now();
        let outcome = worker.step().await;
        let took = began.elapsed();
        let status = worker.status();
        let wait = record(&entry, outcome, status, took, speed, &mut backoff);
        if wait.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::select! { () = tokio::time::sleep(wait) => {} () = entry.changed.notified() => {} () = stop.cancelled() => {} }
        }
    }
    debug!(worker = %entry.name, "worker stopped");
}

/// Writes down how the step went and says how long to wait before the next.
fn record(
    entry: &Entry,
    outcome: Result<Step, anyhow::Error>,
    status: WorkerStatus,
    took: Duration,
    speed: u32,
    backoff: &mut Duration,
) -> Duration {
    let mut state = lock(&entry.state);
    state.status = status;
    state.steps += 1;
    match outcome {
        Ok(step) => {
            *backoff = BACKOFF_MIN;
            state.last_error = None;
            let rest = took * (100 - speed) / speed;
            match step {
                Step::Busy => rest,
                Step::Idle { wait } => {
                    state.busy = false;
                    wait.max(rest)
                }
            }
        }
        Err(error) => {
            state.errors += 1;
            state.busy = false;
            // The first of a row of failures is told; the rest shows in the count and at /-/workers.
            if state.last_error.is_none() {
                warn!(worker = %entry.name, error = %format!("{error:#}"), "worker step failed, will retry");
            }
            state.last_error = Some(format!("{error:#}"));
            let wait = *backoff;
            *backoff = (*backoff * 2).min(BACKOFF_MAX);
            wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting {
        sent: tokio::sync::mpsc::UnboundedSender<u64>,
        done: u64,
        fail: bool,
    }

    impl Worker for Counting {
        fn name(&self) -> String {
            "counting".to_owned()
        }
        fn status(&self) -> WorkerStatus {
            WorkerStatus {
                done: self.done,
                total: Some(1000),
                note: String::new(),
            }
        }
        async fn step(&mut self) -> Result<Step, anyhow::Error> {
            if self.fail {
                anyhow::bail!("no luck");
            }
            self.done += 1;
            self.sent.send(self.done)?;
            Ok(if self.done.is_multiple_of(2) {
                Step::Idle {
                    wait: Duration::from_secs(3600),
                }
            } else {
                Step::Busy
            })
        }
    }

    fn start(
        fail: bool,
    ) -> (
        Arc<Entry>,
        WorkerHandle,
        CancellationToken,
        tokio::sync::mpsc::UnboundedReceiver<u64>,
        tokio::task::JoinHandle<()>,
    ) {
        let (sent, received) = tokio::sync::mpsc::unbounded_channel();
        let workers = Workers::default();
        let (entry, handle) = workers.add("counting".to_owned(), WorkerStatus::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            Counting {
                sent,
                done: 0,
                fail,
            },
            Arc::clone(&entry),
            stop.clone(),
        ));
        (entry, handle, stop, received, task)
    }

    #[tokio::test(start_paused = true)]
    async fn runs_waits_wakes_and_stops() {
        let (entry, handle, stop, mut received, task) = start(false);
        assert_eq!(received.recv().await, Some(1));
        assert_eq!(received.recv().await, Some(2));
        handle.wake();
        assert_eq!(received.recv().await, Some(3));
        assert_eq!(received.recv().await, Some(4));
        stop.cancel();
        task.await.unwrap();
        let view = entry.view();
        assert_eq!(
            (view.done, view.total, view.steps, view.state),
            (4, Some(1000), 4, "idle")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_worker_makes_no_step_until_resumed() {
        let (entry, _handle, stop, mut received, task) = start(false);
        entry.pause(true);
        tokio::time::sleep(Duration::from_secs(7200)).await;
        while received.try_recv().is_ok() {}
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert!(received.try_recv().is_err());
        assert_eq!(entry.view().state, "paused");
        entry.pause(false);
        assert!(received.recv().await.is_some());
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn errors_back_off_and_are_shown() {
        let (entry, _handle, stop, _received, task) = start(true);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let view = entry.view();
        assert!((3..=6).contains(&view.errors), "{}", view.errors);
        assert_eq!(view.last_error.as_deref(), Some("no luck"));
        stop.cancel();
        task.await.unwrap();
    }
}
