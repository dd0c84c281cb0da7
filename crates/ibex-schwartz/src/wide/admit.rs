//! Whose turn it is: places of concurrency keys and tokens of rate keys.
//!
//! Apart because it is the only code that admits parked jobs, and it does so only while it holds the key's row. Order is that of job numbers.

use super::{ADMITTED, Effects, WAITING, read};
use crate::database::Work;
use crate::error::Error;
use crate::options::{Concurrency, Rate};
use crate::pause::PARKED;
use ibex_sql::params;

/// Jobs one transaction admits: what is left comes with the next end or sweep.
const ADMIT_MAX: u64 = 500;
/// Microseconds of a second.
const MICROS: u64 = 1_000_000;

pub(super) fn concurrency_key(key: &str) -> String {
    format!("c:{key}")
}

pub(super) fn rate_key(key: &str) -> String {
    format!("r:{key}")
}

/// A key's row, or a function's.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    jobs: u64,
    per: u64,
    /// Microseconds since the epoch at which the bucket is full again.
    tat: u64,
    /// The database's clock in microseconds.
    now: u64,
}

impl Limit {
    /// `tat` in microseconds, `now` in seconds.
    pub(crate) fn new(jobs: u64, per: u64, tat: u64, now: u64) -> Self {
        Self {
            jobs,
            per,
            tat,
            now: now * MICROS,
        }
    }

    /// Tokens there are.
    pub(crate) fn available(&self) -> u64 {
        self.clone().take(self.jobs)
    }

    pub(crate) fn tat(&self) -> u64 {
        self.tat
    }

    /// Takes up to `want` tokens; how many there were. The bucket is kept as the time at which it is full again (GCRA): one number, and no
    /// task that fills it.
    pub(crate) fn take(&mut self, want: u64) -> u64 {
        let step = self.step();
        let start = self.tat.max(self.now);
        // The whole burst is one period long.
        let taken = (self.now + self.per * MICROS).saturating_sub(start) / step;
        let taken = taken.min(want).min(self.jobs);
        if taken > 0 {
            self.tat = start + taken * step;
        }
        taken
    }

    /// Another rate: the tokens that are missing come at its pace.
    fn change(&mut self, jobs: u64, per: u64) {
        let missing = self.tat.saturating_sub(self.now).div_ceil(self.step());
        (self.jobs, self.per) = (jobs, per);
        self.tat = self.now + missing.min(jobs) * self.step();
    }

    /// Microseconds one token takes to come.
    fn step(&self) -> u64 {
        (self.per * MICROS / self.jobs.max(1)).max(1)
    }
}

/// Locks the row of a key until the transaction ends; makes it when it is not there.
async fn lock(work: &mut Work<'_>, k: &str) -> Result<Limit, Error> {
    let update = work.engine().pick("", " FOR UPDATE");
    for _ in 0..3 {
        let found = work
            .query_one(
                &format!("SELECT jobs, per, tat, :now FROM {{p}}sz_limit WHERE k = ?{update}"),
                params![k],
            )
            .await?;
        if let Some(row) = found {
            return Ok(Limit {
                jobs: row.get(0)?,
                per: row.get(1)?,
                tat: row.get(2)?,
                now: row.get::<u64>(3)? * MICROS,
            });
        }
        let ignore = work.engine().pick("OR IGNORE", "IGNORE");
        work.execute(
            &format!("INSERT {ignore} INTO {{p}}sz_limit (k, jobs, per, tat) VALUES (?, 1, 1, 0)"),
            params![k],
        )
        .await?;
    }
    // Removed between two statements again and again: as a conflict it is tried again from the start.
    Err(Error::Sql(ibex_sql::Error::new(
        ibex_sql::ErrorKind::Deadlock,
        "the row of a key does not stay",
    )))
}

/// Holds others that would fold into the same waiting job back until the transaction ends.
pub(super) async fn hold(work: &mut Work<'_>, k: &str) -> Result<(), Error> {
    lock(work, k).await.map(drop)
}

/// The newest insert's limit is valid.
pub(super) async fn set_concurrency(
    work: &mut Work<'_>,
    concurrency: &Concurrency,
) -> Result<(), Error> {
    let k = concurrency_key(&concurrency.key);
    let known = lock(work, &k).await?;
    if known.jobs != u64::from(concurrency.limit) {
        work.execute(
            "UPDATE {p}sz_limit SET jobs = ? WHERE k = ?",
            params![concurrency.limit, k],
        )
        .await?;
    }
    Ok(())
}

/// The newest insert's rate is valid.
pub(super) async fn set_rate(work: &mut Work<'_>, rate: &Rate) -> Result<(), Error> {
    let k = rate_key(&rate.key);
    let mut known = lock(work, &k).await?;
    if (known.jobs, known.per) != (u64::from(rate.jobs), rate.per) {
        known.change(rate.jobs.into(), rate.per);
        work.execute(
            "UPDATE {p}sz_limit SET jobs = ?, per = ?, tat = ? WHERE k = ?",
            params![known.jobs, known.per, known.tat, k],
        )
        .await?;
    }
    Ok(())
}

/// Takes up to `want` tokens of a rate key.
async fn tokens(work: &mut Work<'_>, rkey: &str, want: u64) -> Result<u64, Error> {
    let k = rate_key(rkey);
    let mut limit = lock(work, &k).await?;
    let taken = limit.take(want);
    if taken > 0 {
        work.execute(
            "UPDATE {p}sz_limit SET tat = ? WHERE k = ?",
            params![limit.tat, k],
        )
        .await?;
    }
    Ok(taken)
}

/// Admits jobs of a concurrency key while there are places, in order of number; one that waits for its rate lets none pass.
pub(super) async fn admit_key(
    work: &mut Work<'_>,
    ckey: &str,
    effects: &mut Effects,
) -> Result<(), Error> {
    let limit = lock(work, &concurrency_key(ckey)).await?;
    let used: u64 = match work
        .query_one(
            "SELECT COUNT(*) FROM {p}sz_jobx WHERE ckey = ? AND parked = 0",
            params![ckey],
        )
        .await?
    {
        Some(row) => row.get(0)?,
        None => 0,
    };
    let free = limit.jobs.saturating_sub(used).min(ADMIT_MAX);
    if free == 0 {
        return Ok(());
    }
    let rows = work
        .query(
            "SELECT jobid, due, funcid, rkey FROM {p}sz_jobx WHERE ckey = ? AND parked = 1 AND deps_left = 0 AND due <= :now ORDER BY jobid LIMIT ?",
            params![ckey, free],
        )
        .await?;
    for row in &rows {
        if let Some(rkey) = row.get::<Option<String>>(3)?
            && tokens(work, &rkey, 1).await? == 0
        {
            break;
        }
        unpark(work, row.get(0)?, row.get(1)?, row.get(2)?, effects).await?;
    }
    Ok(())
}

/// Admits jobs of a rate key that have no concurrency key while there are tokens, in order of number.
pub(super) async fn admit_rate(
    work: &mut Work<'_>,
    rkey: &str,
    effects: &mut Effects,
) -> Result<(), Error> {
    lock(work, &rate_key(rkey)).await?;
    let rows = work
        .query(
            "SELECT jobid, due, funcid FROM {p}sz_jobx WHERE rkey = ? AND ckey IS NULL AND parked = 1 AND deps_left = 0 AND due <= :now ORDER BY jobid LIMIT ?",
            params![rkey, ADMIT_MAX],
        )
        .await?;
    let wanted = u64::try_from(rows.len()).unwrap_or(ADMIT_MAX);
    let taken = tokens(work, rkey, wanted).await?;
    for row in rows
        .iter()
        .take(usize::try_from(taken).unwrap_or(usize::MAX))
    {
        unpark(work, row.get(0)?, row.get(1)?, row.get(2)?, effects).await?;
    }
    Ok(())
}

/// Admits one job if its turn has come, and others of its key that come before it.
pub(super) async fn admit_job(
    work: &mut Work<'_>,
    jobid: u64,
    effects: &mut Effects,
) -> Result<(), Error> {
    let Some(wide) = read(work, jobid).await? else {
        return Ok(());
    };
    if wide.parked != WAITING || wide.deps_left > 0 {
        return Ok(());
    }
    match (&wide.ckey, &wide.rkey) {
        (Some(ckey), _) => admit_key(work, ckey, effects).await,
        (None, Some(rkey)) => admit_rate(work, rkey, effects).await,
        // Nothing but its parents held it; its own time is the classic row's business.
        (None, None) => unpark(work, jobid, wide.due, wide.funcid, effects).await,
    }
}

async fn unpark(
    work: &mut Work<'_>,
    jobid: u64,
    due: u64,
    funcid: u32,
    effects: &mut Effects,
) -> Result<(), Error> {
    let done = work
        .execute(
            "UPDATE {p}job SET run_after = ? WHERE jobid = ? AND run_after = ?",
            params![due, jobid, PARKED],
        )
        .await?;
    // A row that is gone was removed by hand: the sweep finds it among the admitted ones.
    if done.rows_affected == 1 {
        effects.ready(funcid);
    }
    work.execute(
        "UPDATE {p}sz_jobx SET parked = ? WHERE jobid = ?",
        params![ADMITTED, jobid],
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut limit = Limit {
            jobs: 5,
            per: 10,
            tat: 0,
            now: 1_700_000_000 * MICROS,
        };
        assert_eq!(limit.take(100), 5, "a full bucket");
        assert_eq!(limit.take(1), 0);
        for _ in 0..10 {
            limit.now += 2 * MICROS;
            assert_eq!(limit.take(100), 1, "one each two seconds");
        }
        limit.now += 7 * MICROS;
        assert_eq!(limit.take(100), 3);
        limit.now += 1000 * MICROS;
        assert_eq!(limit.take(2), 2);
        assert_eq!(limit.take(100), 3, "never more than the burst");
        // An empty bucket of another size is empty.
        limit.take(100);
        limit.change(1000, 1);
        assert_eq!(limit.take(5000), 995, "five are missing");
        limit.change(2, 10);
        assert_eq!(limit.take(5), 0);
        limit.now += 5 * MICROS;
        assert_eq!(limit.take(5), 1);
        // Periods that are no multiple of the number never give more than it.
        let mut odd = Limit {
            jobs: 7,
            per: 1,
            tat: 0,
            now: 1_700_000_000 * MICROS,
        };
        assert_eq!(odd.take(100), 7);
        odd.now += MICROS;
        assert_eq!(odd.take(100), 7);
    }
}
