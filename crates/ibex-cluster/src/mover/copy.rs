//! Rows from one database to the other: the first pass by primary key, then the changes by the change log.
//!
//! Apart because it is all SQL text made from the layout. Every write at the destination looks at the owner row's token in the
//! same transaction, so a mover that was taken over cannot leave rows behind.

use super::Move;
use crate::fence::{self, State};
use crate::layout::{Column, Table};
use crate::{BoxFuture, MoveError, UserId, key};
use ibex_sql::{Db, Row, Tx, Value, params};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Changes taken from the log at once.
const CHANGES_AT_ONCE: i64 = 1000;

/// Key and other columns, separated by commas; `1` for a table that has none.
pub(super) fn column_list(table: &Table) -> String {
    let names: Vec<&str> = table.columns().map(|column| column.name).collect();
    if names.is_empty() {
        "1".to_owned()
    } else {
        names.join(", ")
    }
}

/// `(k1 > ?) OR (k1 = ? AND k2 > ?)`: rows after a key, in a form both engines use their primary key for.
fn after(keys: &[Column]) -> String {
    let one = |last: usize| {
        let mut parts: Vec<String> = keys
            .iter()
            .take(last)
            .map(|column| format!("{} = ?", column.name))
            .collect();
        if let Some(column) = keys.get(last) {
            parts.push(format!("{} > ?", column.name));
        }
        format!("({})", parts.join(" AND "))
    };
    (0..keys.len()).map(one).collect::<Vec<_>>().join(" OR ")
}

/// The values for [`after`]'s marks.
fn after_values(key: &[Value]) -> Vec<Value> {
    (0..key.len())
        .flat_map(|last| key.iter().take(last + 1).cloned())
        .collect()
}

/// The rows of a user in key order, a chunk after `after_key`; each as its values without the user's number.
pub(super) async fn read_chunk(
    db: &Db,
    table: &Table,
    user: UserId,
    after_key: Option<&[Value]>,
    limit: u32,
) -> Result<Vec<Vec<Value>>, MoveError> {
    let columns: Vec<Column> = table.columns().copied().collect();
    let mut sql = format!(
        "SELECT {} FROM {} WHERE {} = ?",
        column_list(table),
        table.name,
        table.user
    );
    let mut values = params![user];
    if let Some(key) = after_key {
        sql.push_str(&format!(" AND ({})", after(table.key)));
        values.extend(after_values(key));
    }
    if !table.key.is_empty() {
        let order: Vec<&str> = table.key.iter().map(|column| column.name).collect();
        sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
    }
    sql.push_str(" LIMIT ?");
    values.push(Value::Int(i64::from(limit)));
    let rows = db.query(sql, values).await?;
    Ok(rows
        .iter()
        .map(|row| key::values(row, 0, &columns))
        .collect::<Result<_, _>>()?)
}

fn replace_sql(table: &Table) -> String {
    let columns: Vec<&str> = std::iter::once(table.user)
        .chain(table.columns().map(|column| column.name))
        .collect();
    let marks = vec!["?"; columns.len()].join(", ");
    format!(
        "REPLACE INTO {} ({}) VALUES ({marks})",
        table.name,
        columns.join(", ")
    )
}

fn key_condition(table: &Table) -> String {
    std::iter::once(table.user)
        .chain(table.key.iter().map(|column| column.name))
        .map(|name| format!("{name} = ?"))
        .collect::<Vec<_>>()
        .join(" AND ")
}

fn with_user(user: UserId, values: &[Value]) -> Vec<Value> {
    std::iter::once(Value::from(user))
        .chain(values.iter().cloned())
        .collect()
}

/// One statement for the destination, once per set.
type Batch = (String, Vec<Vec<Value>>);

impl Move {
    /// Step 3: every table, in chunks by primary key, without any lock.
    pub(super) async fn copy_all(&mut self) -> Result<(), MoveError> {
        let layout = self.cluster.inner.layout;
        for table in layout.moving() {
            let mut after_key: Option<Vec<Value>> = None;
            loop {
                let rows = read_chunk(
                    &self.src_db,
                    table,
                    self.user,
                    after_key.as_deref(),
                    self.options.chunk,
                )
                .await?;
                let Some(last) = rows.last() else { break };
                after_key = Some(last.iter().take(table.key.len()).cloned().collect());
                let (count, full) = (
                    rows.len(),
                    rows.len() as u64 >= u64::from(self.options.chunk),
                );
                let sets = rows.iter().map(|row| with_user(self.user, row)).collect();
                self.put(vec![(replace_sql(table), sets)]).await?;
                self.rows += count as u64;
                self.throttle(count).await;
                self.renew_if_due().await?;
                if !full || table.key.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn throttle(&self, rows: usize) {
        if self.options.rate > 0 {
            let seconds = rows as f64 / f64::from(self.options.rate);
            tokio::time::sleep(Duration::from_secs_f64(seconds.min(10.0))).await;
        }
    }

    /// Copies or deletes the rows of the changes since the last call; returns how many changes there were.
    pub(super) async fn copy_changes(&mut self) -> Result<u64, MoveError> {
        let sql = "SELECT seq, tbl, rowkey FROM change_log WHERE userid = ? AND seq > ? ORDER BY seq, n LIMIT ?";
        let mut log = self
            .src_db
            .query(sql, params![self.user, self.last_seq, CHANGES_AT_ONCE])
            .await?;
        let full = i64::try_from(log.len()).unwrap_or(i64::MAX) >= CHANGES_AT_ONCE;
        let Some(last) = log.last() else { return Ok(0) };
        let mut up_to: i64 = last.get(0)?;
        if full {
            // The chunk may end in the middle of a transaction; leave its last one for the next call unless it is the only one.
            let first: i64 = log
                .first()
                .map(|row| row.get(0))
                .transpose()?
                .unwrap_or(up_to);
            if first == up_to {
                log = self
                    .src_db
                    .query(
                        "SELECT seq, tbl, rowkey FROM change_log WHERE userid = ? AND seq = ?",
                        params![self.user, up_to],
                    )
                    .await?;
            } else {
                up_to -= 1;
            }
        }
        let count = self.copy_logged(&log, up_to).await?;
        self.last_seq = up_to;
        self.changes += count;
        self.renew_if_due().await?;
        Ok(count)
    }

    async fn copy_logged(&self, log: &[Row], up_to: i64) -> Result<u64, MoveError> {
        let layout = self.cluster.inner.layout;
        let (mut count, mut rows) = (0, BTreeSet::new());
        for row in log {
            if row.get::<i64>(0)? <= up_to {
                count += 1;
                rows.insert((row.get::<String>(1)?, row.get::<Vec<u8>>(2)?));
            }
        }
        let mut batches = Vec::new();
        for (name, rowkey) in rows {
            let Some(table) = layout.table(&name) else {
                return Err(MoveError::Schema {
                    table: "change_log",
                    cluster: self.from.cluster,
                    reason: format!("names the unknown table {name}"),
                });
            };
            let key = with_user(self.user, &key::decode(&rowkey)?);
            batches.push(self.batch_for(table, key).await?);
        }
        if !batches.is_empty() {
            self.put(batches).await?;
        }
        Ok(count)
    }

    /// What makes the destination's row equal to the source's now: a replacement, or a deletion.
    async fn batch_for(&self, table: &Table, key: Vec<Value>) -> Result<Batch, MoveError> {
        let columns: Vec<Column> = table.columns().copied().collect();
        let condition = key_condition(table);
        let sql = format!(
            "SELECT {} FROM {} WHERE {condition}",
            column_list(table),
            table.name
        );
        Ok(match self.src_db.query_one(sql, key.clone()).await? {
            Some(row) => (
                replace_sql(table),
                vec![with_user(self.user, &key::values(&row, 0, &columns)?)],
            ),
            None => (
                format!("DELETE FROM {} WHERE {condition}", table.name),
                vec![key],
            ),
        })
    }

    /// Writes at the destination, if it still is this move's copy.
    async fn put(&self, batches: Vec<Batch>) -> Result<(), MoveError> {
        let (user, moveid, batches) = (self.user, self.moveid, Arc::new(batches));
        self.dst_db
            .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), MoveError>> {
                let batches = Arc::clone(&batches);
                Box::pin(async move {
                    let owner = fence::owner(tx, user, true).await?;
                    if !owner.is_some_and(|owner| {
                        owner.state == State::Incoming && owner.moveid == moveid
                    }) {
                        return Err(MoveError::LostLease(moveid));
                    }
                    for (sql, sets) in batches.iter() {
                        tx.execute_each(sql, sets.clone()).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Deletes a user's rows in chunks, whatever his owner row says.
pub(super) async fn delete_rows(
    db: &Db,
    table: &Table,
    user: UserId,
    chunk: u32,
) -> Result<(), MoveError> {
    loop {
        let rows = read_chunk(db, table, user, None, chunk).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let sql = format!("DELETE FROM {} WHERE {}", table.name, key_condition(table));
        let keys: Arc<Vec<Vec<Value>>> = Arc::new(
            rows.iter()
                .map(|row| with_user(user, row.get(..table.key.len()).unwrap_or_default()))
                .collect(),
        );
        db.write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), MoveError>> {
            let (sql, keys) = (sql.clone(), Arc::clone(&keys));
            Box::pin(async move {
                tx.execute_each(sql, keys.to_vec()).await?;
                Ok(())
            })
        })
        .await?;
    }
}

/// Deletes a user's rows in chunks as long as his owner row says that he is gone.
pub(super) async fn reap_rows(
    db: &Db,
    table: &Table,
    user: UserId,
    chunk: u32,
) -> Result<(), MoveError> {
    loop {
        let rows = read_chunk(db, table, user, None, chunk).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let sql = format!("DELETE FROM {} WHERE {}", table.name, key_condition(table));
        let keys: Arc<Vec<Vec<Value>>> = Arc::new(
            rows.iter()
                .map(|row| with_user(user, row.get(..table.key.len()).unwrap_or_default()))
                .collect(),
        );
        let gone = db
            .write(
                move |tx: &mut Tx| -> BoxFuture<'_, Result<bool, MoveError>> {
                    let (sql, keys) = (sql.clone(), Arc::clone(&keys));
                    Box::pin(async move {
                        let owner = fence::owner(tx, user, true).await?;
                        if !owner.is_some_and(|owner| owner.state == State::Gone) {
                            return Ok(false);
                        }
                        tx.execute_each(sql, keys.to_vec()).await?;
                        Ok(true)
                    })
                },
            )
            .await?;
        if !gone {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_after_a_key_are_asked_for_column_by_column() {
        let keys = [Column::int("a"), Column::text("b")];
        assert_eq!(after(&keys), "(a > ?) OR (a = ? AND b > ?)");
        assert_eq!(
            after_values(&[Value::Int(1), Value::Int(2)]),
            vec![Value::Int(1), Value::Int(1), Value::Int(2)]
        );
    }
}
