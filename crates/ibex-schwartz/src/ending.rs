//! One end of a run inside its transaction: what it does to the classic rows, and what follows from it.
//!
//! Apart from `finish.rs`, which says what an end is and makes its transaction whole, because here all our own tables come in: kept jobs, dead
//! letters, limits and graphs.

use crate::database::Work;
use crate::error::Error;
use crate::finish::{Fence, Finish, Finished};
use crate::handle::Handle;
use crate::insert::{Row, insert_tolerant};
use crate::leader;
use crate::lease::{check, decline, extend, fail, over};
use crate::policy::{Backoff, RetryPolicy, Said};
use crate::side;
use crate::wide::{self, Effects, End, Placed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ibex_sql::params;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// One finish inside its transaction.
pub(crate) struct Ending {
    pub(crate) fence: Fence,
    pub(crate) has_side: bool,
    /// A row that completes is kept.
    pub(crate) keeps: bool,
    pub(crate) said: Said,
    pub(crate) hash: String,
    pub(crate) effects: Effects,
}

/// What the job says of its own ends.
#[derive(Debug, Default)]
struct Own {
    max_attempts: Option<u32>,
    backoff: Option<Backoff>,
    keep: Option<u64>,
}

impl Ending {
    pub(crate) async fn apply(
        &mut self,
        work: &mut Work<'_>,
        finish: Finish,
        rows: Vec<Row>,
    ) -> Result<Finished, Error> {
        let fence = self.fence;
        match finish {
            Finish::Complete { status, keep } => {
                let keep = self.keep(work, keep).await?;
                self.keep_completed(work).await?;
                over(work, fence, status, keep).await?;
                self.ended(work, End::Completed).await?;
                Ok(Finished::Over)
            }
            Finish::CompleteWith {
                status,
                keep,
                result,
            } => {
                let keep = self.keep(work, keep).await?.max(1);
                self.keep_completed(work).await?;
                over(work, fence, status, keep).await?;
                if self.has_side {
                    side::keep_result(work, fence.jobid, &result, keep).await?;
                }
                self.ended(work, End::Completed).await?;
                Ok(Finished::Over)
            }
            Finish::Fail {
                message,
                status,
                retry,
                keep,
            } => self.failed(work, &message, (status, keep), &retry).await,
            Finish::Decline(when) => {
                let finished = decline(work, fence, when).await?;
                if when.is_some() {
                    self.put_back(work).await?;
                }
                Ok(finished)
            }
            Finish::Extend(seconds) => self.extended(work, seconds).await,
            Finish::Replace { keep, .. } => {
                let keep = self.keep(work, keep).await?;
                // The old row goes first, so that a new job may have its key; one whose key another job has is left out.
                over(work, fence, 0, keep).await?;
                let placed = insert_tolerant(work, rows, &mut self.effects).await?;
                // After the new ones: they may be of the same batch, which must not finish between.
                self.ended(work, End::Completed).await?;
                let ids = placed.into_iter().filter_map(Placed::id);
                Ok(Finished::Replaced(
                    ids.map(|id| Handle::new(&self.hash, id)).collect(),
                ))
            }
        }
    }

    async fn failed(
        &mut self,
        work: &mut Work<'_>,
        message: &str,
        (status, keep): (u16, u64),
        retry: &RetryPolicy,
    ) -> Result<Finished, Error> {
        let own = self.own(work).await?;
        let keep = self.kept(work, &own, keep);
        let retry = self.policy(work, own, retry);
        let original = self.original(work).await?;
        let (fence, has_side) = (self.fence, self.has_side);
        let finished = fail(work, fence, message, (status, keep), &retry, has_side).await?;
        if let Finished::Retried { run_after } = finished {
            self.repark(work, run_after).await?;
            return Ok(finished);
        }
        self.ended(work, End::Failed).await?;
        if let Some((func, original)) = original {
            let letter = json!({ "original": original, "error": message });
            self.bury(work, &func, &letter).await?;
        }
        Ok(finished)
    }

    /// A longer lease, and how far the run is if the worker says so.
    async fn extended(&self, work: &mut Work<'_>, seconds: u64) -> Result<Finished, Error> {
        let fence = self.fence;
        let extended = extend(work, fence, seconds).await?;
        let Finished::Extended(value) = extended else {
            return Ok(extended);
        };
        if !self.has_side {
            return Ok(extended);
        }
        if fence.is_recorded {
            leader::record(work, value, &[fence.jobid]).await?;
        }
        if fence.is_wide {
            wide::follow(work, fence.jobid, fence.lease, value).await?;
        }
        if let Some(progress) = &self.said.progress {
            wide::note_progress(work, fence.jobid, fence.funcid, progress).await?;
        }
        Ok(extended)
    }

    async fn own(&self, work: &mut Work<'_>) -> Result<Own, Error> {
        if !self.fence.is_wide {
            return Ok(Own::default());
        }
        let wide = wide::read(work, self.fence.jobid).await?;
        Ok(wide.map_or_else(Own::default, |wide| Own {
            max_attempts: wide.max_attempts,
            backoff: wide.backoff,
            keep: wide.keep,
        }))
    }

    /// How long the exit status is kept: the call's own word, the job's, its function's, the worker's.
    async fn keep(&self, work: &mut Work<'_>, keep: u64) -> Result<u64, Error> {
        let own = self.own(work).await?;
        Ok(self.kept(work, &own, keep))
    }

    fn kept(&self, work: &Work<'_>, own: &Own, keep: u64) -> u64 {
        self.said
            .keep
            .or(own.keep)
            .or_else(|| work.settings().keep(self.fence.funcid))
            .unwrap_or(keep)
    }

    /// Runs and delays in the same order.
    fn policy(&self, work: &Work<'_>, own: Own, retry: &RetryPolicy) -> RetryPolicy {
        if retry.is_final {
            return retry.clone();
        }
        let funcid = self.fence.funcid;
        let runs = own
            .max_attempts
            .or_else(|| work.settings().max_attempts(funcid));
        let backoff = own.backoff.or_else(|| work.settings().backoff(funcid));
        let retry_delay: Arc<dyn Fn(u32) -> u64 + Send + Sync> = match (self.said.retry_in, backoff)
        {
            (Some(seconds), _) => Arc::new(move |_| seconds),
            (None, Some(backoff)) => Arc::new(move |failures| backoff.delay(failures)),
            (None, None) => Arc::clone(&retry.retry_delay),
        };
        RetryPolicy {
            max_retries: runs.map_or(retry.max_retries, |runs| runs.saturating_sub(1)),
            retry_delay,
            is_final: false,
        }
    }

    async fn ended(&mut self, work: &mut Work<'_>, end: End) -> Result<(), Error> {
        if self.fence.is_wide {
            wide::ended(work, self.fence.jobid, end, &mut self.effects).await?;
        }
        Ok(())
    }

    /// Keeps the row that is about to complete, where completed jobs are kept.
    async fn keep_completed(&self, work: &mut Work<'_>) -> Result<(), Error> {
        if self.keeps {
            check(work, self.fence).await?;
            side::keep(work, self.fence.jobid, End::Completed.as_str(), 0).await?;
        }
        Ok(())
    }

    /// The function that gets the dead of this one, and the job as it will be told of.
    async fn original(&self, work: &mut Work<'_>) -> Result<Option<(String, Json)>, Error> {
        if work.settings().is_empty() {
            return Ok(None);
        }
        let row = work
            .query_one(
                "SELECT f.funcname, j.arg, j.uniqkey, j.coalesce, j.priority FROM {p}job j JOIN {p}funcmap f ON f.funcid = j.funcid WHERE j.jobid = ?",
                params![self.fence.jobid],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let name: String = row.get(0)?;
        let Some(func) = work.settings().dead_func(self.fence.funcid, &name) else {
            return Ok(None);
        };
        let arg: Bytes = row.get::<Option<Bytes>>(1)?.unwrap_or_default();
        let mut original = json!({
            "handle": Handle::new(&self.hash, self.fence.jobid).to_string(), "func": name, "uniqkey": row.get::<Option<String>>(2)?,
            "coalesce": row.get::<Option<String>>(3)?, "priority": row.get::<Option<u16>>(4)?,
        });
        match std::str::from_utf8(&arg) {
            Ok(text) => original["arg"] = text.into(),
            Err(_) => original["arg_b64"] = STANDARD.encode(&arg).into(),
        }
        Ok(Some((func, original)))
    }

    /// A job that failed for good is told to another function.
    async fn bury(&mut self, work: &mut Work<'_>, func: &str, letter: &Json) -> Result<(), Error> {
        let funcid = crate::funcs::funcid_of(work, func).await?;
        work.execute(
            "INSERT INTO {p}job (funcid, arg, insert_time, run_after, grabbed_until) VALUES (?, ?, :now, :now, 0)",
            params![funcid, Bytes::from(letter.to_string())],
        )
        .await?;
        self.effects.ready(funcid);
        Ok(())
    }

    async fn put_back(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        if !self.fence.is_wide {
            return Ok(());
        }
        let row = work
            .query_one(
                "SELECT run_after FROM {p}job WHERE jobid = ?",
                params![self.fence.jobid],
            )
            .await?;
        match row {
            Some(row) => self.repark(work, row.get(0)?).await,
            None => Ok(()),
        }
    }

    async fn repark(&mut self, work: &mut Work<'_>, run_after: u64) -> Result<(), Error> {
        if self.fence.is_wide {
            wide::repark(work, self.fence.jobid, run_after, &mut self.effects).await?;
        }
        Ok(())
    }
}
