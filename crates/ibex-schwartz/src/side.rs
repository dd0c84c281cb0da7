//! Our own tables beside the classic ones: full texts of failures, the count of runs, jobs that ended without success, results, periodic jobs.
//!
//! Apart because a database may not allow them: then every call works as the original's does, and what is kept here is not. Perl programs
//! know nothing of these tables and are not disturbed by them. Names start with `sz_` after the prefix.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::finish::Fence;
use crate::handle::Handle;
use crate::list;
use crate::once;
use crate::relay;
use crate::settings::{self, Retain};
use crate::tenant;
use crate::wide::{self, Effects};
use crate::workers;
use bytes::Bytes;
use ibex_sql::{Db, Engine, params};

/// Texts of jobs that are no more are kept for this long.
const RETAIN_TEXTS_SECONDS: u64 = 30 * 86_400;
/// Characters of a failure's full text.
const TEXT_CHARS_MAX: usize = 65_536;
/// Rows of one cleaning statement, at most.
const CLEAN_ROWS_MAX: u32 = 1000;

const SQLITE: [&str; 15] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_attempt (jobid INTEGER NOT NULL, attempt INTEGER NOT NULL, ended_at INTEGER NOT NULL, message TEXT NOT NULL, \
     PRIMARY KEY (jobid, attempt)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_attempt_ended ON {p}sz_attempt (ended_at)",
    "CREATE TABLE IF NOT EXISTS {p}sz_done (jobid INTEGER PRIMARY KEY NOT NULL, funcid INTEGER NOT NULL, state TEXT NOT NULL, arg BLOB, uniqkey TEXT, coalesce TEXT, \
     priority INTEGER, finished_at INTEGER NOT NULL, attempts INTEGER NOT NULL, delete_after INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS {p}sz_done_after ON {p}sz_done (delete_after)",
    "CREATE INDEX IF NOT EXISTS {p}sz_done_state ON {p}sz_done (state, funcid)",
    "CREATE TABLE IF NOT EXISTS {p}sz_cron (name TEXT PRIMARY KEY NOT NULL, spec TEXT NOT NULL, zone TEXT NOT NULL, catch_up TEXT NOT NULL, \
     template TEXT NOT NULL, next_at INTEGER NOT NULL, last_at INTEGER) STRICT",
    "CREATE INDEX IF NOT EXISTS {p}sz_cron_next ON {p}sz_cron (next_at)",
    "CREATE TABLE IF NOT EXISTS {p}sz_meta (k TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL, until_at INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS {p}sz_lease (id INTEGER PRIMARY KEY NOT NULL, until_at INTEGER NOT NULL, jobids TEXT NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS {p}sz_lease_until ON {p}sz_lease (until_at)",
    "CREATE TABLE IF NOT EXISTS {p}sz_func (funcid INTEGER PRIMARY KEY NOT NULL, paused_until INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS {p}sz_parked (funcid INTEGER NOT NULL, jobid INTEGER NOT NULL, run_after INTEGER NOT NULL, PRIMARY KEY (funcid, jobid)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_parked_job ON {p}sz_parked (jobid)",
    "CREATE TABLE IF NOT EXISTS {p}sz_result (jobid INTEGER PRIMARY KEY NOT NULL, result BLOB NOT NULL, delete_after INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS {p}sz_past (jobid INTEGER NOT NULL, n INTEGER NOT NULL, ended_at INTEGER NOT NULL, message TEXT NOT NULL, PRIMARY KEY (jobid, n)) STRICT, WITHOUT ROWID",
];

const MYSQL: [&str; 9] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_attempt (jobid BIGINT UNSIGNED NOT NULL, attempt INT UNSIGNED NOT NULL, ended_at BIGINT UNSIGNED NOT NULL, \
     message MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, PRIMARY KEY (jobid, attempt), INDEX (ended_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_done (jobid BIGINT UNSIGNED NOT NULL PRIMARY KEY, funcid INT UNSIGNED NOT NULL, state VARCHAR(12) NOT NULL, arg MEDIUMBLOB, \
     uniqkey VARCHAR(255), coalesce VARCHAR(255), priority SMALLINT UNSIGNED, finished_at BIGINT UNSIGNED NOT NULL, attempts INT UNSIGNED NOT NULL, \
     delete_after BIGINT UNSIGNED NOT NULL, INDEX (delete_after), INDEX (state, funcid)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_cron (name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, spec VARCHAR(255) NOT NULL, \
     zone VARCHAR(64) NOT NULL, catch_up VARCHAR(8) NOT NULL, template MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, next_at BIGINT NOT NULL, last_at BIGINT, \
     INDEX (next_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_meta (k VARCHAR(64) NOT NULL PRIMARY KEY, v VARCHAR(255) NOT NULL, until_at BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_lease (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, until_at BIGINT UNSIGNED NOT NULL, \
     jobids MEDIUMTEXT CHARACTER SET ascii NOT NULL, INDEX (until_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_func (funcid INT UNSIGNED NOT NULL PRIMARY KEY, paused_until BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_parked (funcid INT UNSIGNED NOT NULL, jobid BIGINT UNSIGNED NOT NULL, run_after BIGINT UNSIGNED NOT NULL, \
     PRIMARY KEY (funcid, jobid), INDEX (jobid)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_result (jobid BIGINT UNSIGNED NOT NULL PRIMARY KEY, result MEDIUMBLOB NOT NULL, delete_after BIGINT UNSIGNED NOT NULL, \
     INDEX (delete_after)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {p}sz_past (jobid BIGINT UNSIGNED NOT NULL, n INT UNSIGNED NOT NULL, ended_at BIGINT UNSIGNED NOT NULL, \
     message MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, PRIMARY KEY (jobid, n)) ENGINE=InnoDB",
];

/// A job that ended without success and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub handle: Handle,
    /// The function.
    pub funcname: String,
    /// `failed`, `cancelled`, `expired`, or `completed` where those are kept.
    pub state: String,
    /// Runs it had.
    pub attempts: u32,
    /// Epoch seconds.
    pub finished_at: u64,
}

/// Makes the tables; `false` when the database does not allow it.
pub(crate) async fn create(db: &Db, prefix: &str) -> Result<bool, Error> {
    let lists: [&[&str]; 7] = match db.engine() {
        Engine::Sqlite => [
            &SQLITE,
            &wide::SQLITE,
            &[settings::SQLITE],
            &relay::SQLITE,
            &once::SQLITE,
            &workers::SQLITE,
            &tenant::SQLITE,
        ],
        Engine::MySql => [
            &MYSQL,
            &wide::MYSQL,
            &[settings::MYSQL],
            &relay::MYSQL,
            &once::MYSQL,
            &workers::MYSQL,
            &tenant::MYSQL,
        ],
    };
    for statement in lists.into_iter().flatten() {
        match db
            .execute(statement.replace("{p}", prefix), params![])
            .await
        {
            Ok(_) => {}
            Err(error) if error.is_connection_lost() => return Err(error.into()),
            Err(error) => {
                tracing::info!(database = %db.config(), error = %error, "own tables cannot be made, classic work goes on without them");
                return Ok(false);
            }
        }
    }
    widen(db, prefix).await
}

/// A column by its name, its type in SQLite and its type in MySQL.
pub(crate) type Column = (&'static str, &'static str, &'static str);

/// Adds what tables made by earlier versions do not have; `false` when the database does not allow it.
async fn widen(db: &Db, prefix: &str) -> Result<bool, Error> {
    let tables: [(&str, &[Column]); 2] = [
        ("sz_jobx", &wide::COLUMNS_NEW),
        ("sz_funcset", &settings::COLUMNS_NEW),
    ];
    for (table, columns) in tables {
        let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
        let probe = format!("SELECT {} FROM {prefix}{table} LIMIT 1", names.join(", "));
        if db.query(&probe, params![]).await.is_ok() {
            continue;
        }
        for (name, sqlite, mysql) in columns {
            let kind = db.engine().pick(sqlite, mysql);
            let sql = format!("ALTER TABLE {prefix}{table} ADD COLUMN {name} {kind}");
            if let Err(error) = db.execute(sql, params![]).await {
                // Another program adds them at this moment, or some are there: the probe decides.
                tracing::debug!(database = %db.config(), error = %error, "column not added");
            }
        }
        match db.query(&probe, params![]).await {
            Ok(_) => {}
            Err(error) if error.is_connection_lost() => return Err(error.into()),
            Err(error) => {
                tracing::info!(database = %db.config(), error = %error, "own tables are of an earlier version, classic work goes on without them");
                return Ok(false);
            }
        }
    }
    let exists = db.engine().pick("IF NOT EXISTS ", "");
    let index = wide::DEADLINE_INDEX.replace("{p}", prefix);
    match db
        .execute(format!("CREATE INDEX {exists}{index}"), params![])
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.is_connection_lost() => Err(error.into()),
        // It is there already, or may not be made: then the walk is longer.
        Err(_) => Ok(true),
    }
}

/// Notes a failed run with its full text, and answers how many runs the job has had: rows of `error` are cleaned after a week and must not
/// make a job immortal.
pub(crate) async fn failed_run(
    work: &mut Work<'_>,
    fence: Fence,
    message: &str,
    errors: u32,
) -> Result<u32, Error> {
    let recorded: Option<u32> = match work
        .query_one(
            "SELECT MAX(attempt) FROM {p}sz_attempt WHERE jobid = ?",
            params![fence.jobid],
        )
        .await?
    {
        Some(row) => row.get(0)?,
        None => None,
    };
    let attempt = errors.max(recorded.unwrap_or(0) + 1);
    let text: String = message.chars().take(TEXT_CHARS_MAX).collect();
    work.execute(
        "INSERT INTO {p}sz_attempt (jobid, attempt, ended_at, message) VALUES (?, ?, :now, ?)",
        params![fence.jobid, attempt, text],
    )
    .await?;
    Ok(attempt)
}

/// Keeps the row that is about to go.
pub(crate) async fn keep(
    work: &mut Work<'_>,
    jobid: u64,
    state: &str,
    attempts: u32,
) -> Result<(), Error> {
    let mut retain = Retain::default();
    if !work.settings().is_empty() {
        let row = work
            .query_one("SELECT funcid FROM {p}job WHERE jobid = ?", params![jobid])
            .await?;
        if let Some(row) = row {
            retain = work.settings().retain(row.get(0)?);
        }
    }
    let attempts = if state == "completed" {
        let failed = work
            .query_one(
                "SELECT COALESCE(MAX(attempt), 0) FROM {p}sz_attempt WHERE jobid = ?",
                params![jobid],
            )
            .await?;
        failed.map_or(Ok(0), |row| row.get::<u32>(0))? + 1
    } else {
        attempts
    };
    let retain = match state {
        "completed" => retain.completed,
        "cancelled" | "expired" => retain.cancelled,
        _ => retain.failed,
    };
    work.execute(
        "REPLACE INTO {p}sz_done (jobid, funcid, state, arg, uniqkey, coalesce, priority, finished_at, attempts, delete_after) \
         SELECT jobid, funcid, ?, arg, uniqkey, coalesce, priority, :now, ?, :now + ? FROM {p}job WHERE jobid = ?",
        params![state, attempts, retain, jobid],
    )
    .await?;
    Ok(())
}

/// Puts a kept job back as if it were new, under its old number.
async fn revive(work: &mut Work<'_>, jobid: u64, effects: &mut Effects) -> Result<(), Error> {
    let back = work
        .execute(
            "INSERT INTO {p}job (jobid, funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) \
             SELECT jobid, funcid, arg, uniqkey, coalesce, priority, :now, :now, 0 FROM {p}sz_done WHERE jobid = ?",
            params![jobid],
        )
        .await;
    match back {
        Ok(done) if done.rows_affected == 1 => {}
        Ok(_) => return Err(Error::NotFound(jobid)),
        Err(Error::Sql(error)) if error.is_unique_violation() => return Err(Error::Duplicate),
        Err(error) => return Err(error),
    }
    bygone(work, jobid).await?;
    // Its failures would count against its new life.
    for table in ["sz_done", "sz_attempt", "sz_result", "error", "exitstatus"] {
        work.execute(
            &format!("DELETE FROM {{p}}{table} WHERE jobid = ?"),
            params![jobid],
        )
        .await?;
    }
    wide::revived(work, jobid, effects).await
}

/// Moves a job's failures to its past: they are shown, and count no more.
async fn bygone(work: &mut Work<'_>, jobid: u64) -> Result<(), Error> {
    let row = work
        .query_one(
            "SELECT COALESCE(MAX(n), 0) FROM {p}sz_past WHERE jobid = ?",
            params![jobid],
        )
        .await?;
    let mut n: u64 = row.map_or(Ok(0), |row| row.get(0))?;
    let mut failures = Vec::new();
    for row in work
        .query("SELECT error_time, jobid, message, funcid FROM {p}error WHERE jobid = ? ORDER BY error_time", params![jobid])
        .await?
    {
        failures.push(list::failure(&row)?);
    }
    let mut texts = Vec::new();
    for row in work
        .query(
            "SELECT attempt, ended_at, message FROM {p}sz_attempt WHERE jobid = ? ORDER BY attempt",
            params![jobid],
        )
        .await?
    {
        texts.push((row.get(0)?, row.get(1)?, row.get(2)?));
    }
    // Errors are cleaned after a week; then the texts are all there is.
    let mut past: Vec<(u64, String)> = if failures.len() >= texts.len() {
        list::with_texts(&mut failures, &texts);
        failures
            .into_iter()
            .map(|failure| (failure.time, failure.message))
            .collect()
    } else {
        texts
            .into_iter()
            .map(|(_, time, message): (u32, u64, String)| (time, message))
            .collect()
    };
    let sets = past
        .drain(..)
        .map(|(time, message)| {
            n += 1;
            params![jobid, n, time, message]
        })
        .collect();
    work.execute_each(
        "INSERT INTO {p}sz_past (jobid, n, ended_at, message) VALUES (?, ?, ?, ?)",
        sets,
    )
    .await?;
    Ok(())
}

/// Keeps what a job resulted in for `keep` seconds.
pub(crate) async fn keep_result(
    work: &mut Work<'_>,
    jobid: u64,
    result: &Bytes,
    keep: u64,
) -> Result<(), Error> {
    work.execute(
        "REPLACE INTO {p}sz_result (jobid, result, delete_after) VALUES (?, ?, :now + ?)",
        params![jobid, result, keep],
    )
    .await?;
    Ok(())
}

impl Database {
    pub(crate) async fn retry(&self, jobid: u64) -> Result<(), Error> {
        self.db().await?;
        if !self.has_side() {
            return Err(Error::NotFound(jobid));
        }
        let scope = self.scope();
        let effects = self
            .db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move {
                    let mut effects = Effects::default();
                    revive(&mut scope.on(tx), jobid, &mut effects).await?;
                    Ok::<_, Error>(effects)
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(())
    }

    /// What is kept of a job that ended without success.
    pub(crate) async fn ended(&self, jobid: u64) -> Result<Option<Ended>, Error> {
        if !self.has_side() {
            return Ok(None);
        }
        let rows = self.query("SELECT jobid, funcid, state, attempts, finished_at FROM {p}sz_done WHERE jobid = ?", params![jobid]).await?;
        match rows.first() {
            Some(row) => self.ended_row(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Jobs that ended in `state`, newest first.
    pub(crate) async fn ended_list(
        &self,
        state: &str,
        func: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Ended>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let mut template =
            "SELECT jobid, funcid, state, attempts, finished_at FROM {p}sz_done WHERE state = ?"
                .to_owned();
        let mut params = params![state];
        if let Some(func) = func {
            let Some(id) = self.funcids(&[func.to_owned()]).await?.first().copied() else {
                return Ok(Vec::new());
            };
            template.push_str(" AND funcid = ?");
            params.push(id.into());
        }
        template.push_str(" ORDER BY finished_at DESC, jobid DESC LIMIT ?");
        params.push(limit.into());
        let mut all = Vec::new();
        for row in self.query(&template, params).await? {
            all.push(self.ended_row(&row).await?);
        }
        Ok(all)
    }

    async fn ended_row(&self, row: &ibex_sql::Row) -> Result<Ended, Error> {
        Ok(Ended {
            handle: Handle::new(self.hash(), row.get(0)?),
            funcname: self.funcname(row.get(1)?).await?.unwrap_or_default(),
            state: row.get(2)?,
            attempts: row.get(3)?,
            finished_at: row.get(4)?,
        })
    }

    /// The result a complete left, while it is kept.
    pub(crate) async fn result(&self, jobid: u64) -> Result<Option<Bytes>, Error> {
        if !self.has_side() {
            return Ok(None);
        }
        let rows = self
            .query(
                "SELECT result FROM {p}sz_result WHERE jobid = ? AND delete_after >= :now",
                params![jobid],
            )
            .await?;
        Ok(rows.first().map(|row| row.get(0)).transpose()?)
    }

    /// Failed runs before the job was brought back by hand, oldest first.
    pub(crate) async fn past(&self, jobid: u64) -> Result<Vec<(u64, String)>, Error> {
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let rows = self
            .query(
                "SELECT ended_at, message FROM {p}sz_past WHERE jobid = ? ORDER BY n",
                params![jobid],
            )
            .await?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect()
    }

    /// Full texts of failed runs by number.
    pub(crate) async fn texts(&self, jobid: u64) -> Result<Vec<(u32, u64, String)>, Error> {
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let rows = self.query("SELECT attempt, ended_at, message FROM {p}sz_attempt WHERE jobid = ? ORDER BY attempt", params![jobid]).await?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .collect()
    }

    /// One chunk of kept jobs past their time, and texts of jobs that are no more.
    pub(crate) async fn clean_side(&self) -> Result<u64, Error> {
        if !self.has_side() {
            return Ok(0);
        }
        let (done, texts, results) = match self.engine() {
            Engine::Sqlite => (
                "DELETE FROM {p}sz_done WHERE jobid IN (SELECT jobid FROM {p}sz_done WHERE delete_after < :now LIMIT ?)",
                "DELETE FROM {p}sz_attempt WHERE (jobid, attempt) IN (SELECT jobid, attempt FROM {p}sz_attempt t WHERE ended_at < :now - ? \
                 AND NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = t.jobid) AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = t.jobid) LIMIT ?)",
                "DELETE FROM {p}sz_result WHERE jobid IN (SELECT jobid FROM {p}sz_result r WHERE delete_after < :now \
                 AND NOT EXISTS (SELECT 1 FROM {p}sz_edge e WHERE e.parent = r.jobid) LIMIT ?)",
            ),
            Engine::MySql => (
                "DELETE FROM {p}sz_done WHERE delete_after < :now LIMIT ?",
                "DELETE FROM {p}sz_attempt WHERE ended_at < :now - ? AND NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = {p}sz_attempt.jobid) \
                 AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = {p}sz_attempt.jobid) LIMIT ?",
                "DELETE FROM {p}sz_result WHERE delete_after < :now AND NOT EXISTS (SELECT 1 FROM {p}sz_edge e WHERE e.parent = {p}sz_result.jobid) LIMIT ?",
            ),
        };
        let past = match self.engine() {
            Engine::Sqlite => {
                "DELETE FROM {p}sz_past WHERE (jobid, n) IN (SELECT jobid, n FROM {p}sz_past t WHERE ended_at < :now - ? \
                 AND NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = t.jobid) AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = t.jobid) LIMIT ?)"
            }
            Engine::MySql => {
                "DELETE FROM {p}sz_past WHERE ended_at < :now - ? AND NOT EXISTS (SELECT 1 FROM {p}job j WHERE j.jobid = {p}sz_past.jobid) \
                 AND NOT EXISTS (SELECT 1 FROM {p}sz_done d WHERE d.jobid = {p}sz_past.jobid) LIMIT ?"
            }
        };
        let first = self
            .execute(done, params![CLEAN_ROWS_MAX])
            .await?
            .rows_affected
            + self
                .execute(results, params![CLEAN_ROWS_MAX])
                .await?
                .rows_affected;
        Ok(first
            + self.clean_wide(CLEAN_ROWS_MAX).await?
            + self.clean_relay(CLEAN_ROWS_MAX).await?
            + self.clean_once(CLEAN_ROWS_MAX).await?
            + self.clean_workers(CLEAN_ROWS_MAX).await?
            + self
                .execute(past, params![RETAIN_TEXTS_SECONDS, CLEAN_ROWS_MAX])
                .await?
                .rows_affected
            + self
                .execute(texts, params![RETAIN_TEXTS_SECONDS, CLEAN_ROWS_MAX])
                .await?
                .rows_affected)
    }
}
