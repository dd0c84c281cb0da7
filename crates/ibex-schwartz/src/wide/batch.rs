//! Batches: jobs that are counted together, and jobs that are inserted when all or the first of them ended.
//!
//! Apart because a batch is a row of its own that outlives its jobs. A callback is inserted in the transaction of the end that calls for it,
//! so it comes once and never without it.

use super::Effects;
use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::{Job, When};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ibex_sql::params;
use serde_json::{Value as Json, json};

/// Batches inside batches.
const DEPTH_MAX: usize = 16;

/// A batch to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// It counts as one job of this batch.
    pub parent: Option<Handle>,
    /// Inserted when all jobs completed.
    pub on_success: Option<Job>,
    /// Inserted when the first job failed for good, was cancelled or expired.
    pub on_death: Option<Job>,
    /// Inserted when all jobs are over, however they ended.
    pub on_complete: Option<Job>,
}

/// How a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchStatus {
    /// Its name; batches have numbers of their own.
    pub handle: Handle,
    /// The batch it is part of.
    pub parent: Option<Handle>,
    /// Jobs, and batches inside it.
    pub jobs: u64,
    /// Those that completed.
    pub done: u64,
    /// Those that ended without success.
    pub failed: u64,
    /// It cannot finish yet: jobs are still being added.
    pub is_open: bool,
    /// Epoch seconds.
    pub created_at: u64,
    /// Epoch seconds.
    pub finished_at: Option<u64>,
}

const ROW: &str = "SELECT id, parent, jobs, done, failed, is_open, created_at, finished_at, on_success, on_death, on_complete FROM {p}sz_batch WHERE id = ?";

impl Database {
    /// Makes a batch that is open.
    pub(crate) async fn batch_make(&self, batch: &Batch) -> Result<Handle, Error> {
        self.need_side().await?;
        for job in [&batch.on_success, &batch.on_death, &batch.on_complete]
            .into_iter()
            .flatten()
        {
            job.check()?;
            if job.options.is_some() {
                return Err(Error::Invalid(
                    "the callback of a batch is a plain job".to_owned(),
                ));
            }
            self.check_size(job).await?;
        }
        let (scope, mut new) = (self.scope(), batch.clone());
        for job in [&mut new.on_success, &mut new.on_death, &mut new.on_complete] {
            // An empty one gets the batch's numbers in its place.
            if let Some(job) = job.as_mut().filter(|job| !job.arg.is_empty()) {
                let funcid = self.funcid(&job.funcname).await?;
                job.arg = self.sealed(&self.name_of(funcid, &job.funcname), &job.arg)?;
            }
        }
        let id = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, new) = (scope.clone(), new.clone());
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let parent = new.parent.as_ref().map(Handle::jobid);
                    if let Some(parent) = parent {
                        check_depth(&mut work, parent).await?;
                        join(&mut work, parent).await?;
                    }
                    let text = |job: &Option<Job>| job.as_ref().map(template);
                    let done = work
                        .execute(
                            "INSERT INTO {p}sz_batch (parent, jobs, done, failed, is_open, created_at, on_success, on_death, on_complete) \
                             VALUES (?, 0, 0, 0, 1, :now, ?, ?, ?)",
                            params![parent, text(&new.on_success), text(&new.on_death), text(&new.on_complete)],
                        )
                        .await?;
                    Ok::<u64, Error>(done.last_insert_id)
                })
            })
            .await?;
        Ok(Handle::new(self.hash(), id))
    }

    /// No more jobs from outside: it is finished when those it has are over.
    pub(crate) async fn batch_close(&self, id: u64) -> Result<(), Error> {
        self.need_side().await?;
        let scope = self.scope();
        let effects = self
            .db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let mut effects = Effects::default();
                    lock(&mut work, id).await?;
                    work.execute(
                        "UPDATE {p}sz_batch SET is_open = 0 WHERE id = ?",
                        params![id],
                    )
                    .await?;
                    settle(&mut work, id, &mut effects).await?;
                    Ok::<Effects, Error>(effects)
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(())
    }

    pub(crate) async fn batch_status(&self, id: u64) -> Result<BatchStatus, Error> {
        self.need_side().await?;
        let rows = self.query(ROW, params![id]).await?;
        match rows.first() {
            Some(row) => self.batch_row(row),
            None => Err(Error::NotFound(id)),
        }
    }

    /// Batches, the newest first.
    pub(crate) async fn batch_list(&self, limit: u32) -> Result<Vec<BatchStatus>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let template = ROW.replace("WHERE id = ?", "ORDER BY id DESC LIMIT ?");
        let rows = self.query(&template, params![limit]).await?;
        rows.iter().map(|row| self.batch_row(row)).collect()
    }

    fn batch_row(&self, row: &ibex_sql::Row) -> Result<BatchStatus, Error> {
        Ok(BatchStatus {
            handle: Handle::new(self.hash(), row.get(0)?),
            parent: row
                .get::<Option<u64>>(1)?
                .map(|id| Handle::new(self.hash(), id)),
            jobs: row.get(2)?,
            done: row.get(3)?,
            failed: row.get(4)?,
            is_open: row.get::<u32>(5)? != 0,
            created_at: row.get(6)?,
            finished_at: row.get(7)?,
        })
    }
}

async fn lock(work: &mut Work<'_>, id: u64) -> Result<(), Error> {
    let lock = work.engine().pick("", " FOR UPDATE");
    match work
        .query_one(
            &format!("SELECT id FROM {{p}}sz_batch WHERE id = ?{lock}"),
            params![id],
        )
        .await?
    {
        Some(_) => Ok(()),
        None => Err(Error::NotFound(id)),
    }
}

async fn check_depth(work: &mut Work<'_>, parent: u64) -> Result<(), Error> {
    let mut above = Some(parent);
    for _ in 0..DEPTH_MAX {
        let Some(id) = above else { return Ok(()) };
        let row = work
            .query_one("SELECT parent FROM {p}sz_batch WHERE id = ?", params![id])
            .await?;
        above = match row {
            Some(row) => row.get(0)?,
            None => None,
        };
    }
    Err(Error::Invalid(format!(
        "batches are at most {DEPTH_MAX} deep"
    )))
}

/// One more job. A batch that is closed takes jobs of its own jobs, as long as it is not finished.
pub(super) async fn join(work: &mut Work<'_>, id: u64) -> Result<(), Error> {
    let done = work
        .execute(
            "UPDATE {p}sz_batch SET jobs = jobs + 1 WHERE id = ? AND finished_at IS NULL",
            params![id],
        )
        .await?;
    if done.rows_affected == 1 {
        Ok(())
    } else {
        Err(Error::Invalid(format!("batch {id} is finished or is none")))
    }
}

/// One of its jobs is over.
pub(super) async fn left(
    work: &mut Work<'_>,
    id: u64,
    is_success: bool,
    effects: &mut Effects,
) -> Result<(), Error> {
    let column = if is_success { "done" } else { "failed" };
    work.execute(
        &format!("UPDATE {{p}}sz_batch SET {column} = {column} + 1 WHERE id = ?"),
        params![id],
    )
    .await?;
    settle(work, id, effects).await
}

/// Inserts what the counts call for, up through the batches around it. The row is locked by this transaction.
async fn settle(work: &mut Work<'_>, id: u64, effects: &mut Effects) -> Result<(), Error> {
    let mut at = Some(id);
    for _ in 0..=DEPTH_MAX {
        let Some(id) = at else { return Ok(()) };
        let Some(row) = work.query_one(ROW, params![id]).await? else {
            return Ok(());
        };
        let (parent, jobs, done, failed): (Option<u64>, u64, u64, u64) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let callback = |column| row.get::<Option<String>>(column);
        let about = json!({ "batch": id, "jobs": jobs, "done": done, "failed": failed });
        if failed > 0
            && let Some(job) = callback(9)?
        {
            insert(work, &job, &about, effects).await?;
            work.execute(
                "UPDATE {p}sz_batch SET on_death = NULL WHERE id = ?",
                params![id],
            )
            .await?;
        }
        let is_open: u32 = row.get(5)?;
        let finished: Option<u64> = row.get(7)?;
        if is_open != 0 || done + failed < jobs || finished.is_some() {
            return Ok(());
        }
        work.execute(
            "UPDATE {p}sz_batch SET finished_at = :now WHERE id = ?",
            params![id],
        )
        .await?;
        if failed == 0
            && let Some(job) = callback(8)?
        {
            insert(work, &job, &about, effects).await?;
        }
        if let Some(job) = callback(10)? {
            insert(work, &job, &about, effects).await?;
        }
        if let Some(parent) = parent {
            let column = if failed == 0 { "done" } else { "failed" };
            work.execute(
                &format!("UPDATE {{p}}sz_batch SET {column} = {column} + 1 WHERE id = ?"),
                params![parent],
            )
            .await?;
        }
        at = parent;
    }
    Ok(())
}

/// A job as a callback is kept.
fn template(job: &Job) -> String {
    let (delay, run_after) = match job.when() {
        When::Now => (Some(0), None),
        When::In(seconds) => (Some(seconds), None),
        When::At(epoch) => (None, Some(epoch)),
    };
    json!({
        "func": job.funcname(), "arg": STANDARD.encode(job.arg()), "uniqkey": job.uniqkey, "coalesce": job.coalesce, "priority": job.priority,
        "delay": delay, "run_after": run_after,
    })
    .to_string()
}

/// Inserts a callback; one without an argument gets the batch's numbers.
async fn insert(
    work: &mut Work<'_>,
    text: &str,
    about: &Json,
    effects: &mut Effects,
) -> Result<(), Error> {
    let Ok(job) = serde_json::from_str::<Json>(text) else {
        return Ok(());
    };
    let word = |name: &str| job.get(name).and_then(Json::as_str);
    let funcid = crate::funcs::funcid_of(work, word("func").unwrap_or_default()).await?;
    let mut arg = STANDARD
        .decode(word("arg").unwrap_or_default())
        .unwrap_or_default();
    if arg.is_empty() {
        arg = about.to_string().into_bytes();
    }
    let priority = job
        .get("priority")
        .and_then(Json::as_u64)
        .and_then(|priority| u16::try_from(priority).ok());
    let (due, time) = match job.get("run_after").and_then(Json::as_u64) {
        Some(epoch) => ("?", epoch),
        None => (
            ":now + ?",
            job.get("delay").and_then(Json::as_u64).unwrap_or(0),
        ),
    };
    // A key that is pending: the job that has it does the work.
    let conflict = work
        .engine()
        .pick(" ON CONFLICT (funcid, uniqkey) DO NOTHING", "");
    let outcome = work
        .execute(
            &format!(
                "INSERT INTO {{p}}job (funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) VALUES (?, ?, ?, ?, ?, :now, {due}, 0){conflict}"
            ),
            params![funcid, bytes::Bytes::from(arg), word("uniqkey"), word("coalesce"), priority, time],
        )
        .await;
    match outcome {
        Ok(_) => {
            effects.ready(funcid);
            Ok(())
        }
        Err(Error::Sql(error)) if error.is_unique_violation() => Ok(()),
        Err(error) => Err(error),
    }
}
