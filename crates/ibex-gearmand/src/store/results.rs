//! Results of durable jobs: kept in the transaction that deletes the job, deleted when they are forgotten, and at a start when their time is over.

use bytes::Bytes;
use ibex_gearman_core::{End, JobId, StoredResult};
use ibex_sql::{Db, Error, Migration, Row, Tx, params};

use super::schema::{delete, number};
use crate::driver::epoch_ms;

/// `argument` is the job's workload if that is its key (unique `-`), else empty. `ending`: 0 complete, 1 fail, 2 exception.
pub(super) const TABLE: Migration = Migration {
    version: 5,
    name: "results",
    sqlite: &[
        "CREATE TABLE gearman_results (id INTEGER PRIMARY KEY, function BLOB NOT NULL, unique_key BLOB NOT NULL, argument BLOB NOT NULL, ending INTEGER NOT NULL, \
         data BLOB NOT NULL, ended_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL)",
    ],
    mysql: &[
        "CREATE TABLE gearman_results (id BIGINT PRIMARY KEY, function VARBINARY(512) NOT NULL, unique_key VARBINARY(64) NOT NULL, argument LONGBLOB NOT NULL, \
         ending TINYINT NOT NULL, data LONGBLOB NOT NULL, ended_ms BIGINT NOT NULL, until_ms BIGINT NOT NULL) ENGINE=InnoDB",
    ],
};

const COLUMNS: &str = "id, function, unique_key, argument, ending, data, ended_ms, until_ms";

fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Keeps results; one that is there already, of a job that had to run again, is replaced.
pub(super) async fn keep(
    tx: &mut Tx,
    results: impl Iterator<Item = &StoredResult>,
) -> Result<(), Error> {
    let rows: Vec<_> = results
        .map(|result| {
            let ending = match result.end {
                End::Complete(_) => 0,
                End::Fail => 1,
                End::Exception(_) => 2,
            };
            params![
                number(result.id),
                result.function.to_vec(),
                result.unique.to_vec(),
                result.workload.to_vec(),
                ending,
                result.end.data().to_vec(),
                time(result.ended_ms),
                time(result.until_ms)
            ]
        })
        .collect();
    if !rows.is_empty() {
        let sql =
            format!("REPLACE INTO gearman_results ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        tx.execute_each(sql, rows).await?;
    }
    Ok(())
}

pub(super) async fn forget(tx: &mut Tx, jobs: &[JobId]) -> Result<(), Error> {
    delete(tx, "gearman_results", jobs).await
}

/// What is still to be kept, in the order in which it will be forgotten. Rows that make no sense are left out: a result is not worth a failed start.
pub(super) async fn load(db: &Db) -> Result<Vec<StoredResult>, Error> {
    let now = time(epoch_ms());
    db.execute(
        "DELETE FROM gearman_results WHERE until_ms <= ?",
        params![now],
    )
    .await?;
    let sql = format!("SELECT {COLUMNS} FROM gearman_results ORDER BY until_ms, id");
    let rows = db.query(sql, Vec::new()).await?;
    let results: Vec<StoredResult> = rows.iter().filter_map(|row| read(row).ok()).collect();
    if results.len() < rows.len() {
        tracing::warn!(
            rows = rows.len() - results.len(),
            "results that make no sense"
        );
    }
    Ok(results)
}

fn read(row: &Row) -> Result<StoredResult, Error> {
    let data: Bytes = row.get(5)?;
    let time = |index| Ok::<_, Error>(u64::try_from(row.get::<i64>(index)?).unwrap_or(0));
    Ok(StoredResult {
        id: JobId(time(0)?),
        function: row.get(1)?,
        unique: row.get(2)?,
        workload: row.get(3)?,
        end: match row.get::<i64>(4)? {
            0 => End::Complete(data),
            2 => End::Exception(data),
            _ => End::Fail,
        },
        ended_ms: time(6)?,
        until_ms: time(7)?,
    })
}
