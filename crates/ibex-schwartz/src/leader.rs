//! One program per database does what must be done once, and leases that ran out are found whoever gave them out.
//!
//! Apart because both are about programs that are gone: a leader that died is followed by another when its time is over, and the leases of
//! a daemon that was killed are counted by whoever leads then. Nothing here decides who has a job: that is the fence of each row.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::tables::id_list;
use ibex_sql::params;

/// Records of leases looked at by one call.
const RECORDS_MAX: u32 = 200;

/// A lease that one of our daemons gave out, that ran out, and that nobody took over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLease {
    /// Which job.
    pub jobid: u64,
    /// The value in `grabbed_until`, the fence.
    pub value: u64,
    /// The function, empty when it has no name.
    pub funcname: String,
}

/// Leases that ran out, and the records they were found in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Still in their rows.
    pub leases: Vec<LostLease>,
    /// For [`Database::forget_leases`], once the leases are counted.
    pub records: Vec<u64>,
}

impl Database {
    /// Becomes or stays the leader of this database for `seconds` from now; `false` when another is. Where our own tables are not allowed
    /// everybody leads: what leaders do is harmless when it is done twice.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn lead(&self, holder: &str, seconds: u64) -> Result<bool, Error> {
        const TAKE: &str = "UPDATE {p}sz_meta SET v = ?, until_at = :now + ? WHERE k = 'leader' AND (v = ? OR until_at <= :now)";
        self.db().await?;
        if !self.has_side() {
            return Ok(true);
        }
        for _ in 0..2 {
            self.execute(TAKE, params![holder, seconds, holder]).await?;
            // A server counts rows that hold the same values as unchanged, so the row is read.
            let row = self
                .query("SELECT v FROM {p}sz_meta WHERE k = 'leader'", params![])
                .await?;
            if let Some(row) = row.first() {
                return Ok(row.get::<String>(0)? == holder);
            }
            let ignore = self.engine().pick("OR IGNORE", "IGNORE");
            self.execute(
                &format!(
                    "INSERT {ignore} INTO {{p}}sz_meta (k, v, until_at) VALUES ('leader', '', 0)"
                ),
                params![],
            )
            .await?;
        }
        Ok(false)
    }

    /// Leads no longer, so that another need not wait.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn resign(&self, holder: &str) -> Result<(), Error> {
        self.db().await?;
        if self.has_side() {
            self.execute(
                "UPDATE {p}sz_meta SET until_at = 0 WHERE k = 'leader' AND v = ?",
                params![holder],
            )
            .await?;
        }
        Ok(())
    }

    /// Recorded leases (see [`crate::Grab::record`]) that ended more than `grace` seconds ago; call again while it answers records.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn lost_leases(&self, grace: u64) -> Result<Lost, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Lost::default());
        }
        let rows = self
            .query(
                // The column stands alone, so that its index ends the walk: no row is read while nothing ran out.
                "SELECT id, until_at, jobids FROM {p}sz_lease WHERE until_at < :now - ? ORDER BY until_at LIMIT ?",
                params![grace, RECORDS_MAX],
            )
            .await?;
        let mut lost = Lost::default();
        for row in &rows {
            let (value, list): (u64, String) = (row.get(1)?, row.get(2)?);
            lost.records.push(row.get(0)?);
            let ids: Vec<u64> = list.split(',').filter_map(|id| id.parse().ok()).collect();
            if ids.is_empty() {
                continue;
            }
            let (marks, mut params) = id_list(&ids);
            params.push(value.into());
            let template = format!(
                "SELECT jobid, funcid FROM {{p}}job WHERE jobid IN ({marks}) AND grabbed_until = ?"
            );
            for job in self.query(&template, params).await? {
                lost.leases.push(LostLease {
                    jobid: job.get(0)?,
                    value,
                    funcname: self.funcname(job.get(1)?).await?.unwrap_or_default(),
                });
            }
        }
        Ok(lost)
    }

    /// Removes records whose leases are counted.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn forget_leases(&self, records: &[u64]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let (marks, params) = id_list(records);
        self.execute(
            &format!("DELETE FROM {{p}}sz_lease WHERE id IN ({marks})"),
            params,
        )
        .await?;
        Ok(())
    }
}

/// Notes in the transaction that gives them out that these leases are ours. One row for all: a finish does not touch it, it goes when the
/// lease would have ended.
pub(crate) async fn record(work: &mut Work<'_>, value: u64, jobids: &[u64]) -> Result<(), Error> {
    let list: Vec<String> = jobids.iter().map(ToString::to_string).collect();
    work.execute(
        "INSERT INTO {p}sz_lease (until_at, jobids) VALUES (?, ?)",
        params![value, list.join(",")],
    )
    .await?;
    Ok(())
}

/// Whether one of our daemons gave out this lease, and notes what it gives out.
pub(crate) async fn is_recorded(
    work: &mut Work<'_>,
    value: u64,
    jobid: u64,
) -> Result<bool, Error> {
    let rows = work
        .query(
            "SELECT jobids FROM {p}sz_lease WHERE until_at = ?",
            params![value],
        )
        .await?;
    let jobid = jobid.to_string();
    for row in &rows {
        if row.get::<String>(0)?.split(',').any(|id| id == jobid) {
            return Ok(true);
        }
    }
    Ok(false)
}
