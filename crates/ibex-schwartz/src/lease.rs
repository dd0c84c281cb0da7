//! Statements that change a job's row under its lease: the row goes, runs again, is put back, or is kept longer.
//!
//! Apart from `finish.rs` because each is one conditional statement inside somebody's transaction: it changes nothing unless `grabbed_until`
//! holds the caller's value, and it knows no policy.

use crate::database::Work;
use crate::error::Error;
use crate::finish::{Fence, Finished};
use crate::job::{When, cut_message};
use crate::policy::RetryPolicy;
use crate::side;
use ibex_sql::{Engine, params};

pub(crate) const DELETE: &str = "DELETE FROM {p}job WHERE jobid = ? AND grabbed_until = ?";

pub(crate) fn upsert(engine: Engine) -> &'static str {
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
