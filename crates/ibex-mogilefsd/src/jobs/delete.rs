//! Removing the bytes of files that are gone from the namespace.

use super::Job;
use crate::store::Result;
use crate::store::queues::{Queue, ToDelete};
use crate::tracker::Tracker;
use ibex_mogilefs_core::Observed;
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{DevId, Fid};
use std::sync::Arc;

/// A device that does not answer is asked again after this, plus a minute per failure. The monitor pulls it forward when the device is back.
const UNREACHABLE_SECONDS: u64 = 600;
/// A state that forbids deleting is looked at again after this, times the failures.
const FORBIDDEN_SECONDS: u64 = 3600;
/// A refusal of the node is tried again after this, times the failures.
const REFUSED_SECONDS: u64 = 1800;

/// The delete job.
pub(super) struct Delete;

impl Job for Delete {
    type Item = ToDelete;
    const KIND: JobKind = JobKind::Delete;
    const NAME: &'static str = "delete";
    const QUEUE: Queue = Queue::Delete;
    const HELD_SECONDS: u64 = 1;

    async fn claim(tracker: &Tracker, limit: u64, lease: u64) -> Result<Vec<ToDelete>> {
        tracker.store.claim_deletions(limit, lease).await
    }

    fn fid(item: &ToDelete) -> Fid {
        item.fid
    }

    fn failcount(item: &ToDelete) -> u32 {
        item.failcount
    }

    async fn work(tracker: Arc<Tracker>, item: ToDelete) -> Result<bool> {
        let fid = item.fid;
        if tracker.store.file(fid).await?.is_some() {
            // Somebody's key points to it: whatever queued it was wrong, and bytes in use are never removed.
            tracing::error!(%fid, "file in use was queued for deletion, ignored");
            tracker.store.finish(Queue::Delete, fid).await?;
            return Ok(false);
        }
        tracker.store.forget_extras(fid).await?;
        let mut delay: Option<u64> = None;
        for device in tracker.store.devices_of(fid).await? {
            match remove(&tracker, device, fid, item.failcount).await {
                None => tracker.store.remove_replicas(fid, vec![device]).await?,
                Some(wait) => delay = Some(delay.map_or(wait, |earlier| earlier.min(wait))),
            }
        }
        match delay {
            None => {
                tracker.store.finish(Queue::Delete, fid).await?;
                Ok(true)
            }
            Some(wait) => {
                tracker
                    .store
                    .reschedule(Queue::Delete, fid, wait, item.failcount + 1)
                    .await?;
                Ok(false)
            }
        }
    }
}

/// Removes one replica; `None` when it is gone, else the seconds to wait before trying again.
async fn remove(tracker: &Tracker, device: DevId, fid: Fid, failcount: u32) -> Option<u64> {
    let failures = u64::from(failcount) + 1;
    let snapshot = tracker.snapshot();
    let (known, _) = snapshot.cluster.device(device)?;
    if !known.state.counts() {
        return None;
    }
    if !snapshot.cluster.can_delete(device) {
        return Some(FORBIDDEN_SECONDS * failures);
    }
    if known.observed == Observed::Unreachable || known.observed == Observed::Unknown {
        return Some(UNREACHABLE_SECONDS + 60 * failures);
    }
    let url = tracker.url(device, fid)?;
    match tracker.nodes.delete(&url).await {
        Ok(()) => None,
        Err(error) => {
            tracing::info!(%fid, devid = %device, %error, "replica not deleted, will retry");
            Some(REFUSED_SECONDS * failures)
        }
    }
}
