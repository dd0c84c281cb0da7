//! Feeding the fsck and rebalance queues at a bounded rate, on the tracker whose name is in the settings.

use crate::store::queues::{Queue, QueueType};
use crate::store::{Result, join_devids};
use crate::tracker::Tracker;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_core::DeviceState;
use ibex_mogilefs_core::rebalance::{Limit, Plan, Progress};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{DevId, Fid};
use std::sync::Arc;
use std::time::Duration;

/// Pause between two feedings.
const PAUSE: Duration = Duration::from_secs(1);
/// Defaults of the settings named `queue_*`.
const FSCK_RATE: u64 = 1000;
const FSCK_SIZE: u64 = 20_000;
const REBALANCE_RATE: u64 = 500;
const REBALANCE_SIZE: u64 = 10_000;

/// The worker.
pub(super) struct Feeder {
    tracker: Arc<Tracker>,
    fed: u64,
}

impl Feeder {
    pub(super) fn new(tracker: Arc<Tracker>) -> Self {
        Self { tracker, fed: 0 }
    }

    fn limit(&self, setting: &str, default: u64) -> u64 {
        let snapshot = self.tracker.snapshot();
        snapshot
            .setting(setting)
            .and_then(|text| text.parse().ok())
            .filter(|&limit| limit > 0)
            .unwrap_or(default)
    }

    fn is_ours(&self, setting: &str) -> bool {
        self.tracker.snapshot().setting(setting) == Some(self.tracker.kit.node())
    }

    async fn number(&self, setting: &str) -> Result<u64> {
        Ok(self
            .tracker
            .store
            .setting(setting)
            .await?
            .and_then(|text| text.parse().ok())
            .unwrap_or(0))
    }

    async fn feed_fsck(&mut self) -> Result<()> {
        let store = &self.tracker.store;
        let (waiting, _) = store.queue_depth(Queue::Other(QueueType::Fsck)).await?;
        let position = self.number("fsck_highest_fid_checked").await?;
        let end = self.number("fsck_fid_at_end").await?;
        if position >= end {
            if waiting == 0 {
                let now = store.now().await?.to_string();
                store.set_setting("fsck_host", None).await?;
                store.set_setting("fsck_stop_time", Some(&now)).await?;
                self.tracker.reload().await?;
                tracing::info!("fsck complete");
            }
            return Ok(());
        }
        if waiting >= self.limit("queue_size_for_fsck", FSCK_SIZE) {
            return Ok(());
        }
        let files = store
            .list_files(position, self.limit("queue_rate_for_fsck", FSCK_RATE))
            .await?;
        let items: Vec<_> = files
            .iter()
            .filter(|file| file.fid.0 <= end)
            .map(|file| (file.fid, None, String::new()))
            .collect();
        let reached = items.last().map_or(end, |(fid, _, _)| fid.0);
        self.fed += items.len() as u64;
        if !items.is_empty() {
            store.enqueue(QueueType::Fsck, items).await?;
        }
        store
            .set_setting("fsck_highest_fid_checked", Some(&reached.to_string()))
            .await?;
        self.tracker.wake(JobKind::Fsck);
        Ok(())
    }

    async fn feed_rebalance(&mut self) -> Result<()> {
        let store = self.tracker.store.clone();
        let policy = store.setting("rebal_policy").await?.unwrap_or_default();
        let Ok(plan) = Plan::parse(&policy) else {
            return self.end_rebalance("time_stopped").await;
        };
        if store.setting("rebal_signal").await?.as_deref() == Some("stop") {
            return self.end_rebalance("time_stopped").await;
        }
        let mut progress =
            Progress::parse(&store.setting("rebal_state").await?.unwrap_or_default());
        let (waiting, _) = store
            .queue_depth(Queue::Other(QueueType::Rebalance))
            .await?;
        let Some(source) = self.current_source(&mut progress).await? else {
            return if waiting == 0 {
                self.end_rebalance("time_finished").await
            } else {
                Ok(())
            };
        };
        if waiting >= self.limit("queue_size_for_rebal", REBALANCE_SIZE) {
            return Ok(());
        }
        let items = self.batch(&plan, &progress, source).await?;
        progress.set_number("time_latest_run", store.now().await?);
        if let Some((last, _, _)) = items.last() {
            progress.set_number("sdev_lastfid", last.0);
            let count = items.len() as u64;
            progress.set_number("fids_queued", progress.number("fids_queued") + count);
            progress.set_number("sdev_queued", progress.number("sdev_queued") + count);
            self.fed += count;
            store.enqueue(QueueType::Rebalance, items).await?;
            self.tracker.wake(JobKind::Replicate);
        } else if waiting == 0 {
            self.complete_source(&plan, &mut progress, source).await?;
        }
        store
            .set_setting("rebal_state", Some(&progress.encode()))
            .await
    }

    /// The source being emptied, the next one if there is none; it is put into the state `drain` so that nothing new arrives.
    async fn current_source(&self, progress: &mut Progress) -> Result<Option<DevId>> {
        if let Some(&current) = progress.devices("sdev_current").first() {
            return Ok(Some(current));
        }
        let mut sources = progress.devices("source_devs");
        if sources.is_empty() {
            return Ok(None);
        }
        let source = sources.remove(0);
        progress.set_devices("source_devs", &sources);
        progress.set_devices("sdev_current", &[source]);
        progress.set_number("sdev_lastfid", 0);
        progress.set_number("sdev_queued", 0);
        self.tracker
            .store
            .set_setting("rebal_state", Some(&progress.encode()))
            .await?;
        self.tracker
            .store
            .set_device_state(source, DeviceState::Drain)
            .await?;
        self.tracker.reload().await?;
        tracing::info!(devid = %source, "rebalance drains device");
        Ok(Some(source))
    }

    async fn batch(
        &self,
        plan: &Plan,
        progress: &Progress,
        source: DevId,
    ) -> Result<Vec<(Fid, Option<DevId>, String)>> {
        let rate = self.limit("queue_rate_for_rebal", REBALANCE_RATE);
        let room = match plan.limit {
            Limit::None | Limit::Bytes(_) => rate,
            Limit::Count(limit) => rate.min(limit.saturating_sub(progress.number("sdev_queued"))),
        };
        if room == 0 {
            return Ok(Vec::new());
        }
        let mut destinations = plan.destinations(&self.tracker.snapshot().cluster);
        destinations.retain(|&device| device != source);
        self.tracker.rng().shuffle(&mut destinations);
        destinations.truncate(plan.destinations_max.unwrap_or(usize::MAX));
        let arg = join_devids(&destinations);
        let fids = self
            .tracker
            .store
            .files_on(source, progress.number("sdev_lastfid"), room)
            .await?;
        Ok(fids
            .into_iter()
            .map(|fid| (fid, Some(source), arg.clone()))
            .collect())
    }

    async fn complete_source(
        &self,
        plan: &Plan,
        progress: &mut Progress,
        source: DevId,
    ) -> Result<()> {
        let mut completed = progress.devices("completed_devs");
        completed.push(source);
        progress.set_devices("completed_devs", &completed);
        progress.set_devices("sdev_current", &[]);
        if !plan.leave_in_drain_mode {
            self.tracker
                .store
                .set_device_state(source, DeviceState::Alive)
                .await?;
            self.tracker.reload().await?;
        }
        tracing::info!(devid = %source, "rebalance is through with device");
        Ok(())
    }

    async fn end_rebalance(&self, mark: &str) -> Result<()> {
        let store = &self.tracker.store;
        let mut progress =
            Progress::parse(&store.setting("rebal_state").await?.unwrap_or_default());
        progress.set_number(mark, store.now().await?);
        store
            .set_setting("rebal_state", Some(&progress.encode()))
            .await?;
        store.set_setting("rebal_host", None).await?;
        store.set_setting("rebal_signal", None).await?;
        self.tracker.reload().await?;
        tracing::info!(mark, "rebalance ended");
        Ok(())
    }
}

impl Worker for Feeder {
    fn name(&self) -> String {
        "job_master".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.fed,
            total: None,
            note: "files queued for fsck and rebalance".to_owned(),
        }
    }

    async fn step(&mut self) -> std::result::Result<Step, anyhow::Error> {
        if self.tracker.want(JobKind::JobMaster) > 0 {
            if self.is_ours("fsck_host") {
                self.feed_fsck().await?;
            }
            if self.is_ours("rebal_host") {
                self.feed_rebalance().await?;
            }
        }
        Ok(Step::Idle { wait: PAUSE })
    }
}
