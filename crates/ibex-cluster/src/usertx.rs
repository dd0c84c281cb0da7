//! [`UserTx`]: a writing transaction on one user's data, behind the fence.
//!
//! Apart because it is the only way to write user data, and it keeps three promises for its caller: the user lives here, each
//! written row is in the change log while a move copies him, and his `seq` grows. A write therefore names its rows; one that
//! forgot would be found by the mover's verification, which then undoes the move.

use crate::fence::{self, Owner, Refusal, State};
use crate::layout::{Layout, USERCOUNTER};
use crate::{UserId, key, unix_now};
use ibex_sql::{Done, Engine, Error, ErrorKind, Row, Tx, Value, params};

/// Letter of a number space, as in [`crate::Counter`].
pub type Area = char;

/// One row of a cluster's outbox: something that must be done after the commit, at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number on this cluster; grows.
    pub id: i64,
    /// Whose transaction wrote it.
    pub user: UserId,
    /// What is to be done.
    pub kind: String,
    /// With what.
    pub payload: String,
}

/// A writing transaction on one user's data; lent to the closure of [`crate::Cluster::write`].
#[derive(Debug)]
pub struct UserTx<'t> {
    tx: &'t mut Tx,
    layout: Layout,
    user: UserId,
    owner: Owner,
    changed: Vec<(&'static str, Vec<u8>)>,
    outbox: Vec<i64>,
}

impl<'t> UserTx<'t> {
    /// Reads the owner row and goes through the fence.
    pub(crate) async fn begin(
        tx: &'t mut Tx,
        layout: Layout,
        user: UserId,
        epoch: i64,
    ) -> Result<Result<Self, Refusal>, Error> {
        let owner = match fence::owner(tx, user, true).await? {
            Some(owner) if owner.state == State::Live && owner.epoch == epoch => owner,
            Some(owner) if owner.state == State::Locked => return Ok(Err(Refusal::Locked)),
            Some(_) | None => return Ok(Err(Refusal::Elsewhere)),
        };
        Ok(Ok(Self {
            tx,
            layout,
            user,
            owner,
            changed: Vec::new(),
            outbox: Vec::new(),
        }))
    }

    /// Writes the change log if a move listens, and counts the transaction.
    pub(crate) async fn finish(self) -> Result<Vec<i64>, Error> {
        let seq = self.owner.seq + 1;
        if self.owner.capture && !self.changed.is_empty() {
            let sets = self
                .changed
                .into_iter()
                .zip(0_i64..)
                .map(|((table, rowkey), n)| params![self.user, seq, n, table, rowkey])
                .collect();
            self.tx
                .execute_each(
                    "INSERT INTO change_log (userid, seq, n, tbl, rowkey) VALUES (?, ?, ?, ?, ?)",
                    sets,
                )
                .await?;
        }
        self.tx
            .execute(
                "UPDATE owner SET seq = ? WHERE userid = ?",
                params![seq, self.user],
            )
            .await?;
        Ok(self.outbox)
    }

    /// Whose data.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user
    }

    /// The dialect.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.tx.engine()
    }

    /// Every row of a statement that reads.
    ///
    /// # Errors
    /// The database's classes.
    pub async fn query(
        &mut self,
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        self.tx.query(sql, params).await
    }

    /// The first row of [`UserTx::query`].
    ///
    /// # Errors
    /// The database's classes.
    pub async fn query_one(
        &mut self,
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        self.tx.query_one(sql, params).await
    }

    /// One statement that writes the row `key` (without the user's number) of `table`.
    ///
    /// # Errors
    /// The database's classes; [`ErrorKind::Other`] for a table that is not in the layout.
    pub async fn write_row(
        &mut self,
        table: &'static str,
        key: &[Value],
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Done, Error> {
        self.note(table, key)?;
        self.tx.execute(sql, params).await
    }

    /// One statement once per set; `keys[n]` is the row that `sets[n]` writes.
    ///
    /// # Errors
    /// As [`UserTx::write_row`].
    pub async fn write_rows(
        &mut self,
        table: &'static str,
        keys: Vec<Vec<Value>>,
        sql: impl AsRef<str> + Send,
        sets: Vec<Vec<Value>>,
    ) -> Result<Vec<Done>, Error> {
        for key in &keys {
            self.note(table, key)?;
        }
        self.tx.execute_each(sql, sets).await
    }

    fn note(&mut self, table: &'static str, key: &[Value]) -> Result<(), Error> {
        match self.layout.table(table) {
            Some(known) if known.key.len() == key.len() => {}
            Some(known) => {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!(
                        "table {table} has a key of {} columns, {} given",
                        known.key.len(),
                        key.len()
                    ),
                ));
            }
            None => {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!("table {table} is not in the layout"),
                ));
            }
        }
        if self.owner.capture {
            self.changed.push((table, key::encode(key)));
        }
        Ok(())
    }

    /// The next number of `area`: one more than any given before, also after deletions.
    ///
    /// # Errors
    /// The database's classes; [`ErrorKind::Other`] for an area that is not in the layout.
    pub async fn next(&mut self, area: Area) -> Result<i64, Error> {
        self.next_many(area, 1, 0).await
    }

    /// The first of `count` numbers in a row, all above `floor` (a number known from elsewhere to have been given, which guards
    /// against a database that fell back to an older copy).
    ///
    /// # Errors
    /// As [`UserTx::next`].
    pub async fn next_many(&mut self, area: Area, count: u32, floor: i64) -> Result<i64, Error> {
        let letter = area.to_string();
        let known = self
            .tx
            .query_one(
                "SELECT max FROM usercounter WHERE userid = ? AND area = ?",
                params![self.user, letter.clone()],
            )
            .await?;
        let count = i64::from(count);
        let last = match &known {
            Some(row) => row.get::<i64>(0)?,
            None => self.rebuilt(area).await?,
        };
        let first = last.max(floor) + 1;
        let max = first + count - 1;
        let sql = match known {
            Some(_) => "UPDATE usercounter SET max = ? WHERE userid = ? AND area = ?",
            None => "INSERT INTO usercounter (max, userid, area) VALUES (?, ?, ?)",
        };
        self.write_row(
            USERCOUNTER.name,
            &[Value::Text(letter.clone())],
            sql,
            params![max, self.user, letter],
        )
        .await?;
        Ok(first)
    }

    /// The largest number of `area` that any table still shows; 0 if none.
    async fn rebuilt(&mut self, area: Area) -> Result<i64, Error> {
        let Some(counter) = self
            .layout
            .counters
            .iter()
            .find(|counter| counter.area == area)
        else {
            return Err(Error::new(
                ErrorKind::Other,
                format!("number space {area} is not in the layout"),
            ));
        };
        let mut largest = 0;
        for source in counter.sources {
            let sql = format!(
                "SELECT MAX({}) FROM {} WHERE {} = ?",
                source.column, source.table, source.user
            );
            let row = self.tx.query_one(sql, params![self.user]).await?;
            let seen = row
                .map(|row| row.get::<Option<i64>>(0))
                .transpose()?
                .flatten();
            largest = largest.max(seen.unwrap_or(0));
        }
        Ok(largest)
    }

    /// Leaves a note for after the commit, in the same transaction (spec/journal.md 6.3, 11). It stays until
    /// [`crate::Cluster::outbox_done`], so it is acted on at least once.
    ///
    /// # Errors
    /// The database's classes.
    pub async fn outbox(&mut self, kind: &str, payload: &str) -> Result<(), Error> {
        let done = self
            .tx
            .execute(
                "INSERT INTO outbox (userid, kind, payload, created) VALUES (?, ?, ?, ?)",
                params![self.user, kind, payload, unix_now()],
            )
            .await?;
        self.outbox
            .push(i64::try_from(done.last_insert_id).unwrap_or(i64::MAX));
        Ok(())
    }
}
