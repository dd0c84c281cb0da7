//! Ends of a run: complete, fail, decline, extend, replace.
//!
//! Apart because all of them share one rule: every statement of a finish is in one transaction, and it changes nothing unless
//! `grabbed_until` still holds the caller's lease. A lease that ran out but was taken by nobody is still good.

use crate::database::{Database, Work};
use crate::ending::Ending;
use crate::error::Error;
use crate::grab::GrabbedJob;
use crate::handle::Handle;
use crate::insert::prepared;
use crate::job::{Job, When, cut_message};
use crate::side;
use crate::tables::id_list;
use crate::wide::{self, Effects, End};
use bytes::Bytes;
use ibex_sql::{Engine, params};
use std::fmt;
use std::sync::Arc;

/// How often and when a failed job runs again.
#[derive(Clone)]
pub struct RetryPolicy {
    /// Failures that are forgiven: n means n + 1 runs.
    pub max_retries: u32,
    /// Seconds until the next run after this many failures, counted from 1; 0 is at once.
    pub retry_delay: Arc<dyn Fn(u32) -> u64 + Send + Sync>,
    /// No second run, whatever the job itself says.
    pub is_final: bool,
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}

impl RetryPolicy {
    /// No second run: the classic default.
    #[must_use]
    pub fn never() -> Self {
        Self::fixed(0, 0)
    }

    /// No second run, even of a job that says how many runs it has.
    #[must_use]
    pub fn permanent() -> Self {
        Self {
            is_final: true,
            ..Self::never()
        }
    }

    /// The same delay each time.
    #[must_use]
    pub fn fixed(max_retries: u32, delay_seconds: u64) -> Self {
        Self {
            max_retries,
            retry_delay: Arc::new(move |_| delay_seconds),
            is_final: false,
        }
    }

    /// Twenty-four retries over about twenty days: n^4 + 15 seconds and some.
    #[must_use]
    pub fn backoff(max_retries: u32) -> Self {
        Self {
            max_retries,
            retry_delay: Arc::new(|failures| {
                u64::from(failures).saturating_pow(4).saturating_add(15)
            }),
            is_final: false,
        }
    }
}

/// The end of a run.
#[derive(Debug, Clone)]
pub enum Finish {
    /// Done; the row goes, the exit status is kept for so many seconds if not 0.
    Complete {
        /// Almost always 0.
        status: u16,
        /// Seconds.
        keep: u64,
    },
    /// As `Complete`, and the result is kept beside the exit status, where our own tables are.
    CompleteWith {
        /// Almost always 0.
        status: u16,
        /// Seconds; at least 1.
        keep: u64,
        /// At most [`RESULT_BYTES_MAX`] bytes.
        result: Bytes,
    },
    /// Failed; runs again as the policy says, else it is over.
    Fail {
        /// What happened; the classic column holds its first 255 characters.
        message: String,
        /// Kept when it is over; 0 counts as 1.
        status: u16,
        /// Whether and when it runs again.
        retry: RetryPolicy,
        /// Seconds the exit status is kept when it is over.
        keep: u64,
    },
    /// Not now: comes back when the lease ends, or at the given time. Never counts as a failure.
    Decline(Option<When>),
    /// The lease is longer: it ends this many seconds from now.
    Extend(u64),
    /// These jobs instead of this one, which is complete.
    Replace {
        /// The new ones.
        jobs: Vec<Job>,
        /// Seconds the exit status of the old one is kept.
        keep: u64,
    },
}

/// Bytes of a result: it is an answer, not a file.
pub const RESULT_BYTES_MAX: usize = 65_536;

/// What a finish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The job is over.
    Over,
    /// It runs again, not before this second.
    Retried {
        /// Epoch seconds.
        run_after: u64,
    },
    /// It was put back.
    Declined,
    /// The lease ends at this second now, which is the new fence.
    Extended(u64),
    /// These took its place.
    Replaced(Vec<Handle>),
}

/// Which job, and the lease that allows to touch it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    pub(crate) jobid: u64,
    pub(crate) funcid: u32,
    pub(crate) lease: u64,
    /// A longer lease is noted in our own table, see [`crate::Grab::record`].
    pub(crate) is_recorded: bool,
    /// It has a row in `sz_jobx`: something follows from its end.
    pub(crate) is_wide: bool,
}

impl GrabbedJob {
    pub(crate) fn fence(&self) -> Fence {
        Fence {
            jobid: self.job.jobid,
            funcid: self.job.funcid,
            lease: self.lease,
            is_recorded: false,
            is_wide: self.is_wide,
        }
    }

    /// Ends this run.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another has the job or it is gone: then nothing was changed. What a database can answer.
    pub async fn finish(&self, finish: Finish) -> Result<Finished, Error> {
        let outcome = self.database.finish(self.fence(), finish).await;
        self.database.judge(outcome)
    }
}

const DELETE: &str = "DELETE FROM {p}job WHERE jobid = ? AND grabbed_until = ?";

impl Database {
    /// As [`GrabbedJob::finish`], for callers that keep only jobid and lease (a network face); a longer lease is recorded, see [`crate::Grab::record`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish_job(
        &self,
        jobid: u64,
        lease: u64,
        finish: Finish,
    ) -> Result<Finished, Error> {
        self.db().await?;
        let wide = if self.has_side() {
            "EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.jobid = {p}job.jobid)"
        } else {
            "0"
        };
        let rows = self
            .query(
                &format!("SELECT funcid, {wide} FROM {{p}}job WHERE jobid = ?"),
                params![jobid],
            )
            .await?;
        let (funcid, is_wide) = match rows.first() {
            Some(row) => (row.get(0)?, row.get(1)?),
            None => return Err(Error::NotFound(jobid)),
        };
        let outcome = self
            .finish(
                Fence {
                    jobid,
                    funcid,
                    lease,
                    is_recorded: true,
                    is_wide,
                },
                finish,
            )
            .await;
        self.judge(outcome)
    }

    /// Gives a job back before its lease ends, as if it had never been taken; nothing happens when the lease is lost.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn release_job(&self, jobid: u64, lease: u64) -> Result<(), Error> {
        self.release(Fence {
            jobid,
            funcid: 0,
            lease,
            is_recorded: false,
            is_wide: false,
        })
        .await
    }

    pub(crate) async fn finish(&self, fence: Fence, finish: Finish) -> Result<Finished, Error> {
        let settings = self.settings().await?;
        let keeps = settings.retain(fence.funcid).completed > 0;
        if let Finish::Complete { keep: 0, .. } = finish
            && !fence.is_wide
            && !keeps
        {
            return self.remove(fence).await;
        }
        let rows = match &finish {
            Finish::Replace { jobs, .. } => prepared(self, jobs).await?,
            Finish::CompleteWith { result, .. } if result.len() > RESULT_BYTES_MAX => {
                return Err(Error::TooLarge {
                    bytes: result.len(),
                    max: RESULT_BYTES_MAX,
                });
            }
            Finish::Complete { .. }
            | Finish::CompleteWith { .. }
            | Finish::Fail { .. }
            | Finish::Decline(_)
            | Finish::Extend(_) => Vec::new(),
        };
        let scope = self.scope();
        let hash = self.hash().to_owned();
        self.db().await?;
        let has_side = self.has_side();
        let outcome = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, finish, rows, hash) =
                    (scope.clone(), finish.clone(), rows.clone(), hash.clone());
                Box::pin(async move {
                    let mut ending = Ending {
                        fence,
                        has_side,
                        keeps,
                        hash,
                        effects: Effects::default(),
                    };
                    let finished = ending.apply(&mut scope.on(tx), finish, rows).await?;
                    Ok::<_, Error>((finished, ending.effects))
                })
            })
            .await;
        let outcome = match outcome {
            Ok((finished, effects)) => {
                self.tell(&effects).await;
                Ok(finished)
            }
            Err(error) => Err(error),
        };
        self.settle(fence, outcome).await
    }

    /// The commonest end: one statement.
    async fn remove(&self, fence: Fence) -> Result<Finished, Error> {
        let outcome = match self
            .execute(DELETE, params![fence.jobid, fence.lease])
            .await
        {
            Ok(done) if done.rows_affected == 1 => Ok(Finished::Over),
            Ok(_) => Err(Error::LeaseLost(fence.jobid)),
            Err(error) => Err(error),
        };
        self.settle(fence, outcome).await
    }

    /// A finish whose commit got lost on the way: if the row is gone it happened.
    async fn settle(
        &self,
        fence: Fence,
        outcome: Result<Finished, Error>,
    ) -> Result<Finished, Error> {
        match outcome {
            Err(Error::Sql(error)) if error.is_outcome_unknown() => {
                let rows = self
                    .query(
                        "SELECT grabbed_until FROM {p}job WHERE jobid = ?",
                        params![fence.jobid],
                    )
                    .await;
                match rows {
                    Ok(rows) if rows.is_empty() => Ok(Finished::Over),
                    Ok(_) | Err(_) => Err(Error::Sql(error)),
                }
            }
            other => other,
        }
    }

    /// Several completes in one transaction, each with its own outcome.
    ///
    /// # Errors
    /// When the whole group failed; per job `false` says that its lease is lost.
    pub async fn complete_many(&self, jobs: &[(u64, u64)], keep: u64) -> Result<Vec<bool>, Error> {
        let keeps = self.settings().await?.keeps_completed();
        let scope = self.scope();
        let jobs = jobs.to_vec();
        let has_side = self.has_side();
        let outcome = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, jobs) = (scope.clone(), jobs.clone());
                Box::pin(async move {
                    let mut effects = Effects::default();
                    let mut work = scope.on(tx);
                    if keeps {
                        keep_many(&mut work, &jobs).await?;
                    }
                    let done =
                        complete_many(&mut work, &jobs, keep, has_side, &mut effects).await?;
                    Ok::<_, Error>((done, effects))
                })
            })
            .await;
        let (done, effects) = self.judge(outcome)?;
        self.tell(&effects).await;
        Ok(done)
    }

    /// Gives a job back before its lease ends, as if it had never been taken.
    pub(crate) async fn release(&self, fence: Fence) -> Result<(), Error> {
        self.execute(
            "UPDATE {p}job SET grabbed_until = 0 WHERE jobid = ? AND grabbed_until = ?",
            params![fence.jobid, fence.lease],
        )
        .await?;
        Ok(())
    }
}

fn upsert(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => {
            "INSERT INTO {p}exitstatus (jobid, funcid, status, completion_time, delete_after) VALUES (?, ?, ?, :now, :now + ?) \
             ON CONFLICT (jobid) DO UPDATE SET status = excluded.status, completion_time = excluded.completion_time, delete_after = excluded.delete_after"
        }
        Engine::MySql => {
            "INSERT INTO {p}exitstatus (jobid, funcid, status, completion_time, delete_after) VALUES (?, ?, ?, :now, :now + ?) \
             ON DUPLICATE KEY UPDATE status = VALUES(status), completion_time = VALUES(completion_time), delete_after = VALUES(delete_after)"
        }
    }
}

/// The row goes and its exit status stays, if wanted; one transaction, so no crash leaves a job that cannot be completed.
pub(crate) async fn over(
    work: &mut Work<'_>,
    fence: Fence,
    status: u16,
    keep: u64,
) -> Result<(), Error> {
    if work
        .execute(DELETE, params![fence.jobid, fence.lease])
        .await?
        .rows_affected
        != 1
    {
        return Err(Error::LeaseLost(fence.jobid));
    }
    if keep > 0 {
        work.execute(
            upsert(work.engine()),
            params![fence.jobid, fence.funcid, status, keep],
        )
        .await?;
    }
    Ok(())
}

/// Keeps those of the jobs whose function says so; one whose lease is lost is not.
async fn keep_many(work: &mut Work<'_>, jobs: &[(u64, u64)]) -> Result<(), Error> {
    for (jobid, lease) in jobs {
        let row = work
            .query_one(
                "SELECT funcid FROM {p}job WHERE jobid = ? AND grabbed_until = ?",
                params![*jobid, *lease],
            )
            .await?;
        if let Some(row) = row
            && work.settings().retain(row.get(0)?).completed > 0
        {
            side::keep(work, *jobid, End::Completed.as_str(), 0).await?;
        }
    }
    Ok(())
}

async fn complete_many(
    work: &mut Work<'_>,
    jobs: &[(u64, u64)],
    keep: u64,
    has_side: bool,
    effects: &mut Effects,
) -> Result<Vec<bool>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let (list, ids) = id_list(&jobs.iter().map(|(jobid, _)| *jobid).collect::<Vec<_>>());
    let mut funcids = std::collections::BTreeMap::new();
    if keep > 0 {
        for row in work
            .query(
                &format!("SELECT jobid, funcid FROM {{p}}job WHERE jobid IN ({list})"),
                ids.clone(),
            )
            .await?
        {
            funcids.insert(row.get::<u64>(0)?, row.get::<u32>(1)?);
        }
    }
    let mut wide_ids = std::collections::BTreeSet::new();
    if has_side {
        for row in work
            .query(
                &format!("SELECT jobid FROM {{p}}sz_jobx WHERE jobid IN ({list})"),
                ids,
            )
            .await?
        {
            wide_ids.insert(row.get::<u64>(0)?);
        }
    }
    let sets = jobs
        .iter()
        .map(|(jobid, lease)| params![*jobid, *lease])
        .collect();
    let removed: Vec<bool> = work
        .execute_each(DELETE, sets)
        .await?
        .iter()
        .map(|done| done.rows_affected == 1)
        .collect();
    if keep > 0 {
        let sets = jobs.iter().zip(&removed).filter(|(_, removed)| **removed);
        let sets = sets
            .map(|((jobid, _), _)| {
                params![*jobid, funcids.get(jobid).copied().unwrap_or(0), 0, keep]
            })
            .collect();
        work.execute_each(upsert(work.engine()), sets).await?;
    }
    for ((jobid, _), removed) in jobs.iter().zip(&removed) {
        if *removed && wide_ids.contains(jobid) {
            wide::ended(work, *jobid, End::Completed, effects).await?;
        }
    }
    Ok(removed)
}

pub(crate) async fn fail(
    work: &mut Work<'_>,
    fence: Fence,
    message: &str,
    (status, keep): (u16, u64),
    retry: &RetryPolicy,
    has_side: bool,
) -> Result<Finished, Error> {
    check(work, fence).await?;
    work.execute(
        "INSERT INTO {p}error (error_time, jobid, message, funcid) VALUES (:now, ?, ?, ?)",
        params![fence.jobid, cut_message(message), fence.funcid],
    )
    .await?;
    let errors: u32 = match work
        .query_one(
            "SELECT COUNT(*) FROM {p}error WHERE jobid = ?",
            params![fence.jobid],
        )
        .await?
    {
        Some(row) => row.get(0)?,
        None => 1,
    };
    let failures = if has_side {
        side::failed_run(work, fence, message, errors).await?
    } else {
        errors
    };
    if failures > retry.max_retries {
        if has_side {
            side::keep(work, fence.jobid, "failed", failures).await?;
        }
        over(work, fence, status.max(1), keep).await?;
        return Ok(Finished::Over);
    }
    let delay = (retry.retry_delay)(failures);
    let again = if delay == 0 {
        work.execute(
            "UPDATE {p}job SET grabbed_until = 0 WHERE jobid = ? AND grabbed_until = ?",
            params![fence.jobid, fence.lease],
        )
        .await?
    } else {
        work.execute(
            "UPDATE {p}job SET grabbed_until = 0, run_after = :now + ? WHERE jobid = ? AND grabbed_until = ?",
            params![delay, fence.jobid, fence.lease],
        )
        .await?
    };
    if again.rows_affected != 1 {
        return Err(Error::LeaseLost(fence.jobid));
    }
    match work
        .query_one(
            "SELECT run_after FROM {p}job WHERE jobid = ?",
            params![fence.jobid],
        )
        .await?
    {
        Some(row) => Ok(Finished::Retried {
            run_after: row.get(0)?,
        }),
        None => Err(Error::LeaseLost(fence.jobid)),
    }
}

/// Locks the row until the transaction ends, and refuses when it is not ours.
pub(crate) async fn check(work: &mut Work<'_>, fence: Fence) -> Result<(), Error> {
    let lock = work.engine().pick("", " FOR UPDATE");
    match work
        .query_one(
            &format!("SELECT grabbed_until FROM {{p}}job WHERE jobid = ?{lock}"),
            params![fence.jobid],
        )
        .await?
    {
        Some(row) if row.get::<u64>(0)? == fence.lease => Ok(()),
        Some(_) | None => Err(Error::LeaseLost(fence.jobid)),
    }
}

pub(crate) async fn decline(
    work: &mut Work<'_>,
    fence: Fence,
    when: Option<When>,
) -> Result<Finished, Error> {
    let done = match when {
        // COMPAT(theschwartz): nothing is written; the lease ends by itself (TheSchwartz::Job::declined).
        None => return check(work, fence).await.map(|()| Finished::Declined),
        Some(When::Now) => {
            work.execute("UPDATE {p}job SET grabbed_until = 0, run_after = :now WHERE jobid = ? AND grabbed_until = ?", params![fence.jobid, fence.lease])
                .await?
        }
        Some(When::In(seconds)) => {
            work.execute(
                "UPDATE {p}job SET grabbed_until = 0, run_after = :now + ? WHERE jobid = ? AND grabbed_until = ?",
                params![seconds, fence.jobid, fence.lease],
            )
            .await?
        }
        Some(When::At(epoch)) => {
            work.execute(
                "UPDATE {p}job SET grabbed_until = 0, run_after = ? WHERE jobid = ? AND grabbed_until = ?",
                params![epoch, fence.jobid, fence.lease],
            )
            .await?
        }
    };
    if done.rows_affected == 1 {
        Ok(Finished::Declined)
    } else {
        Err(Error::LeaseLost(fence.jobid))
    }
}

pub(crate) async fn extend(
    work: &mut Work<'_>,
    fence: Fence,
    seconds: u64,
) -> Result<Finished, Error> {
    check(work, fence).await?;
    // Never shorter than it is.
    work.execute(
        "UPDATE {p}job SET grabbed_until = CASE WHEN :now + ? > grabbed_until THEN :now + ? ELSE grabbed_until END WHERE jobid = ? AND grabbed_until = ?",
        params![seconds.max(1), seconds.max(1), fence.jobid, fence.lease],
    )
    .await?;
    match work
        .query_one(
            "SELECT grabbed_until FROM {p}job WHERE jobid = ?",
            params![fence.jobid],
        )
        .await?
    {
        Some(row) => Ok(Finished::Extended(row.get(0)?)),
        None => Err(Error::LeaseLost(fence.jobid)),
    }
}
