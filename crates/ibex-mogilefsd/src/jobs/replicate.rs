//! Making and removing replicas until a file's policy is content.

use super::Job;
use crate::copy::{self, Copy, CopyError};
use crate::snapshot::Class;
use crate::store::files::File;
use crate::store::queues::{Queue, ToReplicate};
use crate::store::{Result, StoreError};
use crate::tracker::Tracker;
use ibex_mogilefs_core::replicate::{Progress, Step, choose_source, next_step, retry_delay};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{Checksum, DevId, Fid};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Steps for one file in one go: no class has more replicas than this, and every failure takes a device out.
const STEPS_MAX: usize = 64;

/// The replicate job.
pub(super) struct Replicate;

impl Job for Replicate {
    type Item = ToReplicate;
    const KIND: JobKind = JobKind::Replicate;
    const NAME: &'static str = "replicate";
    const QUEUE: Queue = Queue::Replicate;
    const HELD_SECONDS: u64 = 1;

    async fn claim(tracker: &Tracker, limit: u64, lease: u64) -> Result<Vec<ToReplicate>> {
        tracker.store.claim_replications(limit, lease).await
    }

    fn fid(item: &ToReplicate) -> Fid {
        item.fid
    }

    fn failcount(item: &ToReplicate) -> u32 {
        item.failcount
    }

    async fn work(tracker: Arc<Tracker>, item: ToReplicate) -> Result<bool> {
        let Some(file) = tracker.store.file(item.fid).await? else {
            tracker.store.finish(Queue::Replicate, item.fid).await?;
            return Ok(true);
        };
        match settle(&tracker, &file, item.from, BTreeSet::new()).await? {
            Settled::Content => {
                tracker.store.finish(Queue::Replicate, item.fid).await?;
                Ok(true)
            }
            Settled::NoSource => {
                tracing::error!(fid = %item.fid, "file has no replica left, only a search of all devices (fsck) can help");
                tracker.store.park(Queue::Replicate, item.fid).await?;
                Ok(false)
            }
            Settled::Later(reason) => {
                let delay = delay_seconds(&tracker, item.failcount);
                tracing::debug!(fid = %item.fid, reason, delay, "replication postponed");
                tracker
                    .store
                    .reschedule(Queue::Replicate, item.fid, delay, item.failcount + 1)
                    .await?;
                Ok(false)
            }
        }
    }
}

/// COMPAT(mogilefsd): test suites of the original set TESTING=1 and do not wait.
pub(super) fn delay_seconds(tracker: &Tracker, failcount: u32) -> u64 {
    if std::env::var_os("TESTING").is_some_and(|value| value == "1") {
        return 1;
    }
    retry_delay(failcount, &mut tracker.rng()).as_secs().max(1)
}

/// How an attempt on one file ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The policy is satisfied.
    Content,
    /// Nothing is recorded to copy from.
    NoSource,
    /// Try again later, for this reason.
    Later(&'static str),
}

/// Steps one file until it rests. `avoid` are devices that must not receive it. The caller holds the file.
pub(super) async fn settle(
    tracker: &Arc<Tracker>,
    file: &File,
    preferred: Option<DevId>,
    avoid: BTreeSet<DevId>,
) -> Result<Settled> {
    let recorded = tracker.store.devices_of(file.fid).await?;
    if recorded.is_empty() {
        return Ok(Settled::NoSource);
    }
    let class = fresh_class(tracker, file).await?;
    let mut work = Work {
        tracker,
        file,
        class,
        preferred,
        expected: tracker.store.checksum(file.fid).await?,
        progress: Progress {
            on: counting(tracker, &recorded),
            failed: avoid,
        },
        bad_sources: BTreeSet::new(),
    };
    for _ in 0..STEPS_MAX {
        if let Some(settled) = work.step().await? {
            return Ok(settled);
        }
    }
    Ok(Settled::Later("too many steps"))
}

/// The file's class, re-read when this tracker has not heard of it yet.
async fn fresh_class(tracker: &Tracker, file: &File) -> Result<Class> {
    let snapshot = tracker.snapshot();
    let known = snapshot
        .domains
        .get(&file.domain)
        .is_some_and(|domain| domain.classes.contains_key(&file.class));
    if !known {
        tracker.reload_after_miss().await?;
    }
    Ok(tracker.class_of(file))
}

fn counting(tracker: &Tracker, recorded: &[DevId]) -> BTreeSet<DevId> {
    let snapshot = tracker.snapshot();
    recorded
        .iter()
        .copied()
        .filter(|&device| snapshot.cluster.counts(device))
        .collect()
}

struct Work<'a> {
    tracker: &'a Arc<Tracker>,
    file: &'a File,
    class: Class,
    preferred: Option<DevId>,
    expected: Option<Checksum>,
    progress: Progress,
    bad_sources: BTreeSet<DevId>,
}

impl Work<'_> {
    /// One step; the end of the work, or `None` to go on.
    async fn step(&mut self) -> Result<Option<Settled>> {
        let snapshot = self.tracker.snapshot();
        let step = next_step(
            &snapshot.cluster,
            &self.class.policy,
            self.class.mindevcount,
            &self.progress,
            &mut self.tracker.rng(),
        );
        match step {
            Step::Done => Ok(Some(Settled::Content)),
            Step::Stuck => Ok(Some(Settled::Later("no destination"))),
            Step::Copy { to, .. } => self.copy_to(to).await,
            Step::Remove(device) => self.remove(device).await,
        }
    }

    async fn copy_to(&mut self, to: DevId) -> Result<Option<Settled>> {
        let snapshot = self.tracker.snapshot();
        let local = self.tracker.config().local_network;
        let zone = (!local.is_empty()).then_some(local.as_str());
        let source = choose_source(
            &snapshot.cluster,
            &self.progress.on,
            self.preferred,
            &self.bad_sources,
            zone,
            &mut self.tracker.rng(),
        );
        let Some(from) = source else {
            return Ok(Some(Settled::Later("no readable source")));
        };
        let wish = Copy {
            fid: self.file.fid,
            length: self.file.length,
            from,
            to,
            expected: self.expected.clone(),
        };
        match copy::copy(self.tracker, &wish).await {
            Ok(md5) => self.copied(to, md5).await,
            Err(CopyError::Source(error)) => {
                tracing::info!(fid = %self.file.fid, from = %from, to = %to, error, "source failed, trying another");
                self.bad_sources.insert(from);
                Ok(None)
            }
            Err(CopyError::Destination(error)) => {
                tracing::info!(fid = %self.file.fid, from = %from, to = %to, error, "destination failed, trying another");
                self.progress.failed.insert(to);
                Ok(None)
            }
        }
    }

    async fn copied(&mut self, to: DevId, md5: Checksum) -> Result<Option<Settled>> {
        if !self.tracker.store.add_replica(self.file.fid, to).await? {
            // Deleted meanwhile; the new replica is queued for deletion with the rest.
            self.tracker.wake(JobKind::Delete);
            return Ok(Some(Settled::Content));
        }
        tracing::debug!(fid = %self.file.fid, devid = %to, "replica made");
        if self.expected.is_none() && self.class.hash == Some(md5.algorithm) {
            self.tracker.store.set_checksum(self.file.fid, &md5).await?;
            self.expected = Some(md5);
        }
        self.progress.on.insert(to);
        Ok(None)
    }

    /// Removes one replica too many, after seeing that another one is there in full.
    async fn remove(&mut self, device: DevId) -> Result<Option<Settled>> {
        let fid = self.file.fid;
        let others: Vec<DevId> = self
            .progress
            .on
            .iter()
            .copied()
            .filter(|&other| other != device)
            .collect();
        let mut is_safe = false;
        for other in others {
            let Some(url) = self.tracker.read_url(other, fid) else {
                continue;
            };
            if self
                .tracker
                .nodes
                .head(&url)
                .await
                .is_ok_and(|length| length == Some(self.file.length))
            {
                is_safe = true;
                break;
            }
        }
        let Some(url) = self.tracker.url(device, fid).filter(|_| is_safe) else {
            return Ok(Some(Settled::Later("no proof of another replica")));
        };
        // The location goes first: a reader must not be sent to bytes that are about to vanish. Bytes that outlive it are found by the next check.
        self.tracker
            .store
            .remove_replicas(fid, vec![device])
            .await?;
        if let Err(error) = self.tracker.nodes.delete(&url).await {
            tracing::info!(%fid, devid = %device, %error, "surplus replica not deleted, recording it again");
            self.tracker.store.add_replica(fid, device).await?;
            return Ok(Some(Settled::Later("surplus replica not deleted")));
        }
        tracing::debug!(%fid, devid = %device, "surplus replica removed");
        self.progress.on.remove(&device);
        Ok::<_, StoreError>(None)
    }
}
