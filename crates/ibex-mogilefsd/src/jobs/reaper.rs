//! Files of dead devices: queued for replication first, then their locations are forgotten.

use crate::tracker::Tracker;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_core::DeviceState;
use ibex_mogilefs_proto::DevId;
use ibex_mogilefs_proto::console::JobKind;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files per batch when the setting `queue_rate_for_reaper` does not say.
const BATCH: u64 = 1000;
/// Pause between batches of one device.
const BATCH_PAUSE: Duration = Duration::from_secs(5);
/// First pause after a device was found empty; doubles.
const EMPTY_PAUSE_MIN: Duration = Duration::from_secs(60);
/// After so long a pause an empty device is done.
const EMPTY_PAUSE_MAX: Duration = Duration::from_secs(7200);
/// How often the list of devices is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A dead device being emptied.
#[derive(Debug)]
struct Reaping {
    next: Instant,
    pause: Duration,
}

/// The worker.
pub(super) struct Reaper {
    tracker: Arc<Tracker>,
    devices: BTreeMap<DevId, Reaping>,
    done: u64,
}

impl Reaper {
    pub(super) fn new(tracker: Arc<Tracker>) -> Self {
        Self {
            tracker,
            devices: BTreeMap::new(),
            done: 0,
        }
    }

    /// One batch of a device.
    async fn batch(&mut self, device: DevId) -> crate::store::Result<()> {
        let snapshot = self.tracker.snapshot();
        let setting = |name: &str| {
            snapshot
                .setting(name)
                .and_then(|text| text.parse::<u64>().ok())
        };
        if let Some(limit) = setting("queue_size_for_reaper")
            && self.tracker.store.postponed().await? >= limit
        {
            self.schedule(device, BATCH_PAUSE);
            return Ok(());
        }
        let limit = setting("queue_rate_for_reaper").unwrap_or(BATCH).max(1);
        let fids = self.tracker.store.files_on(device, 0, limit).await?;
        let count = fids.len() as u64;
        if fids.is_empty() {
            let pause = self
                .devices
                .get(&device)
                .map_or(EMPTY_PAUSE_MIN, |reaping| reaping.pause);
            self.schedule(device, pause);
            if let Some(reaping) = self.devices.get_mut(&device) {
                reaping.pause = (pause * 2).min(EMPTY_PAUSE_MAX);
            }
            return Ok(());
        }
        self.tracker.store.reap(device, fids).await?;
        self.done += count;
        tracing::info!(devid = %device, files = count, "files of dead device queued for replication");
        self.tracker.wake(JobKind::Replicate);
        self.tracker.wake(JobKind::Delete);
        if let Some(reaping) = self.devices.get_mut(&device) {
            reaping.pause = EMPTY_PAUSE_MIN;
        }
        // A full batch has more behind it; the pause keeps the other queues alive meanwhile.
        self.schedule(device, if count == limit { BATCH_PAUSE } else { LOOK });
        Ok(())
    }

    fn schedule(&mut self, device: DevId, pause: Duration) {
        if let Some(reaping) = self.devices.get_mut(&device) {
            reaping.next = Instant::now() + pause;
        }
    }
}

impl Worker for Reaper {
    fn name(&self) -> String {
        "reaper".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.done,
            total: None,
            note: format!("{} dead devices watched", self.devices.len()),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        if self.tracker.want(JobKind::Reaper) == 0 {
            return Ok(Step::Idle { wait: LOOK });
        }
        let snapshot = self.tracker.snapshot();
        let is_dead = |device: &DevId| {
            snapshot
                .cluster
                .devices
                .get(device)
                .is_some_and(|device| device.state == DeviceState::Dead)
        };
        // A device that is no longer dead keeps what it has.
        self.devices.retain(|device, _| is_dead(device));
        let delay = self.tracker.config().reaper_delay.std();
        for device in snapshot
            .cluster
            .devices
            .keys()
            .filter(|device| is_dead(device))
        {
            self.devices.entry(*device).or_insert_with(|| Reaping {
                next: Instant::now() + delay,
                pause: EMPTY_PAUSE_MIN,
            });
        }
        let now = Instant::now();
        let due: Vec<DevId> = self
            .devices
            .iter()
            .filter(|(_, reaping)| reaping.next <= now)
            .map(|(device, _)| *device)
            .collect();
        for device in due {
            self.batch(device).await?;
        }
        Ok(Step::Idle {
            wait: LOOK.min(delay.max(Duration::from_millis(100))),
        })
    }
}
