//! The durable background queue: jobs go into the database before their JOB_CREATED goes out, and leave it when they end.
//!
//! One task takes all requests that are there and makes one transaction of them, so a commit of one job costs what a commit of a thousand costs;
//! while it runs, the
//! next batch gathers. What was to be stored and could not be is refused (the submitter gets QUEUE_ERROR); ends and attempts, for which nobody waits,
//! are kept and tried again, so
//! that a database that comes back learns of them. `schema.rs` has the statements, `owner.rs` sees to it that one server uses the queue; nothing else
//! here is SQL.

mod import;
mod owner;
mod schema;

pub(crate) use import::is_table_name;
pub(crate) use owner::Claimant;
use owner::Ownership;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_core::{JobId, StoredJob, StoredSchedule};
use ibex_kit::{Check, Failure};
use ibex_sql::{Db, Error, Tx};
use tokio::sync::mpsc;

/// Requests of one transaction. A thousand small rows are a millisecond of SQLite; beyond, the first submitter waits for the last for nothing.
const BATCH_MAX: usize = 4096;
/// Bytes of workload in one transaction.
const BATCH_BYTES_MAX: usize = 64 << 20;
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
    /// Make a dead job live again; somebody waits.
    Revive(StoredJob),
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

/// The way to the store task. Unbounded in itself: reactors stop reading connections that wait for the store long before it matters.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    sender: mpsc::UnboundedSender<Op>,
    backlog: Arc<AtomicUsize>,
}

impl Requests {
    /// Hands a request over, in order.
    pub(crate) fn push(&self, op: Op) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        if self.sender.send(op).is_err() {
            tracing::error!("the store task is gone");
        }
    }
}

/// What became of the jobs of a batch.
pub(crate) trait Outcomes: Send + Sync + 'static {
    /// These are in the store.
    fn stored(&self, jobs: Vec<JobId>);
    /// These are not.
    fn failed(&self, jobs: Vec<JobId>);
    /// The queue is another server's by now: nothing of it may be handed out any more.
    fn lost(&self);
}

/// The database with the queue in it.
#[derive(Debug)]
pub(crate) struct Store {
    db: Db,
    ownership: Ownership,
    requests: mpsc::UnboundedReceiver<Op>,
    sender: mpsc::UnboundedSender<Op>,
    backlog: Arc<AtomicUsize>,
}

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) jobs: Vec<StoredJob>,
    pub(crate) dead: Vec<(StoredJob, Bytes)>,
    pub(crate) schedules: Vec<StoredSchedule>,
    /// Rows that made no sense; they were moved aside.
    pub(crate) quarantined: usize,
    /// Number of the first new job.
    pub(crate) first_job: u64,
}

impl Store {
    /// Opens the database, brings its schema up to date, reads what is left and reserves numbers.
    pub(crate) async fn open(
        url: &str,
        claimant: &Claimant,
        import_table: Option<&str>,
        backlog: Arc<AtomicUsize>,
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
        let left = schema::load(&db, NUMBERS)
            .await
            .map_err(|error| failure(&error))?;
        let (sender, requests) = mpsc::unbounded_channel();
        let store = Self {
            db,
            ownership,
            requests,
            sender,
            backlog,
        };
        Ok((store, left))
    }

    /// The way to the task.
    pub(crate) fn requests(&self) -> Requests {
        Requests {
            sender: self.sender.clone(),
            backlog: Arc::clone(&self.backlog),
        }
    }

    /// Serves until the last [`Requests`] is gone and everything is written.
    pub(crate) async fn run(self, outcomes: impl Outcomes, check: Check) {
        let Self {
            db,
            ownership,
            mut requests,
            sender,
            backlog,
        } = self;
        drop(sender);
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
            match outcome {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    backlog.fetch_sub(count, Ordering::Relaxed);
                    check.ok();
                    outcomes.stored(plan.awaited.clone());
                }
                Err(Refusal::Lost) => {
                    check.failed("the queue belongs to another server");
                    outcomes.failed(plan.awaited.clone());
                    outcomes.lost();
                    return;
                }
                Err(Refusal::Sql(error)) => {
                    check.failed(error.to_string());
                    tracing::warn!(error = %error, jobs = plan.awaited.len(), "jobs could not be stored");
                    let kept = plan.kept_after_failure();
                    backlog.fetch_sub(count - kept.len(), Ordering::Relaxed);
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
        if let Err(error) = ownership.release(&db).await {
            tracing::warn!(error = %error, "the queue is not given back; the next server waits for the lease to end");
        }
        if let Err(error) = db.close().await {
            tracing::error!(error = %error, "close job store");
        }
    }
}

/// The front of the queue, as much as one transaction takes. A job that is buried and revived needs two.
fn take_batch(waiting: &mut VecDeque<Op>) -> Vec<Op> {
    let mut ops = Vec::new();
    let (mut bytes, mut buried) = (0, BTreeSet::new());
    while let Some(op) = waiting.front() {
        match op {
            Op::Persist(job) => bytes += job.workload.len(),
            Op::Revive(job) if buried.contains(&job.id) => break,
            Op::Revive(job) => bytes += job.workload.len(),
            Op::Bury { job, .. } => {
                buried.insert(*job);
            }
            Op::KeepSchedule(schedule) | Op::RestoreSchedule(schedule) => {
                bytes += schedule.workload.len();
            }
            Op::Attempt { .. }
            | Op::Forget(_)
            | Op::MoveSchedule { .. }
            | Op::DropSchedule { .. } => {}
        }
        if ops.len() == BATCH_MAX || bytes > BATCH_BYTES_MAX && !ops.is_empty() {
            break;
        }
        ops.extend(waiting.pop_front());
    }
    ops
}

/// A batch, sorted by statement. Valid because the job server asks in the order of a job's life and [`take_batch`] cuts the one exception apart.
#[derive(Debug, Default)]
struct Plan {
    inserts: Vec<StoredJob>,
    revivals: Vec<StoredJob>,
    attempts: BTreeMap<JobId, (u32, u64)>,
    burials: Vec<(JobId, u32, Bytes)>,
    forgotten: Vec<JobId>,
    /// What was asked of recurring jobs, in order.
    schedules: Vec<Op>,
    /// Jobs somebody waits for.
    awaited: Vec<JobId>,
    /// Whose queue it must be.
    owner: Option<Vec<u8>>,
}

/// Why a batch was not written.
#[derive(Debug)]
enum Refusal {
    /// The queue is another server's.
    Lost,
    Sql(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl Plan {
    fn new(ops: Vec<Op>) -> Self {
        let mut plan = Self::default();
        let forgotten: BTreeSet<JobId> = ops
            .iter()
            .filter_map(|op| {
                if let Op::Forget(job) = op {
                    Some(*job)
                } else {
                    None
                }
            })
            .collect();
        let mut skipped = BTreeSet::new();
        for op in ops {
            match op {
                Op::Persist(job) => {
                    plan.awaited.push(job.id);
                    if forgotten.contains(&job.id) {
                        // Born and gone within one batch: no row at all.
                        skipped.insert(job.id);
                    } else {
                        plan.inserts.push(job);
                    }
                }
                Op::Revive(job) => {
                    plan.awaited.push(job.id);
                    plan.revivals.push(job);
                }
                Op::Attempt {
                    job,
                    attempts,
                    due_ms,
                } => {
                    plan.attempts.insert(job, (attempts, due_ms));
                }
                Op::Bury {
                    job,
                    attempts,
                    reason,
                } => plan.burials.push((job, attempts, reason)),
                op @ (Op::KeepSchedule(_)
                | Op::RestoreSchedule(_)
                | Op::MoveSchedule { .. }
                | Op::DropSchedule { .. }) => {
                    if let Op::KeepSchedule(schedule) = &op {
                        plan.awaited.push(schedule.id);
                    }
                    plan.schedules.push(op);
                }
                Op::Forget(job) => {
                    if !skipped.contains(&job) {
                        plan.forgotten.push(job);
                    }
                }
            }
        }
        plan.attempts.retain(|job, _| !forgotten.contains(job));
        plan
    }

    /// What must still be done when nothing of the batch was.
    fn kept_after_failure(&self) -> Vec<Op> {
        let attempts = self
            .attempts
            .iter()
            .map(|(job, (attempts, due_ms))| Op::Attempt {
                job: *job,
                attempts: *attempts,
                due_ms: *due_ms,
            });
        let burials = self.burials.iter().map(|(job, attempts, reason)| Op::Bury {
            job: *job,
            attempts: *attempts,
            reason: reason.clone(),
        });
        // A commit whose outcome is unknown may have stored what is refused now: it is deleted to be sure.
        let refused = self.inserts.iter().map(|job| Op::Forget(job.id));
        let forgotten = self.forgotten.iter().map(|job| Op::Forget(*job));
        // Refused recurring jobs are put right by the job server, behind these.
        let schedules = self
            .schedules
            .iter()
            .filter(|op| !matches!(op, Op::KeepSchedule(_)))
            .cloned();
        attempts
            .chain(schedules)
            .chain(burials)
            .chain(refused)
            .chain(forgotten)
            .collect()
    }
}

async fn apply(plan: Arc<Plan>, tx: &mut Tx) -> Result<(), Refusal> {
    if let Some(owner) = &plan.owner
        && !owner::beat(tx, owner).await?
    {
        return Err(Refusal::Lost);
    }
    schema::insert(tx, &plan.inserts).await?;
    schema::revive(tx, &plan.revivals).await?;
    schema::note_attempts(tx, &plan.attempts).await?;
    schema::bury(tx, &plan.burials).await?;
    schema::schedule(tx, &plan.schedules).await?;
    schema::forget(tx, &plan.forgotten).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
