//! Jobs that applications wrote into a table of their own database, in their own transactions, and that are moved to the job tables from there.
//!
//! Apart because two databases share no transaction: a row is inserted as a job together with a mark of its source and number, and only then
//! deleted where it came from. Whatever dies between, the mark says that the job is there; so every row becomes a job exactly once. Marks
//! outlive the rows by a week, which is longer than any relay can be behind with what it read.

use crate::client::Client;
use crate::database::{Database, Work};
use crate::error::Error;
use crate::insert::{insert_tolerant, prepared};
use crate::job::Job;
use crate::tables::id_list;
use crate::wide::{Effects, Placed};
use bytes::Bytes;
use ibex_sql::{Db, Engine, Row, params};

/// Rows of one step: one transaction on each side.
const CHUNK: usize = 500;
/// Marks are kept this long.
const MARK_SECONDS: u64 = 7 * 86_400;
/// Characters of a source's name.
const SOURCE_CHARS_MAX: usize = 64;

pub(crate) const SQLITE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_relay (source TEXT NOT NULL, id INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (source, id)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_relay_at ON {p}sz_relay (at)",
];
pub(crate) const MYSQL: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_relay (source VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, id BIGINT UNSIGNED NOT NULL, \
     at BIGINT UNSIGNED NOT NULL, PRIMARY KEY (source, id), INDEX (at)) ENGINE=InnoDB",
];

/// A table of an application from which jobs are moved.
#[derive(Debug, Clone)]
pub struct Outbox {
    db: Db,
    table: String,
    source: String,
}

/// What a relay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Jobs that are new.
    pub jobs: u64,
    /// Rows that were jobs already, or whose key is pending.
    pub duplicates: u64,
    /// Rows that are no jobs; they stay where they are.
    pub refused: u64,
}

impl Outbox {
    /// The outbox `table` of a database. `source` names it among all outboxes of the job tables, and must never change: with a row's `id` it says
    /// which rows are jobs already.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a table's name that is not made of letters, digits and underscores, or a source without 1 to 64 characters.
    pub fn new(db: Db, table: impl Into<String>, source: impl Into<String>) -> Result<Self, Error> {
        let (table, source) = (table.into(), source.into());
        let is_name = !table.is_empty()
            && table.len() <= 64
            && table
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(Error::Invalid(
                "an outbox's table has a name of letters, digits and underscores".to_owned(),
            ));
        }
        if source.is_empty() || source.chars().count() > SOURCE_CHARS_MAX {
            return Err(Error::Invalid(
                "an outbox's source has 1 to 64 characters".to_owned(),
            ));
        }
        Ok(Self { db, table, source })
    }

    /// Makes the table if it is not there. Its numbers are never used again, which is what the marks rely on.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn create(&self) -> Result<(), Error> {
        let statement = match self.db.engine() {
            Engine::Sqlite => {
                "CREATE TABLE IF NOT EXISTS {t} (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, func VARCHAR(255) NOT NULL, arg BLOB, uniqkey VARCHAR(255), \
                 coalesce VARCHAR(255), priority INTEGER, run_after INTEGER)"
            }
            Engine::MySql => {
                "CREATE TABLE IF NOT EXISTS {t} (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, func VARCHAR(255) NOT NULL, arg MEDIUMBLOB, \
                 uniqkey VARCHAR(255), coalesce VARCHAR(255), priority SMALLINT UNSIGNED, run_after BIGINT UNSIGNED) ENGINE=InnoDB"
            }
        };
        self.db
            .execute(statement.replace("{t}", &self.table), params![])
            .await?;
        Ok(())
    }

    /// The oldest rows after `after`.
    async fn rows(&self, after: u64) -> Result<Vec<Row>, Error> {
        let statement = format!(
            "SELECT id, func, arg, uniqkey, coalesce, priority, run_after FROM {} WHERE id > ? ORDER BY id LIMIT ?",
            self.table
        );
        Ok(self.db.query(statement, params![after, CHUNK]).await?)
    }

    async fn remove(&self, ids: &[u64]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let (marks, params) = id_list(ids);
        let statement = format!("DELETE FROM {} WHERE id IN ({marks})", self.table);
        self.db.execute(statement, params).await?;
        Ok(())
    }
}

/// A row as a job; `None` when it is none.
fn job_of(row: &Row) -> Option<(u64, Job)> {
    let id = row.get(0).ok()?;
    let mut job = Job::new(
        row.get::<String>(1).ok()?,
        row.get::<Option<Bytes>>(2).ok()?.unwrap_or_default(),
    );
    if let Some(key) = row.get::<Option<String>>(3).ok()? {
        job = job.uniqkey(key);
    }
    if let Some(value) = row.get::<Option<String>>(4).ok()? {
        job = job.coalesce(value);
    }
    if let Some(priority) = row.get::<Option<u16>>(5).ok()? {
        job = job.priority(priority);
    }
    if let Some(epoch) = row.get::<Option<u64>>(6).ok()? {
        job = job.run_after(epoch);
    }
    job.check().is_ok().then_some((id, job))
}

impl Client {
    /// Moves every row of an outbox to the first database that takes inserts, each exactly once, and wakes workers. Any number of relays may run
    /// at once; call it again and again.
    ///
    /// # Errors
    /// What either database answers: rows that are not jobs yet stay where they are. [`Error::Config`] where our own tables are not allowed.
    pub async fn relay(&self, outbox: &Outbox) -> Result<Relayed, Error> {
        let home = self
            .databases()
            .iter()
            .find(|database| database.roles().insert)
            .ok_or_else(|| Error::Config("no database takes inserts".to_owned()))?;
        home.need_side().await?;
        let mut relayed = Relayed::default();
        let mut after = 0;
        loop {
            let rows = outbox.rows(after).await?;
            let Some(last) = rows.last() else {
                return Ok(relayed);
            };
            after = last.get(0)?;
            let (mut ids, mut jobs) = (Vec::new(), Vec::new());
            for row in &rows {
                match job_of(row) {
                    Some((id, job)) => {
                        ids.push(id);
                        jobs.push(job);
                    }
                    None => {
                        relayed.refused += 1;
                        tracing::warn!(
                            source = outbox.source,
                            table = outbox.table,
                            "row of an outbox is no job and stays"
                        );
                    }
                }
            }
            let new = home.judge(home.take_over(&outbox.source, &ids, &jobs).await)?;
            outbox.remove(&ids).await?;
            let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
            relayed.jobs += new;
            relayed.duplicates += count - new;
            if new > 0 {
                self.wake();
            }
        }
    }
}

impl Database {
    /// Inserts those that bear no mark, with their marks; how many are new.
    async fn take_over(&self, source: &str, ids: &[u64], jobs: &[Job]) -> Result<u64, Error> {
        let rows = prepared(self, jobs).await?;
        let (scope, source, ids) = (self.scope(), source.to_owned(), ids.to_vec());
        let outcome = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, source, ids, rows) =
                    (scope.clone(), source.clone(), ids.clone(), rows.clone());
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let is_new = mark(&mut work, &source, &ids).await?;
                    let rows: Vec<crate::insert::Row> = rows
                        .into_iter()
                        .zip(is_new)
                        .filter_map(|(row, is_new)| is_new.then_some(row))
                        .collect();
                    insert_tolerant(&mut work, rows, &mut Effects::default()).await
                })
            })
            .await?;
        let new = outcome.into_iter().filter_map(Placed::id).count();
        Ok(u64::try_from(new).unwrap_or(u64::MAX))
    }

    /// One chunk of marks past their time.
    pub(crate) async fn clean_relay(&self, rows_max: u32) -> Result<u64, Error> {
        let statement = match self.engine() {
            Engine::Sqlite => {
                "DELETE FROM {p}sz_relay WHERE (source, id) IN (SELECT source, id FROM {p}sz_relay WHERE at < :now - ? LIMIT ?)"
            }
            Engine::MySql => "DELETE FROM {p}sz_relay WHERE at < :now - ? LIMIT ?",
        };
        let done = self
            .execute(statement, params![MARK_SECONDS, rows_max])
            .await?;
        Ok(done.rows_affected)
    }
}

/// Marks rows as jobs; which of them were none before.
async fn mark(work: &mut Work<'_>, source: &str, ids: &[u64]) -> Result<Vec<bool>, Error> {
    let ignore = work.engine().pick("OR IGNORE", "IGNORE");
    let sets = ids.iter().map(|id| params![source, *id]).collect();
    let done = work
        .execute_each(
            &format!("INSERT {ignore} INTO {{p}}sz_relay (source, id, at) VALUES (?, ?, :now)"),
            sets,
        )
        .await?;
    Ok(done.iter().map(|one| one.rows_affected == 1).collect())
}
