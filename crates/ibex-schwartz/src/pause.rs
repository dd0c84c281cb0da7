//! Functions that are paused: nothing of them is handed out until they are resumed.
//!
//! Apart because Perl workers know of no pause, so their way to it is different from ours. Our grabs look into `sz_func`; for the others
//! the jobs are parked: their rows say `run_after = 4294967295`, which no worker takes, and `sz_parked` keeps their true times.

use crate::database::{Database, Work};
use crate::error::Error;
use ibex_sql::params;

/// What `run_after` of a parked job says: the end of the column, which no insert may ask for.
pub const PARKED: u64 = 4_294_967_295;
/// A pause without an end.
const FOR_EVER: u64 = PARKED;
/// Rows of one transaction.
const CHUNK: u32 = 1000;

impl Database {
    /// Pauses a function for so many seconds, or until it is resumed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is none, [`Error::Config`] where our own tables are not allowed, and what the database answers.
    pub async fn pause(&self, func: &str, seconds: Option<u64>) -> Result<(), Error> {
        crate::job::Job::new(func, "").check()?;
        self.need_side().await?;
        let funcid = self.funcid(func).await?;
        match seconds {
            Some(seconds) => {
                self.execute(
                    "REPLACE INTO {p}sz_func (funcid, paused_until) VALUES (?, :now + ?)",
                    params![funcid, seconds.min(FOR_EVER / 2)],
                )
                .await?
            }
            None => {
                self.execute(
                    "REPLACE INTO {p}sz_func (funcid, paused_until) VALUES (?, ?)",
                    params![funcid, FOR_EVER],
                )
                .await?
            }
        };
        while self.park(funcid).await? > 0 {}
        Ok(())
    }

    /// Resumes a function; its jobs have their times again. `false` when it was not paused.
    ///
    /// # Errors
    /// As [`Database::pause`].
    pub async fn resume(&self, func: &str) -> Result<bool, Error> {
        self.need_side().await?;
        let Some(funcid) = self.funcids(&[func.to_owned()]).await?.first().copied() else {
            return Ok(false);
        };
        let done = self
            .execute("DELETE FROM {p}sz_func WHERE funcid = ?", params![funcid])
            .await?;
        while self.unpark(funcid).await? > 0 {}
        Ok(done.rows_affected > 0)
    }

    /// Paused functions by number, and until when.
    pub(crate) async fn paused(&self) -> Result<std::collections::BTreeMap<u32, u64>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(std::collections::BTreeMap::new());
        }
        let rows = self
            .query(
                "SELECT funcid, paused_until FROM {p}sz_func WHERE paused_until > :now",
                params![],
            )
            .await?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect()
    }

    /// One pass of the leader: parks what others inserted into paused functions, gives back what is parked without a pause. Answers how many
    /// rows it moved.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn keep_paused(&self) -> Result<u64, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(0);
        }
        let paused = self.paused().await?;
        let mut moved = 0;
        for funcid in paused.keys() {
            moved += self.park(*funcid).await?;
        }
        let rows = self
            .query("SELECT DISTINCT funcid FROM {p}sz_parked", params![])
            .await?;
        for row in &rows {
            let funcid: u32 = row.get(0)?;
            if !paused.contains_key(&funcid) {
                moved += self.unpark(funcid).await?;
            }
        }
        Ok(moved)
    }

    async fn park(&self, funcid: u32) -> Result<u64, Error> {
        let scope = self.scope();
        self.db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move { park(&mut scope.on(tx), funcid).await })
            })
            .await
    }

    async fn unpark(&self, funcid: u32) -> Result<u64, Error> {
        let scope = self.scope();
        self.db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move { unpark(&mut scope.on(tx), funcid).await })
            })
            .await
    }
}

async fn park(work: &mut Work<'_>, funcid: u32) -> Result<u64, Error> {
    let rows = work
        .query(
            "SELECT jobid, run_after FROM {p}job WHERE funcid = ? AND run_after < ? AND grabbed_until <= :now ORDER BY jobid LIMIT ?",
            params![funcid, PARKED, CHUNK],
        )
        .await?;
    let (mut kept, mut moved) = (Vec::new(), Vec::new());
    for row in &rows {
        let (jobid, run_after): (u64, u64) = (row.get(0)?, row.get(1)?);
        kept.push(params![jobid, funcid, run_after]);
        moved.push(params![PARKED, jobid, run_after]);
    }
    work.execute_each(
        "REPLACE INTO {p}sz_parked (jobid, funcid, run_after) VALUES (?, ?, ?)",
        kept,
    )
    .await?;
    // One that a Perl worker took meanwhile goes on; its kept time does nothing.
    let done = work
        .execute_each(
            "UPDATE {p}job SET run_after = ? WHERE jobid = ? AND run_after = ? AND grabbed_until <= :now",
            moved,
        )
        .await?;
    Ok(done.iter().map(|one| one.rows_affected).sum())
}

async fn unpark(work: &mut Work<'_>, funcid: u32) -> Result<u64, Error> {
    let rows = work
        .query(
            "SELECT jobid, run_after FROM {p}sz_parked WHERE funcid = ? ORDER BY jobid LIMIT ?",
            params![funcid, CHUNK],
        )
        .await?;
    let (mut back, mut gone) = (Vec::new(), Vec::new());
    for row in &rows {
        let (jobid, run_after): (u64, u64) = (row.get(0)?, row.get(1)?);
        back.push(params![run_after, jobid, PARKED]);
        gone.push(params![jobid]);
    }
    let count = u64::try_from(gone.len()).unwrap_or(u64::MAX);
    work.execute_each(
        // One that waits for its turn meanwhile has its time in `sz_jobx`.
        "UPDATE {p}job SET run_after = ? WHERE jobid = ? AND run_after = ? \
         AND NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.jobid = {p}job.jobid AND x.parked = 1)",
        back,
    )
    .await?;
    work.execute_each("DELETE FROM {p}sz_parked WHERE jobid = ?", gone)
        .await?;
    Ok(count)
}
