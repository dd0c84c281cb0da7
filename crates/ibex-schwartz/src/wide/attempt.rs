//! The run a job is in: how long it may take, how far it is, and what the job carries.
//!
//! Apart because a run has an end of its own, whatever is done about its lease. `deadline` is that end, and `fence` the lease it was written
//! for: a lease of somebody else's (Perl's, or a later one) has another value, and is left alone.

use super::place;
use crate::database::{Database, Work};
use crate::error::Error;
use crate::leader::{self, LostLease};
use bytes::Bytes;
use ibex_sql::params;

/// Runs that take too long looked at by one call.
const LATE_MAX: u32 = 500;

/// What a job carries beside its argument, in the classic table `note`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// What it was inserted with, see [`crate::Job::meta`].
    pub meta: Option<Bytes>,
    /// How far its run is, as its worker said it last; of the run before when the job waits for another.
    pub progress: Option<Bytes>,
    /// The trace context it was inserted with.
    pub trace: Option<String>,
}

/// A job that was taken and whose run has an end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) jobid: u64,
    pub(crate) funcid: u32,
    pub(crate) seconds: u64,
}

/// Notes when these runs are over at the latest; in the transaction that gives out the lease.
pub(crate) async fn start(work: &mut Work<'_>, lease: u64, runs: &[Timed]) -> Result<(), Error> {
    for run in runs {
        place::mark(work, run.jobid, run.funcid).await?;
        work.execute(
            "UPDATE {p}sz_jobx SET deadline = :now + ?, fence = ? WHERE jobid = ?",
            params![run.seconds, lease, run.jobid],
        )
        .await?;
    }
    Ok(())
}

/// The run goes on under a longer lease; its end stays.
pub(crate) async fn follow(
    work: &mut Work<'_>,
    jobid: u64,
    old: u64,
    new: u64,
) -> Result<(), Error> {
    work.execute(
        "UPDATE {p}sz_jobx SET fence = CASE WHEN fence = ? THEN ? ELSE fence END, stop = CASE WHEN stop = ? THEN ? ELSE stop END WHERE jobid = ?",
        params![old, new, old, new, jobid],
    )
    .await?;
    Ok(())
}

/// Asks the run of a job to stop; `false` when nobody has it, or, if that is asked for, nobody through a daemon.
pub(crate) async fn stop(
    work: &mut Work<'_>,
    jobid: u64,
    only_daemons: bool,
) -> Result<bool, Error> {
    let lock = work.engine().pick("", " FOR UPDATE");
    let row = work
        .query_one(
            &format!("SELECT funcid, grabbed_until, :now FROM {{p}}job WHERE jobid = ?{lock}"),
            params![jobid],
        )
        .await?;
    let Some(row) = row else {
        return Err(Error::NotFound(jobid));
    };
    let (lease, now): (u64, u64) = (row.get(1)?, row.get(2)?);
    if lease <= now || (only_daemons && !leader::is_recorded(work, lease, jobid).await?) {
        return Ok(false);
    }
    place::mark(work, jobid, row.get(0)?).await?;
    work.execute(
        "UPDATE {p}sz_jobx SET stop = ? WHERE jobid = ?",
        params![lease, jobid],
    )
    .await?;
    Ok(true)
}

/// Keeps how far a run is.
pub(crate) async fn note_progress(
    work: &mut Work<'_>,
    jobid: u64,
    funcid: u32,
    progress: &Bytes,
) -> Result<(), Error> {
    // So that the note goes when the job does.
    place::mark(work, jobid, funcid).await?;
    work.execute(
        "REPLACE INTO {p}note (jobid, notekey, value) VALUES (?, 'sz.progress', ?)",
        params![jobid, progress],
    )
    .await?;
    Ok(())
}

impl Database {
    /// Runs that take longer than their job or function allows, under whatever lease: finish each as failed with "timeout". Only leases that
    /// ours gave out are among them.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn overdue(&self) -> Result<Vec<LostLease>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let rows = self
            .query(
                "SELECT j.jobid, j.grabbed_until, j.funcid FROM {p}sz_jobx x JOIN {p}job j ON j.jobid = x.jobid \
                 WHERE x.deadline <= :now AND j.grabbed_until = x.fence LIMIT ?",
                params![LATE_MAX],
            )
            .await?;
        let mut late = Vec::with_capacity(rows.len());
        for row in &rows {
            late.push(LostLease {
                jobid: row.get(0)?,
                value: row.get(1)?,
                funcname: self.funcname(row.get(2)?).await?.unwrap_or_default(),
            });
        }
        Ok(late)
    }

    /// What a pending job carries.
    pub(crate) async fn notes(&self, jobid: u64) -> Result<Notes, Error> {
        let rows = self
            .query(
                "SELECT notekey, value FROM {p}note WHERE jobid = ? AND notekey IN ('sz.meta', 'sz.progress', 'sz.trace')",
                params![jobid],
            )
            .await?;
        let mut notes = Notes::default();
        for row in &rows {
            let value: Option<Bytes> = row.get(1)?;
            match row.get::<String>(0)?.as_str() {
                "sz.meta" => notes.meta = value,
                "sz.progress" => notes.progress = value,
                _ => notes.trace = value.and_then(|text| String::from_utf8(text.to_vec()).ok()),
            }
        }
        Ok(notes)
    }

    /// The words a job can be found by, in order.
    pub(crate) async fn tags(&self, jobid: u64) -> Result<Vec<String>, Error> {
        let rows = self
            .query(
                "SELECT tag FROM {p}sz_tag WHERE jobid = ? ORDER BY tag",
                params![jobid],
            )
            .await?;
        rows.iter().map(|row| Ok(row.get(0)?)).collect()
    }
}
