//! Background jobs: what every tracker does on its own.
//!
//! This file owns [`Pool`], the loop of the jobs that claim rows from a queue: keep as many pieces of work going as wanted, renew their claims while
//! they last, and let the bell of new
//! work be heard at once. The other files own one job each.

mod delete;
mod feeders;
mod fsck;
mod monitor;
mod reaper;
mod rebalance;
mod replicate;
mod tempfiles;

use crate::store::queues::Queue;
use crate::tracker::Tracker;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_proto::Fid;
use ibex_mogilefs_proto::console::JobKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a busy pool waits for a piece of work to end before it looks for more.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often an idle pool looks into its queue without being rung: other trackers fill it, too.
const POLL: Duration = Duration::from_millis(1000);

/// Starts all jobs.
pub(crate) fn start(tracker: &Arc<Tracker>) {
    let kit = &tracker.kit;
    let shared = || Arc::clone(tracker);
    tracker.add_bell(
        JobKind::Monitor,
        kit.worker(monitor::Monitor::new(shared())),
    );
    tracker.add_bell(
        JobKind::Replicate,
        kit.worker(Pool::new(shared(), replicate::Replicate)),
    );
    tracker.add_bell(
        JobKind::Replicate,
        kit.worker(Pool::new(shared(), rebalance::Rebalance)),
    );
    tracker.add_bell(
        JobKind::Delete,
        kit.worker(Pool::new(shared(), delete::Delete)),
    );
    tracker.add_bell(
        JobKind::Delete,
        kit.worker(tempfiles::TempFiles::new(shared())),
    );
    tracker.add_bell(JobKind::Fsck, kit.worker(Pool::new(shared(), fsck::Fsck)));
    tracker.add_bell(JobKind::Reaper, kit.worker(reaper::Reaper::new(shared())));
    let feeder = kit.worker(feeders::Feeder::new(shared()));
    tracker.add_bell(JobKind::JobMaster, feeder.clone());
    tracker.add_bell(JobKind::Fsck, feeder);
}

/// A job whose work comes from a queue.
pub(crate) trait Job: Send + Sync + 'static {
    /// A claimed piece of work.
    type Item: Send + 'static;

    /// Which `!want` governs it.
    const KIND: JobKind;
    /// Its name in pages and metrics.
    const NAME: &'static str;
    /// Its queue.
    const QUEUE: Queue;
    /// A file another job works on is tried again after this many seconds.
    const HELD_SECONDS: u64;

    /// Claims up to `limit` pieces for `lease` seconds.
    fn claim(
        tracker: &Tracker,
        limit: u64,
        lease: u64,
    ) -> impl Future<Output = crate::store::Result<Vec<Self::Item>>> + Send;

    /// The file a piece is about.
    fn fid(item: &Self::Item) -> Fid;

    /// How often the piece has failed before.
    fn failcount(item: &Self::Item) -> u32;

    /// Does one piece, on a file that no other job of this tracker works on meanwhile, and settles its row: finished, rescheduled or parked. Whether it was
    /// done.
    fn work(
        tracker: Arc<Tracker>,
        item: Self::Item,
    ) -> impl Future<Output = crate::store::Result<bool>> + Send;
}

/// Runs a job's pieces side by side.
pub(crate) struct Pool<J> {
    tracker: Arc<Tracker>,
    running: JoinSet<()>,
    started: u64,
    job: std::marker::PhantomData<J>,
}

impl<J: Job> Pool<J> {
    fn new(tracker: Arc<Tracker>, _job: J) -> Self {
        Self {
            tracker,
            running: JoinSet::new(),
            started: 0,
            job: std::marker::PhantomData,
        }
    }

    async fn top_up(&mut self) -> crate::store::Result<()> {
        let free = self
            .tracker
            .want(J::KIND)
            .saturating_sub(self.running.len());
        if free == 0 {
            return Ok(());
        }
        let lease = self.tracker.config().claim_lease.std().as_secs().max(1);
        for item in J::claim(&self.tracker, free as u64, lease).await? {
            self.started += 1;
            self.tracker.claimed(J::QUEUE, J::fid(&item));
            self.running
                .spawn(one::<J>(Arc::clone(&self.tracker), item, lease));
        }
        Ok(())
    }
}

/// One piece of work under a claim that is renewed while it lasts.
async fn one<J: Job>(tracker: Arc<Tracker>, item: J::Item, lease: u64) {
    let fid = J::fid(&item);
    let renewal = Duration::from_secs((lease / 2).max(1));
    let mut working = Box::pin(alone::<J>(Arc::clone(&tracker), item));
    let outcome = loop {
        tokio::select! {
            outcome = &mut working => break outcome,
            () = tokio::time::sleep(renewal) => {
                if let Err(error) = tracker.store.renew(J::QUEUE, fid, lease).await {
                    tracing::debug!(%fid, %error, "claim not renewed");
                }
            }
        }
    };
    match outcome {
        Ok(true) => tracker.metrics.worked(J::NAME, "done"),
        Ok(false) => tracker.metrics.worked(J::NAME, "failed"),
        Err(error) => {
            tracker.metrics.worked(J::NAME, "failed");
            // The row's lease ends by itself and somebody tries again.
            tracing::warn!(job = J::NAME, %fid, %error, "work interrupted by the database");
        }
    }
    tracker.released(J::QUEUE, fid);
}

/// Does the piece unless another job works on the same file: then it comes back soon, and no failure is counted at its row.
async fn alone<J: Job>(tracker: Arc<Tracker>, item: J::Item) -> crate::store::Result<bool> {
    let fid = J::fid(&item);
    let Some(_held) = tracker.hold(fid) else {
        tracker
            .store
            .reschedule(J::QUEUE, fid, J::HELD_SECONDS, J::failcount(&item))
            .await?;
        return Ok(false);
    };
    J::work(Arc::clone(&tracker), item).await
}

impl<J: Job> Worker for Pool<J> {
    fn name(&self) -> String {
        J::NAME.to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.started.saturating_sub(self.running.len() as u64),
            total: None,
            note: format!(
                "{} running of {} wanted",
                self.running.len(),
                self.tracker.want(J::KIND)
            ),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        while self.running.try_join_next().is_some() {}
        // Before the first round nobody knows which devices are there: a copy would find no destination and wait out its retry.
        if self.tracker.want(JobKind::Monitor) > 0 && !self.tracker.has_monitored() {
            self.tracker.wait_monitor(false, POLL).await;
            return Ok(Step::Busy);
        }
        self.top_up().await?;
        if self.running.is_empty() {
            return Ok(Step::Idle { wait: POLL });
        }
        tokio::select! {
            _ended = self.running.join_next() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        Ok(Step::Busy)
    }
}
