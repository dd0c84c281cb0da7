//! The statements of the durable queue, in both dialects.
//!
//! `gearman_jobs`: one row per background job that has not ended; its id is the number in the handle, so the order of ids is the order of submission.
//! Keys, names and
//! workloads are bytes. `gearman_dead`: jobs that were given up. `gearman_quarantine`: rows that could not be read at a start. `gearman_meta`: the
//! first number of the next life. `gearman_owner` (MySQL): the server whose queue it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use ibex_gearman_core::{JobId, StoredJob, StoredSchedule, is_schedule};
use ibex_gearman_proto::{Priority, limits};
use ibex_sql::{Db, Engine, Error, Migration, Row, Tx, Value, params};

use super::{Left, Op, results};
use crate::driver::epoch_ms;

pub(super) const MIGRATIONS: &[Migration] = &[QUEUE, SCHEDULES, OWNER, HEADERS, results::TABLE];

const QUEUE: Migration = Migration {
    version: 1,
    name: "queue",
    sqlite: &[
        "CREATE TABLE gearman_jobs (id INTEGER PRIMARY KEY, function BLOB NOT NULL, unique_key BLOB NOT NULL, priority INTEGER NOT NULL, due_ms INTEGER NOT NULL, \
         attempts INTEGER NOT NULL, created_ms INTEGER NOT NULL, reducer BLOB NOT NULL, workload BLOB NOT NULL)",
        "CREATE TABLE gearman_dead (id INTEGER PRIMARY KEY, function BLOB NOT NULL, unique_key BLOB NOT NULL, priority INTEGER NOT NULL, due_ms INTEGER NOT NULL, \
         attempts INTEGER NOT NULL, created_ms INTEGER NOT NULL, reducer BLOB NOT NULL, workload BLOB NOT NULL, reason BLOB NOT NULL, died_ms INTEGER NOT NULL)",
        "CREATE TABLE gearman_quarantine (id INTEGER PRIMARY KEY, source TEXT NOT NULL, content TEXT NOT NULL, reason TEXT NOT NULL)",
        "CREATE TABLE gearman_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    ],
    mysql: &[
        "CREATE TABLE gearman_jobs (id BIGINT PRIMARY KEY, function VARBINARY(512) NOT NULL, unique_key VARBINARY(64) NOT NULL, priority TINYINT NOT NULL, due_ms BIGINT NOT NULL, \
         attempts INT UNSIGNED NOT NULL, created_ms BIGINT NOT NULL, reducer VARBINARY(64) NOT NULL, workload LONGBLOB NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE gearman_dead (id BIGINT PRIMARY KEY, function VARBINARY(512) NOT NULL, unique_key VARBINARY(64) NOT NULL, priority TINYINT NOT NULL, due_ms BIGINT NOT NULL, \
         attempts INT UNSIGNED NOT NULL, created_ms BIGINT NOT NULL, reducer VARBINARY(64) NOT NULL, workload LONGBLOB NOT NULL, reason VARBINARY(1024) NOT NULL, \
         died_ms BIGINT NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE gearman_quarantine (id BIGINT PRIMARY KEY AUTO_INCREMENT, source VARCHAR(64) NOT NULL, content LONGTEXT NOT NULL, reason TEXT NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE gearman_meta (name VARCHAR(64) PRIMARY KEY, value BIGINT NOT NULL) ENGINE=InnoDB",
    ],
};

/// Recurring jobs; the five fields are joined by blanks, which none of them contains.
const SCHEDULES: Migration = Migration {
    version: 2,
    name: "schedules",
    sqlite: &[
        "CREATE TABLE gearman_schedules (function BLOB NOT NULL, unique_key BLOB NOT NULL, id INTEGER NOT NULL, fields BLOB NOT NULL, next_ms INTEGER NOT NULL, \
         workload BLOB NOT NULL, PRIMARY KEY (function, unique_key))",
    ],
    mysql: &[
        "CREATE TABLE gearman_schedules (function VARBINARY(512) NOT NULL, unique_key VARBINARY(64) NOT NULL, id BIGINT NOT NULL, fields VARBINARY(1024) NOT NULL, \
         next_ms BIGINT NOT NULL, workload LONGBLOB NOT NULL, PRIMARY KEY (function, unique_key)) ENGINE=InnoDB",
    ],
};

/// One row: whose queue it is. SQLite has a file lock for that.
const OWNER: Migration = Migration {
    version: 3,
    name: "owner",
    sqlite: &[],
    mysql: &[
        "CREATE TABLE gearman_owner (id INT PRIMARY KEY, owner VARBINARY(255) NOT NULL, beat BIGINT NOT NULL) ENGINE=InnoDB",
        "INSERT INTO gearman_owner (id, owner, beat) VALUES (1, '', 0)",
    ],
};

/// Headers of jobs as they came.
const HEADERS: Migration = Migration {
    version: 4,
    name: "headers",
    sqlite: &[
        "ALTER TABLE gearman_jobs ADD COLUMN headers BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE gearman_dead ADD COLUMN headers BLOB NOT NULL DEFAULT x''",
    ],
    mysql: &[
        "ALTER TABLE gearman_jobs ADD COLUMN headers VARBINARY(4096) NOT NULL DEFAULT ''",
        "ALTER TABLE gearman_dead ADD COLUMN headers VARBINARY(4096) NOT NULL DEFAULT ''",
    ],
};

const COLUMNS: &str =
    "id, function, unique_key, priority, due_ms, attempts, created_ms, reducer, workload, headers";
/// Rows read at once at a start.
const LOAD_ROWS: i64 = 5000;
/// At a start workloads larger than this stay in the store until their turn comes; so do smaller ones when memory has its share, down to the second.
const LOAD_BYTES_MAX: u32 = 4096;
const LOAD_BYTES_MIN: u32 = 256;
/// Rows of one statement on MySQL, where each statement is a round trip.
const ROWS_PER_STATEMENT: usize = 64;

pub(super) fn number(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

fn row_of(job: &StoredJob) -> Vec<Value> {
    params![
        number(job.id),
        job.function.to_vec(),
        job.unique.to_vec(),
        i64::try_from(job.priority.index()).unwrap_or(1),
        i64::try_from(job.due_ms).unwrap_or(i64::MAX),
        i64::from(job.attempts),
        i64::try_from(epoch_ms()).unwrap_or(i64::MAX),
        job.reducer.to_vec(),
        job.workload.to_vec(),
        job.headers.to_vec(),
    ]
}

/// Stores jobs; a row that is there already is replaced.
pub(super) async fn insert(tx: &mut Tx, jobs: &[StoredJob]) -> Result<(), Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    let values = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    if tx.engine() == Engine::Sqlite {
        let rows = jobs.iter().map(row_of).collect();
        tx.execute_each(
            format!("REPLACE INTO gearman_jobs ({COLUMNS}) VALUES {values}"),
            rows,
        )
        .await?;
        return Ok(());
    }
    for part in jobs.chunks(ROWS_PER_STATEMENT) {
        let all = vec![values; part.len()].join(", ");
        let row = part.iter().flat_map(row_of).collect();
        tx.execute(
            format!("REPLACE INTO gearman_jobs ({COLUMNS}) VALUES {all}"),
            row,
        )
        .await?;
    }
    Ok(())
}

/// Dead jobs as they were when they were submitted, but due at once.
pub(super) async fn revive(tx: &mut Tx, jobs: &[JobId]) -> Result<(), Error> {
    for job in jobs {
        let sql = format!(
            "REPLACE INTO gearman_jobs ({COLUMNS}) \
             SELECT id, function, unique_key, priority, 0, 0, created_ms, reducer, workload, headers FROM gearman_dead WHERE id = ?"
        );
        tx.execute(sql, params![number(*job)]).await?;
    }
    delete(tx, "gearman_dead", jobs).await
}

pub(super) async fn note_attempts(
    tx: &mut Tx,
    attempts: &BTreeMap<JobId, (u32, u64)>,
) -> Result<(), Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    let rows = attempts
        .iter()
        .map(|(job, (attempts, due_ms))| {
            params![
                i64::from(*attempts),
                i64::try_from(*due_ms).unwrap_or(i64::MAX),
                number(*job)
            ]
        })
        .collect();
    tx.execute_each(
        "UPDATE gearman_jobs SET attempts = ?, due_ms = ? WHERE id = ?",
        rows,
    )
    .await?;
    Ok(())
}

pub(super) async fn bury(tx: &mut Tx, burials: &[(JobId, u32, Bytes)]) -> Result<(), Error> {
    for (job, attempts, reason) in burials {
        let died_ms = i64::try_from(epoch_ms()).unwrap_or(i64::MAX);
        let sql = "REPLACE INTO gearman_dead (id, function, unique_key, priority, due_ms, attempts, created_ms, reducer, workload, headers, reason, died_ms) \
                   SELECT id, function, unique_key, priority, due_ms, ?, created_ms, reducer, workload, headers, ?, ? FROM gearman_jobs WHERE id = ?";
        tx.execute(
            sql,
            params![i64::from(*attempts), reason.to_vec(), died_ms, number(*job)],
        )
        .await?;
        tx.execute(
            "DELETE FROM gearman_jobs WHERE id = ?",
            params![number(*job)],
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn forget(tx: &mut Tx, jobs: &[JobId]) -> Result<(), Error> {
    delete(tx, "gearman_jobs", jobs).await?;
    delete(tx, "gearman_dead", jobs).await
}

/// What was asked of recurring jobs, in order; there are few.
pub(super) async fn schedule(tx: &mut Tx, ops: &[Op]) -> Result<(), Error> {
    for op in ops {
        let (sql, values) = match op {
            Op::KeepSchedule(s) | Op::RestoreSchedule(s) => (
                "REPLACE INTO gearman_schedules (function, unique_key, id, fields, next_ms, workload) VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    s.function.to_vec(),
                    s.unique.to_vec(),
                    number(s.id),
                    s.fields.join(&b' '),
                    i64::try_from(s.next_ms).unwrap_or(i64::MAX),
                    s.workload.to_vec()
                ],
            ),
            Op::MoveSchedule {
                function,
                unique,
                next_ms,
            } => (
                "UPDATE gearman_schedules SET next_ms = ? WHERE function = ? AND unique_key = ?",
                params![
                    i64::try_from(*next_ms).unwrap_or(i64::MAX),
                    function.to_vec(),
                    unique.to_vec()
                ],
            ),
            Op::DropSchedule { function, unique } => (
                "DELETE FROM gearman_schedules WHERE function = ? AND unique_key = ?",
                params![function.to_vec(), unique.to_vec()],
            ),
            Op::Persist(_)
            | Op::Revive(_)
            | Op::KeepResult(_)
            | Op::ForgetResult(_)
            | Op::Attempt { .. }
            | Op::Forget(_)
            | Op::Bury { .. } => continue,
        };
        tx.execute(sql, values).await?;
    }
    Ok(())
}

async fn load_schedules(db: &Db, left: &mut Left) -> Result<i64, Error> {
    let sql = "SELECT id, function, unique_key, fields, next_ms, workload FROM gearman_schedules ORDER BY id";
    let mut last = 0;
    for row in db.query(sql, Vec::new()).await? {
        last = last.max(row.get::<i64>(0)?);
        match read_schedule(&row)? {
            Some(schedule) => left.schedules.push(schedule),
            None => {
                left.quarantined += 1;
                let (function, unique) = (row.get::<Bytes>(1)?, row.get::<Bytes>(2)?);
                tracing::warn!(function = %function.escape_ascii(), "recurring job that makes no sense moved to gearman_quarantine");
                db.execute(
                    "INSERT INTO gearman_quarantine (source, content, reason) VALUES (?, ?, ?)",
                    params![
                        "gearman_schedules",
                        format!("{:?}", row.values()),
                        "fields make no sense"
                    ],
                )
                .await?;
                db.execute(
                    "DELETE FROM gearman_schedules WHERE function = ? AND unique_key = ?",
                    params![function.to_vec(), unique.to_vec()],
                )
                .await?;
            }
        }
    }
    Ok(last)
}

fn read_schedule(row: &Row) -> Result<Option<StoredSchedule>, Error> {
    let text: Bytes = row.get(3)?;
    let fields: Vec<Bytes> = text
        .split(|b| *b == b' ')
        .map(|field| text.slice_ref(field))
        .collect();
    let (Ok(id), Ok(fields)) = (u64::try_from(row.get::<i64>(0)?), fields.try_into()) else {
        return Ok(None);
    };
    let (function, unique): (Bytes, Bytes) = (row.get(1)?, row.get(2)?);
    if !is_schedule(&fields) || !are_names(&function, &unique) {
        return Ok(None);
    }
    Ok(Some(StoredSchedule {
        id: JobId(id),
        function,
        unique,
        fields,
        next_ms: u64::try_from(row.get::<i64>(4)?).unwrap_or(0),
        workload: row.get(5)?,
    }))
}

pub(super) async fn delete(tx: &mut Tx, table: &str, jobs: &[JobId]) -> Result<(), Error> {
    for part in jobs.chunks(ROWS_PER_STATEMENT) {
        let marks = vec!["?"; part.len()].join(", ");
        let ids = part.iter().map(|job| Value::Int(number(*job))).collect();
        tx.execute(format!("DELETE FROM {table} WHERE id IN ({marks})"), ids)
            .await?;
    }
    Ok(())
}

/// The columns of a row whose workload is read only if it is the key, or has no more bytes than that; then its size.
fn columns_to_load(bytes_max: u32) -> String {
    let workload = format!(
        "CASE WHEN unique_key = x'2d' OR LENGTH(workload) <= {bytes_max} THEN workload ELSE x'' END"
    );
    let columns = COLUMNS.replace("workload", &workload);
    format!("{columns}, LENGTH(workload)")
}

/// Reads what an earlier life left, of workloads about `resident_max` bytes, and reserves `numbers` job numbers behind everything that was ever given out.
pub(super) async fn load(db: &Db, numbers: u64, resident_max: u64) -> Result<Left, Error> {
    let mut left = Left::default();
    let (mut last, mut resident) = (0, 0);
    for (table, extra) in [("gearman_jobs", ""), ("gearman_dead", ", reason")] {
        let is_dead = !extra.is_empty();
        let mut after = i64::MIN;
        loop {
            let bytes_max = match resident < resident_max {
                _ if is_dead => LOAD_BYTES_MIN,
                true => LOAD_BYTES_MAX,
                false => LOAD_BYTES_MIN,
            };
            let columns = columns_to_load(bytes_max);
            let sql = format!(
                "SELECT {columns}{extra} FROM {table} WHERE id > ? ORDER BY id LIMIT {LOAD_ROWS}"
            );
            let rows = db.query(sql, params![after]).await?;
            let Some(end) = rows.last() else { break };
            after = end.get::<i64>(0)?;
            for row in &rows {
                let len = row
                    .get::<i64>(10)
                    .ok()
                    .and_then(|len| u32::try_from(len).ok());
                let len = len.unwrap_or_default();
                match (read(row), is_dead) {
                    (Ok(job), false) => {
                        resident += job.workload.len() as u64;
                        let is_away = job.workload.len() < len as usize;
                        left.jobs.push((job, is_away.then_some(len)));
                    }
                    (Ok(job), true) => {
                        let reason = row.get::<Bytes>(11).unwrap_or_default();
                        left.dead.push((job, len, reason));
                    }
                    (Err(error), _) => {
                        quarantine(db, table, row, &error).await?;
                        left.quarantined += 1;
                    }
                }
            }
        }
        last = last.max(after.max(0));
    }
    last = last.max(load_schedules(db, &mut left).await?);
    left.results = results::load(db).await?;
    let kept = db
        .query_one(
            "SELECT value FROM gearman_meta WHERE name = ?",
            params!["next_job"],
        )
        .await?;
    let kept: i64 = kept.map(|row| row.get(0)).transpose()?.unwrap_or(1);
    left.first_job = u64::try_from(kept.max(last.saturating_add(1))).unwrap_or(1);
    let next = i64::try_from(left.first_job.saturating_add(numbers)).unwrap_or(i64::MAX);
    db.execute(
        "REPLACE INTO gearman_meta (name, value) VALUES (?, ?)",
        params!["next_job", next],
    )
    .await?;
    Ok(left)
}

/// Whether they are no longer than the protocol lets them be: a file of SQLite holds whatever was written into it.
fn are_names(function: &[u8], unique: &[u8]) -> bool {
    function.len() <= limits::FUNCTION_BYTES_MAX && unique.len() <= limits::UNIQUE_BYTES_MAX
}

fn read(row: &Row) -> Result<StoredJob, Error> {
    let priority = usize::try_from(row.get::<i64>(3)?)
        .ok()
        .and_then(Priority::from_index);
    let id = u64::try_from(row.get::<i64>(0)?).ok();
    let bad = |what: &str| {
        Error::new(
            ibex_sql::ErrorKind::Decode,
            format!("{what} makes no sense"),
        )
    };
    let (function, unique): (Bytes, Bytes) = (row.get(1)?, row.get(2)?);
    if !are_names(&function, &unique) {
        return Err(bad("length of function or unique_key"));
    }
    Ok(StoredJob {
        id: JobId(id.ok_or_else(|| bad("id"))?),
        function,
        unique,
        priority: priority.ok_or_else(|| bad("priority"))?,
        due_ms: u64::try_from(row.get::<i64>(4)?).unwrap_or(0),
        attempts: row.get(5)?,
        reducer: row.get(7)?,
        workload: row.get(8)?,
        headers: row.get(9)?,
    })
}

/// Moves a row that cannot be read aside, so that it never keeps the server from starting.
async fn quarantine(db: &Db, table: &str, row: &Row, reason: &Error) -> Result<(), Error> {
    let content = format!("{:?}", row.values());
    let id = row.get::<i64>(0)?;
    tracing::warn!(table, row = id, error = %reason, "unreadable row moved to gearman_quarantine");
    let insert = params![table, content, reason.to_string()];
    db.execute(
        "INSERT INTO gearman_quarantine (source, content, reason) VALUES (?, ?, ?)",
        insert,
    )
    .await?;
    db.execute(format!("DELETE FROM {table} WHERE id = ?"), params![id])
        .await?;
    Ok(())
}
