//! Unique windows: jobs that would be the same are inserted once.
//!
//! Apart because nothing happens at a grab or an end: the row says which job was inserted last for what makes jobs the same, and whether that
//! one still counts is decided when another comes. So it costs only jobs that use it, and no crash leaves it wrong.

use crate::database::Work;
use crate::error::Error;
use crate::options::Unique;
use ibex_sql::params;

/// Takes the window for a new job, or answers the job that has it. The row stays locked until the transaction ends.
pub(crate) async fn claim(work: &mut Work<'_>, ukey: &str) -> Result<Option<u64>, Error> {
    let ignore = work.engine().pick("OR IGNORE", "IGNORE");
    work.execute(
        &format!(
            "INSERT {ignore} INTO {{p}}sz_unique (ukey, jobid, until_at, states) VALUES (?, 0, 0, 0)"
        ),
        params![ukey],
    )
    .await?;
    let lock = work.engine().pick("", " FOR UPDATE");
    let found = work
        .query_one(
            &format!(
                "SELECT jobid, until_at, states, :now FROM {{p}}sz_unique WHERE ukey = ?{lock}"
            ),
            params![ukey],
        )
        .await?;
    let Some(row) = found else {
        return Err(Error::Sql(ibex_sql::Error::new(
            ibex_sql::ErrorKind::Deadlock,
            "the row of a window does not stay",
        )));
    };
    let (jobid, until, states, now): (u64, u64, u32, u64) =
        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    if jobid == 0 || (until > 0 && until <= now) {
        return Ok(None);
    }
    let counts = match bit(work, jobid).await? {
        Some(bit) => states & bit != 0,
        None => false,
    };
    Ok(counts.then_some(jobid))
}

/// The bit of the state a job is in; `None` when it ended without success and counts for nobody.
async fn bit(work: &mut Work<'_>, jobid: u64) -> Result<Option<u32>, Error> {
    let row = work
        .query_one(
            "SELECT CASE WHEN grabbed_until > :now THEN 2 ELSE 1 END FROM {p}job WHERE jobid = ?",
            params![jobid],
        )
        .await?;
    if let Some(row) = row {
        return Ok(Some(row.get(0)?));
    }
    let died = work
        .query(
            "SELECT 1 FROM {p}sz_done WHERE jobid = ? AND state <> 'completed' UNION ALL SELECT 1 FROM {p}exitstatus WHERE jobid = ? AND status <> 0",
            params![jobid, jobid],
        )
        .await?;
    Ok(died.is_empty().then_some(4))
}

/// The new job has the window.
pub(crate) async fn bind(
    work: &mut Work<'_>,
    ukey: &str,
    jobid: u64,
    unique: &Unique,
) -> Result<(), Error> {
    let until = if unique.window == 0 { "?" } else { ":now + ?" };
    work.execute(
        &format!(
            "UPDATE {{p}}sz_unique SET jobid = ?, until_at = {until}, states = ? WHERE ukey = ?"
        ),
        params![jobid, unique.window, unique.states(), ukey],
    )
    .await?;
    Ok(())
}

/// No job came of a claim.
pub(crate) async fn give_back(work: &mut Work<'_>, ukey: &str) -> Result<(), Error> {
    work.execute(
        "DELETE FROM {p}sz_unique WHERE ukey = ? AND jobid = 0",
        params![ukey],
    )
    .await?;
    Ok(())
}

impl crate::database::Database {
    /// The job that has a window here, for clients of several databases.
    pub(crate) async fn unique_holder(
        &self,
        ukey: &str,
    ) -> Result<Option<crate::handle::Handle>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(None);
        }
        let rows = self
            .query(
                "SELECT u.jobid, u.states, CASE WHEN j.jobid IS NULL THEN 4 WHEN j.grabbed_until > :now THEN 2 ELSE 1 END \
                 FROM {p}sz_unique u LEFT JOIN {p}job j ON j.jobid = u.jobid \
                 WHERE u.ukey = ? AND u.jobid > 0 AND (u.until_at = 0 OR u.until_at > :now) \
                 AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = u.jobid AND d.state <> 'completed' AND j.jobid IS NULL) \
                 AND NOT EXISTS (SELECT 1 FROM {p}exitstatus s WHERE s.jobid = u.jobid AND s.status <> 0 AND j.jobid IS NULL)",
                params![ukey],
            )
            .await?;
        match rows.first() {
            Some(row) if row.get::<u32>(1)? & row.get::<u32>(2)? != 0 => {
                Ok(Some(crate::handle::Handle::new(self.hash(), row.get(0)?)))
            }
            Some(_) | None => Ok(None),
        }
    }
}
