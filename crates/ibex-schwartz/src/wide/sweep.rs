//! The leader's pass: what became due, what Perl workers and hands did behind our back, what expired.
//!
//! Apart because every step here is also done at once where ours does it; the sweep is for times that come and for programs that know
//! nothing of our tables. Each step is a transaction of its own, bounded, and harmless when two do it.

use super::{ADMITTED, Effects, End, WAITING, admit, ended, place, repark};
use crate::database::{Database, Work};
use crate::error::Error;
use crate::pause::PARKED;
use crate::side;
use ibex_sql::params;

/// Keys looked at by one pass.
const KEYS_MAX: u32 = 500;
/// Rows one pass looks at for jobs that ended elsewhere.
const CHUNK: u32 = 5000;

/// Where the passes over the rows stand, one for each state.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cursors {
    admitted: u64,
    waiting: u64,
}

/// What one transaction of the sweep does.
#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Rate(String),
    Gone(u64),
    Late(u64, u64),
    Expired(u64),
}

impl Database {
    /// One pass of the leader over jobs with limits, parents, batches or a time to live. Answers how many things it did.
    ///
    /// # Errors
    /// What the database answers; what was done before stays.
    pub async fn keep_wide(&self) -> Result<u64, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(0);
        }
        if self
            .query("SELECT jobid FROM {p}sz_jobx LIMIT 1", params![])
            .await?
            .is_empty()
        {
            return Ok(0);
        }
        let mut steps = self.gone().await?;
        steps.extend(self.expired().await?);
        steps.extend(self.due().await?);
        let mut count = 0;
        for step in steps {
            count += 1;
            self.sweep(step).await?;
        }
        Ok(count)
    }

    async fn sweep(&self, step: Step) -> Result<(), Error> {
        let scope = self.scope();
        let effects = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, step) = (scope.clone(), step.clone());
                Box::pin(async move {
                    let mut effects = Effects::default();
                    one(&mut scope.on(tx), step, &mut effects).await?;
                    Ok::<Effects, Error>(effects)
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(())
    }

    /// Keys with a job whose time came and room for it.
    async fn due(&self) -> Result<Vec<Step>, Error> {
        let places = self
            .query(
                "SELECT SUBSTR(l.k, 3) FROM {p}sz_limit l WHERE l.k LIKE 'c:%' \
                 AND EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.ckey = SUBSTR(l.k, 3) AND x.parked = 1 AND x.deps_left = 0 AND x.due <= :now) \
                 AND (SELECT COUNT(*) FROM {p}sz_jobx y WHERE y.ckey = SUBSTR(l.k, 3) AND y.parked = 0) < l.jobs LIMIT ?",
                params![KEYS_MAX],
            )
            .await?;
        let rates = self
            .query(
                "SELECT SUBSTR(l.k, 3) FROM {p}sz_limit l WHERE l.k LIKE 'r:%' \
                 AND EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.rkey = SUBSTR(l.k, 3) AND x.ckey IS NULL AND x.parked = 1 AND x.deps_left = 0 AND x.due <= :now) LIMIT ?",
                params![KEYS_MAX],
            )
            .await?;
        let mut steps = Vec::new();
        for row in &places {
            steps.push(Step::Key(row.get(0)?));
        }
        for row in &rates {
            steps.push(Step::Rate(row.get(0)?));
        }
        Ok(steps)
    }

    /// Jobs whose classic rows are gone, and those a Perl worker put back for later while others of their key could go on.
    async fn gone(&self) -> Result<Vec<Step>, Error> {
        let mut cursors = self.cursors();
        let mut steps = Vec::new();
        for (parked, cursor) in [
            (ADMITTED, &mut cursors.admitted),
            (WAITING, &mut cursors.waiting),
        ] {
            let last = self
                .query(
                    "SELECT MAX(jobid) FROM (SELECT jobid FROM {p}sz_jobx WHERE parked = ? AND jobid > ? ORDER BY jobid LIMIT ?) c",
                    params![parked, *cursor, CHUNK],
                )
                .await?;
            let last: Option<u64> = last.first().map_or(Ok(None), |row| row.get(0))?;
            let Some(last) = last else {
                *cursor = 0;
                continue;
            };
            let rows = self
                .query(
                    "SELECT x.jobid, j.run_after FROM {p}sz_jobx x LEFT JOIN {p}job j ON j.jobid = x.jobid WHERE x.parked = ? AND x.jobid > ? AND x.jobid <= ? \
                     AND (j.jobid IS NULL OR (x.parked = 0 AND (x.ckey IS NOT NULL OR x.rkey IS NOT NULL) AND x.blocks = 0 \
                     AND j.run_after > :now + 1 AND j.run_after < ? AND j.grabbed_until <= :now))",
                    params![parked, *cursor, last, PARKED],
                )
                .await?;
            *cursor = last;
            for row in &rows {
                steps.push(match row.get::<Option<u64>>(1)? {
                    Some(run_after) => Step::Late(row.get(0)?, run_after),
                    None => Step::Gone(row.get(0)?),
                });
            }
        }
        self.set_cursors(cursors);
        Ok(steps)
    }

    async fn expired(&self) -> Result<Vec<Step>, Error> {
        let rows = self
            .query(
                "SELECT x.jobid FROM {p}sz_jobx x JOIN {p}job j ON j.jobid = x.jobid WHERE x.expires_at <= :now AND x.parked < 2 AND j.grabbed_until <= :now \
                 AND NOT EXISTS (SELECT 1 FROM {p}error e WHERE e.jobid = x.jobid) LIMIT ?",
                params![KEYS_MAX],
            )
            .await?;
        rows.iter()
            .map(|row| Ok(Step::Expired(row.get(0)?)))
            .collect()
    }
}

async fn one(work: &mut Work<'_>, step: Step, effects: &mut Effects) -> Result<(), Error> {
    match step {
        Step::Key(key) => admit::admit_key(work, &key, effects).await,
        Step::Rate(key) => admit::admit_rate(work, &key, effects).await,
        Step::Late(jobid, run_after) => repark(work, jobid, run_after, effects).await,
        Step::Gone(jobid) => {
            let lock = work.engine().pick("", " FOR UPDATE");
            let there = work
                .query_one(
                    &format!("SELECT jobid FROM {{p}}job WHERE jobid = ?{lock}"),
                    params![jobid],
                )
                .await?;
            if there.is_some() {
                return Ok(());
            }
            let end = elsewhere(work, jobid).await?;
            ended(work, jobid, end, effects).await
        }
        Step::Expired(jobid) => expire(work, jobid, None, effects).await.map(drop),
    }
}

/// Removes a job whose time to live is over, if no worker has it, or the one with this lease; `false` when one has.
pub(crate) async fn expire(
    work: &mut Work<'_>,
    jobid: u64,
    lease: Option<u64>,
    effects: &mut Effects,
) -> Result<bool, Error> {
    side::keep(work, jobid, End::Expired.as_str(), 0).await?;
    let (fence, params) = match lease {
        Some(lease) => ("grabbed_until = ?", params![jobid, lease]),
        None => ("grabbed_until <= :now", params![jobid]),
    };
    let done = work
        .execute(
            &format!("DELETE FROM {{p}}job WHERE jobid = ? AND {fence}"),
            params,
        )
        .await?;
    if done.rows_affected != 1 {
        work.execute(
            "DELETE FROM {p}sz_done WHERE jobid = ? AND state = 'expired'",
            params![jobid],
        )
        .await?;
        return Ok(false);
    }
    ended(work, jobid, End::Expired, effects).await?;
    Ok(true)
}

/// How a job ended that was ended without our tables. An exit status says it; without one the job failed when the newest failure is one that
/// only the classic table knows of, else it completed.
async fn elsewhere(work: &mut Work<'_>, jobid: u64) -> Result<End, Error> {
    match place::ended_as(work, jobid).await?.as_deref() {
        Some("completed") => return Ok(End::Completed),
        Some("cancelled") => return Ok(End::Cancelled),
        Some("expired") => return Ok(End::Expired),
        Some(_) => return Ok(End::Failed),
        None => {}
    }
    let row = work
        .query_one(
            "SELECT (SELECT COUNT(*) FROM {p}error WHERE jobid = ?), (SELECT COUNT(*) FROM {p}sz_attempt WHERE jobid = ?)",
            params![jobid, jobid],
        )
        .await?;
    let is_failed = match row {
        Some(row) => row.get::<u64>(0)? > row.get::<u64>(1)?,
        None => false,
    };
    Ok(if is_failed {
        End::Failed
    } else {
        End::Completed
    })
}
