//! Checking files one by one and repairing what is found.

use super::Job;
use crate::copy::digest_of;
use crate::snapshot::Class;
use crate::store::Result;
use crate::store::files::File;
use crate::store::queues::{Queue, QueueType, Queued};
use crate::tracker::Tracker;
use ibex_mogilefs_core::fsck::{Event, Inspection, Probe, inspect, judge_checksums};
use ibex_mogilefs_core::policy::Situation;
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{Checksum, DevId, Fid, HashAlgorithm};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// A file on a silent node is checked again after this.
const STALLED_SECONDS: u64 = 60;

/// The fsck job.
pub(super) struct Fsck;

impl Job for Fsck {
    type Item = Queued;
    const KIND: JobKind = JobKind::Fsck;
    const NAME: &'static str = "fsck";
    const QUEUE: Queue = Queue::Other(QueueType::Fsck);
    const HELD_SECONDS: u64 = 5;

    async fn claim(tracker: &Tracker, limit: u64, lease: u64) -> Result<Vec<Queued>> {
        tracker
            .store
            .claim_queued(QueueType::Fsck, limit, lease)
            .await
    }

    fn fid(item: &Queued) -> Fid {
        item.fid
    }

    fn failcount(item: &Queued) -> u32 {
        item.failcount
    }

    async fn work(tracker: Arc<Tracker>, item: Queued) -> Result<bool> {
        let Some(file) = tracker.store.file(item.fid).await? else {
            tracker.store.finish(Self::QUEUE, item.fid).await?;
            return Ok(true);
        };
        let mut check = Check {
            class: tracker.class_of(&file),
            tracker: Arc::clone(&tracker),
            file,
            events: Vec::new(),
        };
        let is_complete = check.run().await?;
        if !check.events.is_empty() {
            tracker.store.log_findings(item.fid, check.events).await?;
        }
        if is_complete {
            tracker.store.finish(Self::QUEUE, item.fid).await?;
        } else {
            tracker
                .store
                .reschedule(Self::QUEUE, item.fid, STALLED_SECONDS, item.failcount + 1)
                .await?;
        }
        Ok(is_complete)
    }
}

struct Check {
    tracker: Arc<Tracker>,
    file: File,
    class: Class,
    events: Vec<(Event, Option<DevId>)>,
}

impl Check {
    /// Checks and repairs; false when a node was silent and the file must be looked at again.
    async fn run(&mut self) -> Result<bool> {
        let recorded = self.tracker.store.devices_of(self.file.fid).await?;
        let snapshot = self.tracker.snapshot();
        if snapshot.is_set("fsck_opt_policy_only") && !recorded.is_empty() {
            self.judge_policy(&recorded).await?;
            self.check_count(&recorded).await?;
            return Ok(true);
        }
        let inspection = self.probe(&recorded).await;
        if inspection.stalled {
            self.complain(&recorded);
            return Ok(false);
        }
        if recorded.is_empty() {
            self.events.push((Event::NoPath, None));
        }
        let mut good = inspection.good;
        let mut bad = inspection.bad;
        self.events.extend(inspection.events);
        if good.is_empty() {
            match self.search().await {
                Some(found) => good = found,
                None => return Ok(false),
            }
        }
        if !good.is_empty() {
            bad.extend(self.check_digests(&good).await?);
            good.retain(|device| !bad.contains(device));
        }
        if !bad.is_empty() {
            self.tracker
                .store
                .remove_replicas(self.file.fid, bad)
                .await?;
        }
        if good.is_empty() {
            self.events.push((Event::Gone, None));
            return Ok(true);
        }
        self.check_count(&good).await?;
        self.judge_policy(&good).await?;
        Ok(true)
    }

    async fn probe(&self, devices: &[DevId]) -> Inspection {
        let snapshot = self.tracker.snapshot();
        let mut probes = Vec::new();
        let mut asked = JoinSet::new();
        for &device in devices {
            if !snapshot.cluster.counts(device) {
                probes.push((device, Probe::Lost));
            } else if !snapshot.cluster.can_read(device) {
                probes.push((device, Probe::Unreachable));
            } else if let Some(url) = self.tracker.read_url(device, self.file.fid) {
                let nodes = self.tracker.nodes.clone();
                asked.spawn(async move {
                    let probe = match nodes.head(&url).await {
                        Ok(Some(length)) => Probe::Length(length),
                        Ok(None) => Probe::Missing,
                        Err(_) => Probe::Unreachable,
                    };
                    (device, probe)
                });
            }
        }
        while let Some(answer) = asked.join_next().await {
            probes.extend(answer.ok());
        }
        probes.sort_by_key(|(device, _)| *device);
        inspect(self.file.length, &probes)
    }

    /// COMPAT(mogilefsd): scripts wait for this line of the watched log.
    fn complain(&self, devices: &[DevId]) {
        let snapshot = self.tracker.snapshot();
        for &device in devices
            .iter()
            .filter(|&&device| !snapshot.cluster.is_readable(device))
        {
            let ip = snapshot
                .cluster
                .device(device)
                .map_or("", |(_, host)| &host.ip);
            self.tracker.console.say(format!(
                "[fsck({})] Connectivity problem reaching device {device} on host {ip}",
                std::process::id()
            ));
        }
    }

    /// Looks for the file on every device that can be read; `None` when one of them was silent, because "gone" must not be said too early.
    async fn search(&mut self) -> Option<Vec<DevId>> {
        self.events.push((Event::Search, None));
        let snapshot = self.tracker.snapshot();
        let devices: Vec<DevId> = snapshot
            .cluster
            .devices
            .keys()
            .copied()
            .filter(|&device| snapshot.cluster.can_read(device))
            .collect();
        let inspection = self.probe(&devices).await;
        if inspection.good.is_empty() && inspection.stalled {
            return None;
        }
        for &device in &inspection.good {
            self.events.push((Event::Found, Some(device)));
            if let Err(error) = self.tracker.store.add_replica(self.file.fid, device).await {
                tracing::warn!(fid = %self.file.fid, devid = %device, %error, "found replica not recorded");
                return None;
            }
        }
        Some(inspection.good)
    }

    /// Compares digests; the replicas to forget.
    async fn check_digests(&mut self, good: &[DevId]) -> Result<Vec<DevId>> {
        let snapshot = self.tracker.snapshot();
        let stored = self.tracker.store.checksum(self.file.fid).await?;
        let algorithm = match snapshot.setting("fsck_checksum") {
            Some("off") => None,
            Some(name) => HashAlgorithm::from_name(name.as_bytes()),
            None => self.class.hash,
        };
        let Some(algorithm) = algorithm else {
            return Ok(Vec::new());
        };
        let mut found: Vec<(DevId, Checksum)> = Vec::new();
        for &device in good {
            match digest_of(
                &self.tracker,
                device,
                self.file.fid,
                algorithm,
                self.file.length,
                true,
            )
            .await
            {
                Ok(Some(sum)) => found.push((device, sum)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(fid = %self.file.fid, devid = %device, error, "no digest")
                }
            }
        }
        let repair = judge_checksums(stored.as_ref(), self.class.hash == Some(algorithm), &found);
        self.events.extend(repair.events);
        if let Some(sum) = repair.store {
            self.tracker.store.set_checksum(self.file.fid, &sum).await?;
        }
        Ok(repair.drop)
    }

    async fn check_count(&mut self, devices: &[DevId]) -> Result<()> {
        let skip = self.tracker.snapshot().is_set("skip_devcount");
        if !skip && u32::try_from(devices.len()).is_ok_and(|count| count != self.file.devcount) {
            self.events.push((Event::BadCount, None));
            self.tracker.store.recount(self.file.fid).await?;
        }
        Ok(())
    }

    async fn judge_policy(&mut self, devices: &[DevId]) -> Result<()> {
        let snapshot = self.tracker.snapshot();
        let on: BTreeSet<DevId> = devices
            .iter()
            .copied()
            .filter(|&device| snapshot.cluster.counts(device))
            .collect();
        let situation = Situation {
            cluster: &snapshot.cluster,
            on: &on,
            failed: &BTreeSet::new(),
            mindevcount: self.class.mindevcount,
        };
        if self
            .class
            .policy
            .decide(&situation, &mut self.tracker.rng())
            == ibex_mogilefs_core::Verdict::Happy
        {
            return Ok(());
        }
        self.events.push((Event::PolicyViolation, None));
        self.events.push((Event::Replicate, None));
        self.tracker
            .store
            .queue_replication(vec![self.file.fid])
            .await?;
        self.tracker.wake(JobKind::Replicate);
        Ok(())
    }
}
