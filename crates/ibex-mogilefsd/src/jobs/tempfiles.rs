//! Uploads that nobody closed, and the delete tables of early versions of the original.

use crate::tracker::Tracker;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_proto::console::JobKind;
use std::sync::Arc;
use std::time::Duration;

/// Uploads given up per round.
const BATCH: u64 = 50;
/// Pause between rounds without work.
const PAUSE: Duration = Duration::from_secs(30);

/// The worker.
pub(super) struct TempFiles {
    tracker: Arc<Tracker>,
    done: u64,
}

impl TempFiles {
    pub(super) fn new(tracker: Arc<Tracker>) -> Self {
        Self { tracker, done: 0 }
    }
}

impl Worker for TempFiles {
    fn name(&self) -> String {
        "tempfiles".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.done,
            total: None,
            note: "uploads given up".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        if self.tracker.want(JobKind::Delete) == 0 {
            return Ok(Step::Idle { wait: PAUSE });
        }
        // COMPAT(mogilefsd): its test suite shortens the wait by this variable.
        let age = std::env::var("T_TEMPFILE_TOO_OLD")
            .ok()
            .and_then(|seconds| seconds.parse().ok());
        let age = age.unwrap_or_else(|| self.tracker.config().tempfile_max_age.std().as_secs());
        let old = self.tracker.store.old_temp_files(age, BATCH).await?;
        let found = old.len() as u64;
        for temp in old {
            tracing::debug!(fid = %temp.fid, "upload was never closed");
            self.tracker.store.discard_temp(temp).await?;
            self.done += 1;
        }
        let moved = self.tracker.store.drain_legacy_deletes(BATCH).await?;
        if found + moved > 0 {
            self.tracker.wake(JobKind::Delete);
        }
        if found == BATCH || moved >= BATCH {
            Ok(Step::Busy)
        } else {
            Ok(Step::Idle { wait: PAUSE })
        }
    }
}
