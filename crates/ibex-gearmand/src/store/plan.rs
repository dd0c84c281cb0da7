//! One transaction: requests that wait, cut into a batch, and the batch sorted by statement.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ibex_gearman_core::{JobId, StoredJob, StoredResult};
use ibex_sql::{Error, Tx};

use super::{Op, owner, results, schema};

/// Requests of one transaction. A thousand small rows are a millisecond of SQLite; beyond, the first submitter waits for the last for nothing.
pub(super) const BATCH_MAX: usize = 4096;
/// Bytes of workload in one transaction.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// The front of the queue, as much as one transaction takes. A job that is buried and revived needs two.
pub(super) fn take_batch(waiting: &mut VecDeque<Op>) -> Vec<Op> {
    let mut ops = Vec::new();
    let (mut bytes, mut buried) = (0, BTreeSet::new());
    while let Some(op) = waiting.front() {
        match op {
            Op::Persist(job) => bytes += job.workload.len(),
            Op::Revive(job) if buried.contains(job) => break,
            Op::KeepResult(result) => bytes += result.end.data().len(),
            Op::Bury { job, .. } => {
                buried.insert(*job);
            }
            Op::KeepSchedule(schedule) | Op::RestoreSchedule(schedule) => {
                bytes += schedule.workload.len();
            }
            Op::Revive(_)
            | Op::Attempt { .. }
            | Op::Forget(_)
            | Op::ForgetResult(_)
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
pub(super) struct Plan {
    inserts: Vec<StoredJob>,
    revivals: Vec<JobId>,
    attempts: BTreeMap<JobId, (u32, u64)>,
    burials: Vec<(JobId, u32, Bytes)>,
    forgotten: Vec<JobId>,
    results: BTreeMap<JobId, StoredResult>,
    forgotten_results: Vec<JobId>,
    /// What was asked of recurring jobs, in order.
    schedules: Vec<Op>,
    /// Jobs somebody waits for.
    pub(super) awaited: Vec<JobId>,
    /// Whose queue it must be.
    pub(super) owner: Option<Vec<u8>>,
    /// Bytes of the jobs that are new in it.
    pub(super) bytes: usize,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum Refusal {
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
    pub(super) fn new(ops: Vec<Op>) -> Self {
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
                    plan.bytes += job.workload.len();
                    if forgotten.contains(&job.id) {
                        // Born and gone within one batch: no row at all.
                        skipped.insert(job.id);
                    } else {
                        plan.inserts.push(job);
                    }
                }
                Op::Revive(job) => {
                    plan.awaited.push(job);
                    plan.revivals.push(job);
                }
                Op::KeepResult(result) => {
                    plan.results.insert(result.id, result);
                }
                Op::ForgetResult(job) => {
                    plan.results.remove(&job);
                    plan.forgotten_results.push(job);
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
    pub(super) fn kept_after_failure(&self) -> Vec<Op> {
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
        let results = self.results.values().cloned().map(Op::KeepResult);
        let forgotten_results = self.forgotten_results.iter().copied();
        attempts
            .chain(schedules)
            .chain(burials)
            .chain(refused)
            // First those to be forgotten: a result that was kept again is behind them.
            .chain(forgotten_results.map(Op::ForgetResult))
            .chain(results)
            .chain(forgotten)
            .collect()
    }
}

pub(super) async fn apply(plan: Arc<Plan>, tx: &mut Tx) -> Result<(), Refusal> {
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
    results::forget(tx, &plan.forgotten_results).await?;
    results::keep(tx, plan.results.values()).await?;
    schema::forget(tx, &plan.forgotten).await?;
    Ok(())
}
