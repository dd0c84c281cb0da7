//! Functions some of whose jobs became ready without an insert: admitted, unparked, called by a batch.
//!
//! Apart because a database finds out, and those who wait for jobs are elsewhere. A hint only: the tables say what is ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Stir {
    ready: Mutex<BTreeMap<String, u64>>,
    told: Notify,
}

impl Stir {
    pub(crate) fn add(&self, func: &str, jobs: u64) {
        *self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(func.to_owned())
            .or_default() += jobs;
        self.told.notify_one();
    }

    /// Functions and jobs since the last call; waits for the first.
    pub(crate) async fn next(&self) -> Vec<(String, u64)> {
        loop {
            let ready =
                std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner));
            if !ready.is_empty() {
                return ready.into_iter().collect();
            }
            self.told.notified().await;
        }
    }
}
