//! Moving one replica off a device: a copy in a better place first, then the old one goes.

use super::Job;
use crate::copy::{self, Copy, CopyError};
use crate::store::files::File;
use crate::store::queues::{Queue, QueueType, Queued};
use crate::store::{Result, parse_devids};
use crate::tracker::Tracker;
use ibex_mogilefs_core::replicate::{Progress, Step, choose_source, next_step};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{DevId, Fid};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Steps for one replica: every failure takes a destination out.
const STEPS_MAX: usize = 32;

/// The rebalance job.
pub(super) struct Rebalance;

impl Job for Rebalance {
    type Item = Queued;
    const KIND: JobKind = JobKind::Replicate;
    const NAME: &'static str = "rebalance";
    const QUEUE: Queue = Queue::Other(QueueType::Rebalance);
    const HELD_SECONDS: u64 = 5;

    async fn claim(tracker: &Tracker, limit: u64, lease: u64) -> Result<Vec<Queued>> {
        tracker
            .store
            .claim_queued(QueueType::Rebalance, limit, lease)
            .await
    }

    fn fid(item: &Queued) -> Fid {
        item.fid
    }

    fn failcount(item: &Queued) -> u32 {
        item.failcount
    }

    async fn work(tracker: Arc<Tracker>, item: Queued) -> Result<bool> {
        let moved = match (item.device, tracker.store.file(item.fid).await?) {
            (Some(device), Some(file)) => {
                move_off(&tracker, &file, device, &parse_devids(&item.arg)).await?
            }
            // A location of a file that is gone: the delete job owns it, or nobody does and it would keep the device from becoming empty.
            (Some(device), None) => {
                if tracker
                    .store
                    .queue_row(Queue::Delete, item.fid)
                    .await?
                    .is_none()
                {
                    tracker
                        .store
                        .remove_replicas(item.fid, vec![device])
                        .await?;
                }
                true
            }
            (None, _) => false,
        };
        // A replica that found no better place stays; the run reports it by leaving it behind.
        tracker.store.finish(Self::QUEUE, item.fid).await?;
        Ok(moved)
    }
}

async fn move_off(
    tracker: &Arc<Tracker>,
    file: &File,
    device: DevId,
    destinations: &[DevId],
) -> Result<bool> {
    let recorded = tracker.store.devices_of(file.fid).await?;
    if !recorded.contains(&device) {
        return Ok(true);
    }
    let snapshot = tracker.snapshot();
    let class = tracker.class_of(file);
    let expected = tracker.store.checksum(file.fid).await?;
    let all: BTreeSet<DevId> = recorded
        .iter()
        .copied()
        .filter(|&id| snapshot.cluster.counts(id))
        .collect();
    let mut progress = Progress {
        on: all.iter().copied().filter(|&id| id != device).collect(),
        failed: snapshot
            .cluster
            .devices
            .keys()
            .copied()
            .filter(|id| !destinations.contains(id))
            .collect(),
    };
    progress.failed.insert(device);
    let mut bad_sources = BTreeSet::new();
    for _ in 0..STEPS_MAX {
        let snapshot = tracker.snapshot();
        let to = match next_step(
            &snapshot.cluster,
            &class.policy,
            class.mindevcount,
            &progress,
            &mut tracker.rng(),
        ) {
            Step::Done | Step::Remove(_) => {
                return remove_source(tracker, file, device, &progress.on).await;
            }
            Step::Copy {
                to,
                desperate: false,
            } => to,
            Step::Copy {
                desperate: true, ..
            }
            | Step::Stuck => break,
        };
        let Some(from) = choose_source(
            &snapshot.cluster,
            &all,
            Some(device),
            &bad_sources,
            None,
            &mut tracker.rng(),
        ) else {
            break;
        };
        let wish = Copy {
            fid: file.fid,
            length: file.length,
            from,
            to,
            expected: expected.clone(),
        };
        match copy::copy(tracker, &wish).await {
            Ok(_) => {
                if !tracker.store.add_replica(file.fid, to).await? {
                    return Ok(true);
                }
                progress.on.insert(to);
            }
            Err(CopyError::Source(error)) => {
                tracing::info!(fid = %file.fid, from = %from, error, "source failed, trying another");
                bad_sources.insert(from);
            }
            Err(CopyError::Destination(error)) => {
                tracing::info!(fid = %file.fid, to = %to, error, "destination failed, trying another");
                progress.failed.insert(to);
            }
        }
    }
    tracing::warn!(fid = %file.fid, devid = %device, "no better place for a replica, it stays");
    Ok(false)
}

/// Removes the replica that has been made superfluous, after seeing another one.
async fn remove_source(
    tracker: &Tracker,
    file: &File,
    device: DevId,
    others: &BTreeSet<DevId>,
) -> Result<bool> {
    for &other in others {
        let Some(url) = tracker.read_url(other, file.fid) else {
            continue;
        };
        if !tracker
            .nodes
            .head(&url)
            .await
            .is_ok_and(|length| length == Some(file.length))
        {
            continue;
        }
        tracker
            .store
            .remove_replicas(file.fid, vec![device])
            .await?;
        if let Some(url) = tracker.url(device, file.fid)
            && let Err(error) = tracker.nodes.delete(&url).await
        {
            tracing::info!(fid = %file.fid, devid = %device, %error, "moved replica not deleted, recording it again");
            tracker.store.add_replica(file.fid, device).await?;
            return Ok(false);
        }
        return Ok(true);
    }
    Ok(false)
}
