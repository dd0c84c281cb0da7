//! Takes over what the original's persistent queue left in the same database, so that ours can be started in its place.
//!
//! The original keeps `gearman_queue(unique_key, function_name, priority, data, when_to_run)`. Its rows become ours and are deleted there in one
//! transaction, so a crash at any moment leaves each job in exactly one of the two tables. The table stays: the original can be started on it again.

use bytes::Bytes;
use ibex_gearman_core::{JobId, StoredJob};
use ibex_gearman_proto::{Priority, limits};
use ibex_sql::{Db, Engine, Error, Row, Tx, params};

use super::schema;

/// Whether `table` can stand in a statement.
pub(crate) fn is_table_name(table: &str) -> bool {
    (1..=64).contains(&table.len())
        && table
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Moves the rows of the original's table over; says how many there were and how many of them made no sense and were put aside.
pub(super) async fn import(db: &Db, table: &str) -> Result<(usize, usize), Error> {
    let known = db
        .query_one(
            db.engine().pick(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?",
                "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
            ),
            params![table],
        )
        .await?;
    if known.is_none() {
        return Ok((0, 0));
    }
    let table = table.to_owned();
    db.write(move |tx| {
        let table = table.clone();
        Box::pin(async move { move_rows(tx, &table).await })
    })
    .await
}

async fn move_rows(tx: &mut Tx, table: &str) -> Result<(usize, usize), Error> {
    let (bytes, lock) = match tx.engine() {
        Engine::Sqlite => ("BLOB", "ORDER BY rowid"),
        Engine::MySql => ("BINARY", "FOR UPDATE"),
    };
    let sql = format!(
        "SELECT CAST(unique_key AS {bytes}), CAST(function_name AS {bytes}), priority, data, when_to_run FROM {table} {lock}"
    );
    let rows = tx.query(sql, Vec::new()).await?;
    if rows.is_empty() {
        return Ok((0, 0));
    }
    let kept = tx
        .query_one(
            "SELECT value FROM gearman_meta WHERE name = ?",
            params!["next_job"],
        )
        .await?;
    // Behind every number that was ever given out: `schema::load` goes on behind these.
    let next: i64 = kept.map(|row| row.get(0)).transpose()?.unwrap_or(1);
    let mut next = u64::try_from(next).unwrap_or(1);
    let (mut jobs, mut aside) = (Vec::new(), 0);
    for row in &rows {
        match read(row, JobId(next)) {
            Ok(job) => {
                jobs.push(job);
                next += 1;
            }
            Err(reason) => {
                aside += 1;
                tx.execute(
                    "INSERT INTO gearman_quarantine (source, content, reason) VALUES (?, ?, ?)",
                    params![table, format!("{:?}", row.values()), reason],
                )
                .await?;
            }
        }
    }
    schema::insert(tx, &jobs).await?;
    tx.execute(format!("DELETE FROM {table}"), Vec::new())
        .await?;
    Ok((rows.len(), aside))
}

fn read(row: &Row, id: JobId) -> Result<StoredJob, String> {
    let text = |error: Error| error.to_string();
    let unique: Option<Bytes> = row.get(0).map_err(text)?;
    let function: Option<Bytes> = row.get(1).map_err(text)?;
    let priority: Option<i64> = row.get(2).map_err(text)?;
    let workload: Option<Bytes> = row.get(3).map_err(text)?;
    let when: Option<i64> = row.get(4).map_err(text)?;
    let (unique, function) = (unique.unwrap_or_default(), function.unwrap_or_default());
    if unique.len() > limits::UNIQUE_BYTES_MAX || function.len() > limits::FUNCTION_BYTES_MAX {
        return Err("name or key too long".to_owned());
    }
    let priority = priority
        .and_then(|number| usize::try_from(number).ok())
        .and_then(Priority::from_index);
    Ok(StoredJob {
        id,
        function,
        unique,
        priority: priority.unwrap_or(Priority::Normal),
        due_ms: u64::try_from(when.unwrap_or(0))
            .unwrap_or(0)
            .saturating_mul(1000),
        attempts: 0,
        reducer: Bytes::new(),
        headers: Bytes::new(),
        // The original writes NULL for an empty workload.
        workload: workload.unwrap_or_default(),
    })
}
