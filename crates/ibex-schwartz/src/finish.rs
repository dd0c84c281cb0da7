//! Ends of a run: complete, fail, decline, extend, replace.
//!
//! Apart because all of them share one rule: every statement of a finish is in one transaction, and it changes nothing unless
//! `grabbed_until` still holds the caller's lease. A lease that ran out but was taken by nobody is still good.

use crate::database::Database;
use crate::ending::Ending;
use crate::error::Error;
use crate::grab::GrabbedJob;
use crate::handle::Handle;
use crate::insert::prepared;
use crate::job::{Job, When};
use crate::lease::DELETE;
use crate::policy::{RetryPolicy, Said};
use crate::wide::Effects;
use bytes::Bytes;
use ibex_sql::params;

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

/// Bytes of what a worker says of how far it is.
const PROGRESS_BYTES_MAX: usize = 65_536;

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
        self.finish_said(finish, &Said::default()).await
    }

    /// As [`GrabbedJob::finish`], with what the call says for itself.
    ///
    /// # Errors
    /// As there.
    pub async fn finish_said(&self, finish: Finish, said: &Said) -> Result<Finished, Error> {
        let outcome = self.database.finish(self.fence(), finish, said).await;
        self.database.judge(outcome)
    }
}

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
        self.finish_job_said(jobid, lease, finish, &Said::default())
            .await
    }

    /// As [`Database::finish_job`], with what the call says for itself.
    ///
    /// # Errors
    /// As there.
    pub async fn finish_job_said(
        &self,
        jobid: u64,
        lease: u64,
        finish: Finish,
        said: &Said,
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
                said,
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

    pub(crate) async fn finish(
        &self,
        fence: Fence,
        finish: Finish,
        said: &Said,
    ) -> Result<Finished, Error> {
        let settings = self.settings().await?;
        let keeps = settings.retain(fence.funcid).completed > 0;
        if let Finish::Complete { keep, .. } = finish
            && said.keep.or(settings.keep(fence.funcid)).unwrap_or(keep) == 0
            && !fence.is_wide
            && !keeps
        {
            return self.remove(fence).await;
        }
        if said
            .progress
            .as_ref()
            .is_some_and(|progress| progress.len() > PROGRESS_BYTES_MAX)
        {
            return Err(Error::Invalid(format!(
                "progress has at most {PROGRESS_BYTES_MAX} bytes"
            )));
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
        let said = said.clone();
        let hash = self.hash().to_owned();
        self.db().await?;
        let has_side = self.has_side();
        let outcome = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, finish, rows) = (scope.clone(), finish.clone(), rows.clone());
                let (said, hash) = (said.clone(), hash.clone());
                Box::pin(async move {
                    let mut ending = Ending {
                        fence,
                        has_side,
                        keeps,
                        said,
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
