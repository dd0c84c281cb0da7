//! Step 6: are both copies equal? Number of rows and a sum of row hashes per table, or every row.
//!
//! Apart because it is the last word before the pivot and shares nothing with the copying, whose mistakes it must find.

use super::{Move, copy};
use crate::layout::Table;
use crate::{MoveError, key};
use ibex_sql::{Db, Value};
use xxhash_rust::xxh3::xxh3_128;

/// Rows and the wrapping sum of their hashes; equal for equal sets of rows, whatever order they were written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    rows: u64,
    hash: u128,
}

impl Move {
    pub(super) async fn verify(&mut self) -> Result<(), MoveError> {
        let layout = self.cluster.inner.layout;
        let mut rows = 0;
        for table in layout.moving() {
            let (source, destination) = if self.options.verify_full {
                self.compare(table).await?
            } else {
                (
                    self.sum(&self.src_db, table).await?,
                    self.sum(&self.dst_db, table).await?,
                )
            };
            if source != destination {
                return Err(MoveError::Mismatch {
                    table: table.name,
                    source_rows: source.rows,
                    destination_rows: destination.rows,
                });
            }
            rows += source.rows;
            self.renew_if_due().await?;
        }
        self.rows = rows;
        Ok(())
    }

    async fn sum(&self, db: &Db, table: &Table) -> Result<Sum, MoveError> {
        let mut sum = Sum::default();
        let mut after: Option<Vec<Value>> = None;
        loop {
            let rows = copy::read_chunk(db, table, self.user, after.as_deref(), self.options.chunk)
                .await?;
            for row in &rows {
                sum.rows += 1;
                sum.hash = sum.hash.wrapping_add(xxh3_128(&key::encode(row)));
            }
            let Some(last) = rows.last() else {
                return Ok(sum);
            };
            if table.key.is_empty() || (rows.len() as u64) < u64::from(self.options.chunk) {
                return Ok(sum);
            }
            after = Some(last.iter().take(table.key.len()).cloned().collect());
        }
    }

    /// Walks both sides together; the first difference shows as unequal sums.
    async fn compare(&self, table: &Table) -> Result<(Sum, Sum), MoveError> {
        let (mut source, mut destination) = (Sum::default(), Sum::default());
        let mut after: Option<Vec<Value>> = None;
        loop {
            let ours = copy::read_chunk(
                &self.src_db,
                table,
                self.user,
                after.as_deref(),
                self.options.chunk,
            )
            .await?;
            let theirs = copy::read_chunk(
                &self.dst_db,
                table,
                self.user,
                after.as_deref(),
                self.options.chunk,
            )
            .await?;
            source.rows += ours.len() as u64;
            destination.rows += theirs.len() as u64;
            if ours != theirs {
                source.hash = source.hash.wrapping_add(1);
                return Ok((source, destination));
            }
            let Some(last) = ours.last() else {
                return Ok((source, destination));
            };
            if table.key.is_empty() {
                return Ok((source, destination));
            }
            after = Some(last.iter().take(table.key.len()).cloned().collect());
        }
    }
}
