//! Jobs that ask for more than the classic columns can say: limits, parents, batches, a time to live.
//!
//! Apart because Perl workers know nothing of it. A job that may not run yet is *parked*: its classic row says `run_after = 4294967295`, which
//! no worker takes, and `sz_jobx` keeps its true time. It is *admitted* when its turn comes: then its row has its time, and anybody may take
//! it. So every limit holds for Perl workers, too, and who has a job is still decided by the classic row alone.
//!
//! ```text
//!  insert ─► parked ──admit──► admitted (ready, grabbed, waiting for a retry) ──end──► gone, or kept with sz_done for a retry by hand
//!               ▲                  │
//!               └──── repark ──────┘  a failed run of a job whose place others may have meanwhile
//! ```
//!
//! Invariants: the jobs of a key with `parked = 0` are never more than its limit; a job is admitted only in a transaction that holds the row
//! of its key; an end and what follows from it (the next of the key, children, the batch) are one transaction. An end by a Perl worker is
//! found by the leader's sweep, which does the same then. Nothing is counted twice, because the row of the job says that it is not over.

mod admit;
mod attempt;
mod batch;
mod ended;
mod place;
mod sweep;
mod unique;

pub(crate) use admit::Limit;
pub use attempt::Notes;
pub(crate) use attempt::{Timed, follow, note_progress, start, stop};
pub use batch::{Batch, BatchStatus};
pub(crate) use ended::{End, ended, repark};
pub(crate) use place::{Extras, Placed, link, place, revived};
pub(crate) use sweep::{Cursors, expire};

use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::When;
use crate::policy::Backoff;
use crate::side::Column;
use crate::tenant::Tenant;
use bytes::Bytes;
use ibex_sql::{Engine, params};
use std::collections::BTreeMap;

/// Anybody may take it.
pub(crate) const ADMITTED: u32 = 0;
/// Its turn has not come.
pub(crate) const WAITING: u32 = 1;
/// It failed or was cancelled, and is kept for a retry by hand.
pub(crate) const ENDED: u32 = 2;

pub(crate) const SQLITE: [&str; 14] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_jobx (jobid INTEGER PRIMARY KEY NOT NULL, funcid INTEGER NOT NULL, parked INTEGER NOT NULL, due INTEGER NOT NULL, ckey TEXT, \
     blocks INTEGER NOT NULL, rkey TEXT, batch INTEGER, deps_left INTEGER NOT NULL, max_attempts INTEGER, expires_at INTEGER, \
     backoff TEXT, timeout_s INTEGER, keep_exit INTEGER, deadline INTEGER, fence INTEGER, stop INTEGER, tenant TEXT, cost INTEGER) STRICT",
    "CREATE INDEX IF NOT EXISTS {p}sz_jobx_ckey ON {p}sz_jobx (ckey, parked, deps_left, jobid) WHERE ckey IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS {p}sz_jobx_rkey ON {p}sz_jobx (rkey, parked, deps_left, jobid) WHERE rkey IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS {p}sz_jobx_parked ON {p}sz_jobx (parked, jobid)",
    "CREATE INDEX IF NOT EXISTS {p}sz_jobx_expires ON {p}sz_jobx (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS {p}sz_limit (k TEXT PRIMARY KEY NOT NULL, jobs INTEGER NOT NULL, per INTEGER NOT NULL, tat INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS {p}sz_edge (parent INTEGER NOT NULL, child INTEGER NOT NULL, on_death INTEGER NOT NULL, state TEXT NOT NULL, \
     PRIMARY KEY (parent, child)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_edge_child ON {p}sz_edge (child)",
    "CREATE TABLE IF NOT EXISTS {p}sz_batch (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, parent INTEGER, jobs INTEGER NOT NULL, done INTEGER NOT NULL, \
     failed INTEGER NOT NULL, is_open INTEGER NOT NULL, created_at INTEGER NOT NULL, finished_at INTEGER, on_success TEXT, on_death TEXT, on_complete TEXT) STRICT",
    "CREATE INDEX IF NOT EXISTS {p}sz_batch_finished ON {p}sz_batch (finished_at)",
    "CREATE TABLE IF NOT EXISTS {p}sz_unique (ukey TEXT PRIMARY KEY NOT NULL, jobid INTEGER NOT NULL, until_at INTEGER NOT NULL, states INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_unique_until ON {p}sz_unique (until_at)",
    "CREATE TABLE IF NOT EXISTS {p}sz_tag (tag TEXT NOT NULL, jobid INTEGER NOT NULL, PRIMARY KEY (tag, jobid)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_tag_job ON {p}sz_tag (jobid)",
];

/// Columns that a `sz_jobx` made by an earlier version does not have.
pub(crate) const COLUMNS_NEW: [Column; 8] = [
    ("backoff", "TEXT", "VARCHAR(255) CHARACTER SET ascii"),
    ("timeout_s", "INTEGER", "BIGINT UNSIGNED"),
    ("keep_exit", "INTEGER", "BIGINT UNSIGNED"),
    ("deadline", "INTEGER", "BIGINT UNSIGNED"),
    ("fence", "INTEGER", "BIGINT UNSIGNED"),
    ("stop", "INTEGER", "BIGINT UNSIGNED"),
    (
        "tenant",
        "TEXT",
        "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    ),
    ("cost", "INTEGER", "INT UNSIGNED"),
];
/// Ends the walk of the runs that take too long; made once the columns are there.
pub(crate) const DEADLINE_INDEX: &str = "{p}sz_jobx_deadline ON {p}sz_jobx (deadline)";

pub(crate) const MYSQL: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_jobx (jobid BIGINT UNSIGNED NOT NULL PRIMARY KEY, funcid INT UNSIGNED NOT NULL, parked TINYINT UNSIGNED NOT NULL, \
     due BIGINT UNSIGNED NOT NULL, ckey VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, blocks TINYINT UNSIGNED NOT NULL, \
     rkey VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, batch BIGINT UNSIGNED, deps_left INT UNSIGNED NOT NULL, max_attempts INT UNSIGNED, \
     expires_at BIGINT UNSIGNED, backoff VARCHAR(255) CHARACTER SET ascii, timeout_s BIGINT UNSIGNED, keep_exit BIGINT UNSIGNED, deadline BIGINT UNSIGNED, \
     fence BIGINT UNSIGNED, stop BIGINT UNSIGNED, tenant VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, cost INT UNSIGNED, INDEX (ckey, parked, deps_left, jobid), INDEX (rkey, parked, deps_left, jobid), INDEX (parked, jobid), INDEX (expires_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_limit (k VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, jobs INT UNSIGNED NOT NULL, \
     per BIGINT UNSIGNED NOT NULL, tat BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_edge (parent BIGINT UNSIGNED NOT NULL, child BIGINT UNSIGNED NOT NULL, on_death TINYINT UNSIGNED NOT NULL, \
     state VARCHAR(12) NOT NULL, PRIMARY KEY (parent, child), INDEX (child)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_batch (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, parent BIGINT UNSIGNED, jobs BIGINT UNSIGNED NOT NULL, \
     done BIGINT UNSIGNED NOT NULL, failed BIGINT UNSIGNED NOT NULL, is_open TINYINT UNSIGNED NOT NULL, created_at BIGINT UNSIGNED NOT NULL, \
     finished_at BIGINT UNSIGNED, on_success LONGTEXT CHARACTER SET utf8mb4, on_death LONGTEXT CHARACTER SET utf8mb4, on_complete LONGTEXT CHARACTER SET utf8mb4, \
     INDEX (finished_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_unique (ukey CHAR(32) CHARACTER SET ascii NOT NULL PRIMARY KEY, jobid BIGINT UNSIGNED NOT NULL, \
     until_at BIGINT UNSIGNED NOT NULL, states TINYINT UNSIGNED NOT NULL, INDEX (until_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_tag (tag VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, jobid BIGINT UNSIGNED NOT NULL, \
     PRIMARY KEY (tag, jobid), INDEX (jobid)) ENGINE=InnoDB",
];

/// A finished batch answers for a week.
const BATCH_SECONDS: u64 = 7 * 86_400;

/// Jobs that became ready by a transaction, by function: who waits for them is told after the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Effects(BTreeMap<u32, u64>);

impl Effects {
    pub(crate) fn ready(&mut self, funcid: u32) {
        *self.0.entry(funcid).or_default() += 1;
    }
}

/// A row of `sz_jobx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wide {
    pub(crate) funcid: u32,
    pub(crate) parked: u32,
    pub(crate) due: u64,
    pub(crate) ckey: Option<String>,
    pub(crate) blocks: bool,
    pub(crate) rkey: Option<String>,
    pub(crate) batch: Option<u64>,
    pub(crate) deps_left: u32,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout_s: Option<u64>,
    pub(crate) keep: Option<u64>,
    pub(crate) tenant: Option<Tenant>,
}

const ROW: &str = "SELECT funcid, parked, due, ckey, blocks, rkey, batch, deps_left, max_attempts, backoff, timeout_s, keep_exit, tenant, cost FROM {p}sz_jobx WHERE jobid = ?";

fn row_of(row: &ibex_sql::Row) -> Result<Wide, Error> {
    Ok(Wide {
        funcid: row.get(0)?,
        parked: row.get(1)?,
        due: row.get(2)?,
        ckey: row.get(3)?,
        blocks: row.get::<u32>(4)? != 0,
        rkey: row.get(5)?,
        batch: row.get(6)?,
        deps_left: row.get(7)?,
        max_attempts: row.get(8)?,
        backoff: row
            .get::<Option<String>>(9)?
            .and_then(|text| Backoff::parse(&text)),
        timeout_s: row.get(10)?,
        keep: row.get(11)?,
        tenant: match row.get::<Option<String>>(12)? {
            Some(key) => Some(Tenant {
                key,
                cost: row.get::<Option<u32>>(13)?.unwrap_or(1),
            }),
            None => None,
        },
    })
}

/// The job's row, locked until the transaction ends.
pub(crate) async fn read(work: &mut Work<'_>, jobid: u64) -> Result<Option<Wide>, Error> {
    let lock = work.engine().pick("", " FOR UPDATE");
    match work
        .query_one(&format!("{ROW}{lock}"), params![jobid])
        .await?
    {
        Some(row) => row_of(&row).map(Some),
        None => Ok(None),
    }
}

/// One parent of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// Which.
    pub handle: Handle,
    /// `pending`, `completed`, `failed`, `cancelled` or `expired`.
    pub state: String,
    /// What its complete left; kept at least until this job is over.
    pub result: Option<Bytes>,
}

/// What is known of a pending job beyond its classic row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WideStatus {
    /// Its turn has not come.
    pub is_parked: bool,
    /// Its true time, epoch seconds, while it is parked.
    pub due: u64,
    /// Its concurrency key.
    pub concurrency: Option<String>,
    /// Its rate key.
    pub rate: Option<String>,
    /// Its batch.
    pub batch: Option<Handle>,
    /// Runs it may have.
    pub max_attempts: Option<u32>,
    /// Delays between its runs.
    pub backoff: Option<Backoff>,
    /// Seconds of one run, heartbeats or not.
    pub timeout_s: Option<u64>,
    /// Seconds its exit status is kept.
    pub keep_exit_status_for: Option<u64>,
    /// Words to find it by, in order.
    pub tags: Vec<String>,
    /// Whose it is, and what it costs.
    pub tenant: Option<(String, u32)>,
    /// Jobs that must be over before it.
    pub parents: Vec<ParentStatus>,
}

impl Database {
    /// What is kept beyond the classic row of a pending job; `None` for jobs that asked for nothing.
    pub(crate) async fn wide_status(&self, jobid: u64) -> Result<Option<WideStatus>, Error> {
        if !self.has_side() {
            return Ok(None);
        }
        let rows = self.query(ROW, params![jobid]).await?;
        let wide = match rows.first() {
            Some(row) => row_of(row)?,
            None => return Ok(None),
        };
        Ok(Some(WideStatus {
            is_parked: wide.parked == WAITING,
            due: wide.due,
            concurrency: wide.ckey,
            rate: wide.rkey,
            batch: wide.batch.map(|id| Handle::new(self.hash(), id)),
            max_attempts: wide.max_attempts,
            backoff: wide.backoff,
            timeout_s: wide.timeout_s,
            keep_exit_status_for: wide.keep,
            tags: self.tags(jobid).await?,
            tenant: wide.tenant.map(|tenant| (tenant.key, tenant.cost)),
            parents: self.parents(jobid).await?,
        }))
    }

    /// The parents of a job with what they left, until the job is over.
    pub(crate) async fn parents(&self, jobid: u64) -> Result<Vec<ParentStatus>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let rows = self
            .query(
                "SELECT e.parent, e.state, r.result FROM {p}sz_edge e LEFT JOIN {p}sz_result r ON r.jobid = e.parent WHERE e.child = ? ORDER BY e.parent",
                params![jobid],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ParentStatus {
                    handle: Handle::new(self.hash(), row.get(0)?),
                    state: row.get(1)?,
                    result: row.get(2)?,
                })
            })
            .collect()
    }

    /// Gives a job that waits for its turn another time; `false` when it does not wait.
    pub(crate) async fn change_parked(&self, jobid: u64, when: When) -> Result<bool, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(false);
        }
        let (due, time) = match when {
            When::Now => (":now + ?", 0),
            When::In(seconds) => (":now + ?", seconds),
            When::At(epoch) => ("?", epoch),
        };
        let waits = self
            .query(
                "SELECT jobid FROM {p}sz_jobx WHERE jobid = ? AND parked = 1",
                params![jobid],
            )
            .await?;
        if waits.is_empty() {
            return Ok(false);
        }
        let scope = self.scope();
        let effects = self
            .db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move {
                    let (mut work, mut effects) = (scope.on(tx), Effects::default());
                    work.execute(
                        &format!(
                            "UPDATE {{p}}sz_jobx SET due = {due} WHERE jobid = ? AND parked = 1"
                        ),
                        params![time, jobid],
                    )
                    .await?;
                    admit::admit_job(&mut work, jobid, &mut effects).await?;
                    Ok::<_, Error>(effects)
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(true)
    }

    /// One chunk of what finished batches, closed windows and jobs that are no more left.
    pub(crate) async fn clean_wide(&self, rows_max: u32) -> Result<u64, Error> {
        let chunk = |table: &str, key: &str, condition: &str| match self.engine() {
            Engine::Sqlite => format!(
                "DELETE FROM {{p}}{table} WHERE {key} IN (SELECT {key} FROM {{p}}{table} WHERE {condition} LIMIT ?)"
            ),
            Engine::MySql => format!("DELETE FROM {{p}}{table} WHERE {condition} LIMIT ?"),
        };
        let statements = [
            chunk(
                "note",
                "rowid",
                "notekey IN ('sz.meta', 'sz.progress', 'sz.trace') AND NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.jobid = {p}note.jobid)",
            ),
            match self.engine() {
                Engine::Sqlite => "DELETE FROM {p}sz_tag WHERE (tag, jobid) IN (SELECT tag, jobid FROM {p}sz_tag t \
                     WHERE NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.jobid = t.jobid) LIMIT ?)"
                    .to_owned(),
                Engine::MySql => chunk(
                    "sz_tag",
                    "jobid",
                    "NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.jobid = {p}sz_tag.jobid)",
                ),
            },
            chunk(
                "sz_jobx",
                "jobid",
                "parked = 2 AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = {p}sz_jobx.jobid)",
            ),
            chunk(
                "sz_tenant",
                "jobid",
                "NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = {p}sz_tenant.jobid)",
            ),
            chunk(
                "sz_batch",
                "id",
                &format!("finished_at < :now - {BATCH_SECONDS}"),
            ),
            chunk("sz_unique", "ukey", "until_at > 0 AND until_at <= :now"),
            chunk(
                "sz_unique",
                "ukey",
                "until_at = 0 AND NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = {p}sz_unique.jobid)",
            ),
            chunk(
                "sz_limit",
                "k",
                "tat < :now * 1000000 AND NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.ckey = SUBSTR({p}sz_limit.k, 3)) \
                 AND NOT EXISTS (SELECT 1 FROM {p}sz_jobx x WHERE x.rkey = SUBSTR({p}sz_limit.k, 3))",
            ),
        ];
        let mut count = 0;
        for statement in statements {
            count += self
                .execute(&statement, params![rows_max])
                .await?
                .rows_affected;
        }
        Ok(count)
    }

    /// Tells those who wait in this process what became ready.
    pub(crate) async fn tell(&self, effects: &Effects) {
        for (funcid, jobs) in &effects.0 {
            // Without a name nobody waits for it.
            if let Ok(Some(name)) = self.funcname(*funcid).await {
                self.stir().add(&name, *jobs);
            }
        }
    }
}
