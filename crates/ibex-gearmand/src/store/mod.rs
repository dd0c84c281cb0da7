//! The durable background queue: jobs go into the database before their JOB_CREATED goes out, and leave it when they end.
//!
//! One task takes all requests that are there and makes one transaction of them, so a commit of one job costs what a commit of a thousand costs;
//! while it runs, the
//! next batch gathers. What was to be stored and could not be is refused (the submitter gets QUEUE_ERROR); ends and attempts, for which nobody waits,
//! are kept and tried again, so
//! that a database that comes back learns of them. `plan.rs` makes the transactions; `schema.rs` and `results.rs` have the statements; `owner.rs` sees to it
//! that one server uses the queue; `fetch.rs` reads workloads that left memory, beside the transactions.

mod fetch;
mod import;
mod owner;
mod plan;
mod results;
mod schema;

pub(crate) use import::is_table_name;
pub(crate) use owner::Claimant;
use owner::Ownership;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_core::{JobId, StoredJob, StoredResult, StoredSchedule};
use ibex_kit::{Check, Failure};
use ibex_sql::{Db, Error};
use plan::{BATCH_MAX, Plan, Refusal, apply, take_batch};
use tokio::sync::mpsc;

/// Job numbers reserved at a start. A number is never given out twice, not even after a crash, and four thousand million jobs fit into one life.
const NUMBERS: u64 = 1 << 32;
/// Pause after a transaction that failed, doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a database that is back is used again within this time.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One request of the job server.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Store a job; its submitter waits.
    Persist(StoredJob),
    /// Make a dead job live again, as if it had never been tried; somebody waits.
    Revive(JobId),
    /// Note attempts and due time.
    Attempt {
        job: JobId,
        attempts: u32,
        due_ms: u64,
    },
    /// Delete a job, alive or dead.
    Forget(JobId),
    /// Move a job to the dead.
    Bury {
        job: JobId,
        attempts: u32,
        reason: Bytes,
    },
    /// Keep the result of a job.
    KeepResult(StoredResult),
    /// Delete a result.
    ForgetResult(JobId),
    /// Store a recurring job; its submitter waits.
    KeepSchedule(StoredSchedule),
    /// The same, nobody waits.
    RestoreSchedule(StoredSchedule),
    /// Note when a recurring job is due next.
    MoveSchedule {
        function: Bytes,
        unique: Bytes,
        next_ms: u64,
    },
    /// Delete a recurring job.
    DropSchedule { function: Bytes, unique: Bytes },
}

/// What waits for the store.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Requests that are not done.
    pub(crate) requests: AtomicUsize,
    /// Bytes of workload in them.
    pub(crate) bytes: AtomicUsize,
    /// Beyond this many bytes whoever waits for the store is not read; 0 is no bound.
    pub(crate) bytes_max: AtomicUsize,
}

/// The way to the store task. Unbounded in itself: reactors stop reading connections that wait for the store long before it matters.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    sender: mpsc::UnboundedSender<Op>,
    fetches: mpsc::UnboundedSender<Vec<JobId>>,
    backlog: Arc<Backlog>,
}

impl Requests {
    /// Hands a request over, in order.
    pub(crate) fn push(&self, op: Op) {
        self.backlog.requests.fetch_add(1, Ordering::Relaxed);
        if let Op::Persist(job) = &op {
            let bytes = job.workload.len();
            self.backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        if self.sender.send(op).is_err() {
            tracing::error!("the store task is gone");
        }
    }

    /// Asks for workloads. They are read beside the transactions: who is asked for is stored.
    pub(crate) fn fetch(&self, jobs: Vec<JobId>) {
        if self.fetches.send(jobs).is_err() {
            tracing::error!("the store's reading task is gone");
        }
    }
}

/// What became of the jobs of a batch.
pub(crate) trait Outcomes: Send + Sync + 'static {
    /// These are in the store.
    fn stored(&self, jobs: Vec<JobId>);
    /// These are not.
    fn failed(&self, jobs: Vec<JobId>);
    /// The workloads of these, in the order asked for; `None` where there is none.
    fn fetched(&self, workloads: Vec<(JobId, Option<Bytes>)>);
    /// The workloads of these could not be read.
    fn fetch_failed(&self, jobs: Vec<JobId>);
    /// The queue is another server's by now: nothing of it may be handed out any more.
    fn lost(&self);
}

/// The database with the queue in it.
#[derive(Debug)]
pub(crate) struct Store {
    db: Db,
    ownership: Ownership,
    requests: mpsc::UnboundedReceiver<Op>,
    asked: mpsc::UnboundedReceiver<Vec<JobId>>,
    /// The senders' ends.
    way: Requests,
}

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// With the size of the workload where that stayed in the store.
    pub(crate) jobs: Vec<(StoredJob, Option<u32>)>,
    /// With the size of the workload, which stayed there unless it is the key, and the reason of death.
    pub(crate) dead: Vec<(StoredJob, u32, Bytes)>,
    pub(crate) results: Vec<StoredResult>,
    pub(crate) schedules: Vec<StoredSchedule>,
    /// Rows that made no sense; they were moved aside.
    pub(crate) quarantined: usize,
    /// Number of the first new job.
    pub(crate) first_job: u64,
}

impl Store {
    /// Opens the database, brings its schema up to date, reads what is left, of workloads about `resident_max` bytes, and reserves numbers.
    pub(crate) async fn open(
        url: &str,
        claimant: &Claimant,
        import_table: Option<&str>,
        resident_max: u64,
        backlog: Arc<Backlog>,
    ) -> Result<(Self, Left), Failure> {
        let failure = |error: &Error| {
            if error.is_retryable() {
                Failure::temporary(format!("job store: {error}"))
            } else {
                Failure::io(format!("job store: {error}"))
            }
        };
        let config = ibex_sql::Config::new(url)
            .map_err(|error| Failure::config(format!("store.url: {error}")))?;
        let db = Db::open(&config).await.map_err(|error| failure(&error))?;
        db.migrate("gearmand", schema::MIGRATIONS)
            .await
            .map_err(|error| failure(&error))?;
        let ownership = Ownership::take(&db, claimant).await?;
        if let Some(table) = import_table {
            let (jobs, aside) = import::import(&db, table)
                .await
                .map_err(|error| failure(&error))?;
            if jobs > 0 {
                tracing::info!(
                    table,
                    jobs,
                    aside,
                    "jobs of the original's queue taken over"
                );
            }
        }
        let left = schema::load(&db, NUMBERS, resident_max)
            .await
            .map_err(|error| failure(&error))?;
        let (sender, requests) = mpsc::unbounded_channel();
        let (fetches, asked) = mpsc::unbounded_channel();
        let store = Self {
            db,
            ownership,
            requests,
            asked,
            way: Requests {
                sender,
                fetches,
                backlog,
            },
        };
        Ok((store, left))
    }

    /// The way to the task.
    pub(crate) fn requests(&self) -> Requests {
        self.way.clone()
    }

    /// Serves until the last [`Requests`] is gone and everything is written.
    pub(crate) async fn run(self, outcomes: impl Outcomes, check: Check) {
        let Self {
            db,
            ownership,
            mut requests,
            asked,
            way,
        } = self;
        let backlog = Arc::clone(&way.backlog);
        drop(way);
        let outcomes = Arc::new(outcomes);
        let reading = tokio::spawn(fetch::serve(db.clone(), asked, Arc::clone(&outcomes)));
        let mut waiting: VecDeque<Op> = VecDeque::new();
        let mut pause = PAUSE_MIN;
        let mut batch = Vec::new();
        loop {
            if waiting.is_empty() {
                batch.clear();
                let next = requests.recv_many(&mut batch, BATCH_MAX);
                let count = match ownership.beat() {
                    // Nothing to write is written as a beat alone.
                    Some(beat) => tokio::time::timeout(beat, next).await,
                    None => Ok(next.await),
                };
                if count == Ok(0) {
                    break;
                }
                waiting.extend(batch.drain(..));
            }
            let ops = take_batch(&mut waiting);
            let count = ops.len();
            let mut plan = Plan::new(ops);
            plan.owner = ownership.name().map(<[u8]>::to_vec);
            let plan = Arc::new(plan);
            let outcome = db.write(|tx| Box::pin(apply(Arc::clone(&plan), tx))).await;
            backlog.bytes.fetch_sub(plan.bytes, Ordering::Relaxed);
            match outcome {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    backlog.requests.fetch_sub(count, Ordering::Relaxed);
                    check.ok();
                    outcomes.stored(plan.awaited.clone());
                }
                Err(Refusal::Lost) => {
                    check.failed("the queue belongs to another server");
                    outcomes.failed(plan.awaited.clone());
                    outcomes.lost();
                    reading.abort();
                    return;
                }
                Err(Refusal::Sql(error)) => {
                    check.failed(error.to_string());
                    tracing::warn!(error = %error, jobs = plan.awaited.len(), "jobs could not be stored");
                    let kept = plan.kept_after_failure();
                    let done = count.saturating_sub(kept.len());
                    backlog.requests.fetch_sub(done, Ordering::Relaxed);
                    let more = kept.len().saturating_sub(count);
                    backlog.requests.fetch_add(more, Ordering::Relaxed);
                    for op in kept.into_iter().rev() {
                        waiting.push_front(op);
                    }
                    outcomes.failed(plan.awaited.clone());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    if requests.is_closed() && requests.is_empty() {
                        tracing::error!(
                            requests = waiting.len(),
                            "the store did not take the last ends; these jobs will run again"
                        );
                        break;
                    }
                    // What was submitted meanwhile is refused or stored with the next try.
                    while let Ok(op) = requests.try_recv() {
                        waiting.push_back(op);
                    }
                }
            }
        }
        // It has ended when nobody can ask any more, which is how this task came here; a question it is at is not worth waiting for.
        reading.abort();
        if let Err(error) = ownership.release(&db).await {
            tracing::warn!(error = %error, "the queue is not given back; the next server waits for the lease to end");
        }
        if let Err(error) = db.close().await {
            tracing::error!(error = %error, "close job store");
        }
    }
}

#[cfg(test)]
mod tests;
