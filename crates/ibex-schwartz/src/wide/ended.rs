//! What follows from the end of a job: the next of its key, its children, its batch.
//!
//! Apart because a finish, a cancel, an expiry and the leader's sweep must all do the same, inside their own transactions.

use super::{ENDED, Effects, WAITING, admit, batch, read};
use crate::database::Work;
use crate::error::Error;
use crate::options::bounded;
use crate::pause::PARKED;
use crate::side;
use crate::tenant;
use ibex_sql::params;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Failed,
    Cancelled,
    Expired,
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// The classic row is gone, or goes in this transaction.
pub(crate) async fn ended(
    work: &mut Work<'_>,
    jobid: u64,
    end: End,
    effects: &mut Effects,
) -> Result<(), Error> {
    // A death cancels children, theirs, and so on.
    let mut todo = vec![(jobid, end)];
    while let Some((jobid, end)) = todo.pop() {
        let Some(wide) = read(work, jobid).await? else {
            continue;
        };
        if wide.parked == ENDED {
            continue;
        }
        if wide.tenant.is_some() {
            tenant::forget(work, jobid).await?;
        }
        if end == End::Completed {
            work.execute(
                "DELETE FROM {p}note WHERE jobid = ? AND notekey IN ('sz.meta', 'sz.progress', 'sz.trace')",
                params![jobid],
            )
            .await?;
            work.execute("DELETE FROM {p}sz_tag WHERE jobid = ?", params![jobid])
                .await?;
            work.execute("DELETE FROM {p}sz_jobx WHERE jobid = ?", params![jobid])
                .await?;
        } else {
            work.execute(
                "UPDATE {p}sz_jobx SET parked = ?, batch = NULL WHERE jobid = ?",
                params![ENDED, jobid],
            )
            .await?;
        }
        work.execute("DELETE FROM {p}sz_edge WHERE child = ?", params![jobid])
            .await?;
        children(work, jobid, end, &mut todo, effects).await?;
        if let Some(batch) = wide.batch {
            batch::left(work, batch, end == End::Completed, effects).await?;
        }
        if let Some(ckey) = &wide.ckey {
            admit::admit_key(work, ckey, effects).await?;
        }
    }
    Ok(())
}

async fn children(
    work: &mut Work<'_>,
    parent: u64,
    end: End,
    todo: &mut Vec<(u64, End)>,
    effects: &mut Effects,
) -> Result<(), Error> {
    let rows = work
        .query(
            "SELECT child, on_death FROM {p}sz_edge WHERE parent = ? AND state = 'pending' ORDER BY child",
            params![parent],
        )
        .await?;
    if rows.is_empty() {
        return Ok(());
    }
    work.execute(
        "UPDATE {p}sz_edge SET state = ? WHERE parent = ?",
        params![end.as_str(), parent],
    )
    .await?;
    for row in &rows {
        let (child, runs): (u64, u32) = (row.get(0)?, row.get(1)?);
        if end != End::Completed && runs == 0 {
            side::keep(work, child, "cancelled", 0).await?;
            work.execute(
                "DELETE FROM {p}job WHERE jobid = ? AND run_after = ?",
                params![child, PARKED],
            )
            .await?;
            todo.push((child, End::Cancelled));
            continue;
        }
        work.execute(
            "UPDATE {p}sz_jobx SET deps_left = deps_left - 1 WHERE jobid = ? AND deps_left > 0",
            params![child],
        )
        .await?;
        admit::admit_job(work, child, effects).await?;
    }
    Ok(())
}

/// The job runs again later: its place is others' meanwhile, unless it blocks its key. Its classic row is not under a lease now.
pub(crate) async fn repark(
    work: &mut Work<'_>,
    jobid: u64,
    run_after: u64,
    effects: &mut Effects,
) -> Result<(), Error> {
    let Some(wide) = read(work, jobid).await? else {
        return Ok(());
    };
    let gives_way = match (&wide.ckey, &wide.rkey) {
        (Some(_), _) => !wide.blocks,
        (None, rkey) => rkey.is_some(),
    };
    if wide.parked != super::ADMITTED || !gives_way {
        return Ok(());
    }
    let done = work
        .execute(
            "UPDATE {p}job SET run_after = ? WHERE jobid = ? AND grabbed_until <= :now AND run_after < ?",
            params![PARKED, jobid, PARKED],
        )
        .await?;
    if done.rows_affected != 1 {
        return Ok(());
    }
    work.execute(
        "UPDATE {p}sz_jobx SET parked = ?, due = ? WHERE jobid = ?",
        params![WAITING, bounded(run_after), jobid],
    )
    .await?;
    match &wide.ckey {
        Some(ckey) => admit::admit_key(work, ckey, effects).await,
        None => admit::admit_job(work, jobid, effects).await,
    }
}
