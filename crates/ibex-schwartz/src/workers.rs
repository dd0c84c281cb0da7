//! Workers that daemons have seen, in a table that all daemons on a database share: who works on what, and what operators want of them.
//!
//! Apart from leases, which are of jobs: a worker that waits for work is there, too. What is here decides nothing; it is for people.

use crate::client::Client;
use crate::database::{Database, Work};
use crate::error::{Causes, Error};
use ibex_sql::{Value, params};
use std::collections::BTreeMap;

/// A worker that was not seen for longer is dead.
pub const WORKER_DEAD_SECONDS: u64 = 60;
/// It is forgotten after this time.
const KEPT_SECONDS: u64 = 86_400;
/// Rows of one transaction.
const CHUNK: usize = 500;
/// Workers with an order that are read at a time.
const ORDERS_MAX: u32 = 10_000;
/// Bytes of the list of functions that are kept; a longer one is cut between two.
const FUNCS_BYTES_MAX: usize = 1000;

pub(crate) const SQLITE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_worker (id TEXT PRIMARY KEY NOT NULL, daemon TEXT NOT NULL, funcs TEXT NOT NULL, running INTEGER NOT NULL, \
     wanted TEXT NOT NULL, seen_at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_worker_seen ON {p}sz_worker (seen_at)",
];
pub(crate) const MYSQL: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_worker (id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, daemon VARCHAR(128) NOT NULL, \
     funcs TEXT CHARACTER SET utf8mb4 NOT NULL, running INT UNSIGNED NOT NULL, wanted VARCHAR(16) NOT NULL, seen_at BIGINT UNSIGNED NOT NULL, INDEX (seen_at)) ENGINE=InnoDB",
];

/// A worker as a daemon saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenWorker {
    /// Its name, at most 255 characters.
    pub id: String,
    /// What it asks for.
    pub funcs: Vec<String>,
    /// Jobs it has.
    pub running: u32,
    /// Seconds since it was last seen.
    pub age: u64,
}

/// A worker as all daemons know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorker {
    /// Its name.
    pub id: String,
    /// The daemon that saw it last.
    pub daemon: String,
    /// What it asked for.
    pub funcs: Vec<String>,
    /// Jobs it had then.
    pub running: u32,
    /// What operators want of it; empty when nothing.
    pub wanted: String,
    /// Epoch seconds, by the database's clock.
    pub seen_at: u64,
    /// Seconds since then.
    pub age: u64,
}

impl KnownWorker {
    /// Whether it was not seen for [`WORKER_DEAD_SECONDS`].
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.age > WORKER_DEAD_SECONDS
    }
}

impl Client {
    /// Notes workers that a daemon has seen, in the first database that answers.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], or [`Error::Config`] where our own tables are not allowed.
    pub async fn note_workers(&self, daemon: &str, seen: &[SeenWorker]) -> Result<(), Error> {
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.note_workers(daemon, seen).await) {
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {
                    causes.push((database.address(), error));
                }
                other => return other,
            }
        }
        Err(Error::NoDatabase(Causes(causes)))
    }

    /// The workers all daemons know, by name, at most `limit` a database; of one that is in several databases the newest row.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when no database answers.
    pub async fn known_workers(&self, limit: u32) -> Result<Vec<KnownWorker>, Error> {
        let mut all = BTreeMap::<String, KnownWorker>::new();
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.known_workers(limit).await) {
                Ok(workers) => {
                    for worker in workers {
                        if all.get(&worker.id).is_none_or(|old| old.age > worker.age) {
                            all.insert(worker.id.clone(), worker);
                        }
                    }
                }
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == self.databases().len() {
            Err(Error::NoDatabase(Causes(causes)))
        } else {
            Ok(all.into_values().collect())
        }
    }

    /// What operators want of which worker, in all databases that answer.
    ///
    /// # Errors
    /// [`Error::Config`] where our own tables are not allowed.
    pub async fn worker_orders(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut all = BTreeMap::new();
        for database in self.databases() {
            match database.judge(database.worker_orders().await) {
                Ok(orders) => all.extend(orders),
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Says what operators want of a worker; every daemon reads it. An empty word takes it back.
    ///
    /// # Errors
    /// As [`Client::note_workers`].
    pub async fn want_of_worker(&self, id: &str, wanted: &str) -> Result<(), Error> {
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.want_of_worker(id, wanted).await) {
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {
                    causes.push((database.address(), error));
                }
                other => return other,
            }
        }
        Err(Error::NoDatabase(Causes(causes)))
    }
}

impl Database {
    async fn note_workers(&self, daemon: &str, seen: &[SeenWorker]) -> Result<(), Error> {
        self.need_side().await?;
        for chunk in seen.chunks(CHUNK) {
            let sets: Vec<Vec<Value>> = chunk
                .iter()
                .map(|worker| {
                    params![
                        &worker.id,
                        daemon,
                        funcs_text(&worker.funcs),
                        worker.running,
                        worker.age
                    ]
                })
                .collect();
            let scope = self.scope();
            self.db()
                .await?
                .write(move |tx| {
                    let (scope, sets) = (scope.clone(), sets.clone());
                    Box::pin(async move { note(&mut scope.on(tx), sets).await })
                })
                .await?;
        }
        Ok(())
    }

    async fn known_workers(&self, limit: u32) -> Result<Vec<KnownWorker>, Error> {
        self.need_side().await?;
        let rows = self
            .query(
                "SELECT id, daemon, funcs, running, wanted, seen_at, :now FROM {p}sz_worker ORDER BY seen_at DESC LIMIT ?",
                params![limit],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let (funcs, seen_at, now): (String, u64, u64) =
                    (row.get(2)?, row.get(5)?, row.get(6)?);
                Ok(KnownWorker {
                    id: row.get(0)?,
                    daemon: row.get(1)?,
                    funcs: funcs.split_terminator('\n').map(str::to_owned).collect(),
                    running: row.get(3)?,
                    wanted: row.get(4)?,
                    seen_at,
                    age: now.saturating_sub(seen_at),
                })
            })
            .collect()
    }

    async fn worker_orders(&self) -> Result<Vec<(String, String)>, Error> {
        self.need_side().await?;
        let rows = self
            .query(
                "SELECT id, wanted FROM {p}sz_worker WHERE wanted <> '' ORDER BY seen_at DESC LIMIT ?",
                params![ORDERS_MAX],
            )
            .await?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect()
    }

    async fn want_of_worker(&self, id: &str, wanted: &str) -> Result<(), Error> {
        self.need_side().await?;
        let statement = self.engine().pick(
            "INSERT INTO {p}sz_worker (id, daemon, funcs, running, wanted, seen_at) VALUES (?, '', '', 0, ?, :now) \
             ON CONFLICT (id) DO UPDATE SET wanted = excluded.wanted",
            "INSERT INTO {p}sz_worker (id, daemon, funcs, running, wanted, seen_at) VALUES (?, '', '', 0, ?, :now) \
             ON DUPLICATE KEY UPDATE wanted = VALUES(wanted)",
        );
        self.execute(statement, params![id, wanted]).await?;
        Ok(())
    }

    /// One chunk of workers that are long gone.
    pub(crate) async fn clean_workers(&self, rows_max: u32) -> Result<u64, Error> {
        let statement = self.engine().pick(
            "DELETE FROM {p}sz_worker WHERE id IN (SELECT id FROM {p}sz_worker WHERE seen_at < :now - ? LIMIT ?)",
            "DELETE FROM {p}sz_worker WHERE seen_at < :now - ? LIMIT ?",
        );
        let done = self
            .execute(statement, params![KEPT_SECONDS, rows_max])
            .await?;
        Ok(done.rows_affected)
    }
}

async fn note(work: &mut Work<'_>, sets: Vec<Vec<Value>>) -> Result<(), Error> {
    let statement = work.engine().pick(
        "INSERT INTO {p}sz_worker (id, daemon, funcs, running, wanted, seen_at) VALUES (?, ?, ?, ?, '', :now - ?) \
         ON CONFLICT (id) DO UPDATE SET daemon = excluded.daemon, funcs = excluded.funcs, running = excluded.running, seen_at = excluded.seen_at",
        "INSERT INTO {p}sz_worker (id, daemon, funcs, running, wanted, seen_at) VALUES (?, ?, ?, ?, '', :now - ?) \
         ON DUPLICATE KEY UPDATE daemon = VALUES(daemon), funcs = VALUES(funcs), running = VALUES(running), seen_at = VALUES(seen_at)",
    );
    work.execute_each(statement, sets).await?;
    Ok(())
}

/// Names one a line: they have no controls in them.
fn funcs_text(funcs: &[String]) -> String {
    let mut text = String::new();
    for func in funcs {
        if text.len() + func.len() >= FUNCS_BYTES_MAX {
            break;
        }
        text.push_str(func);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_functions_are_cut_between_two() {
        let long: Vec<String> = (0..1000).map(|n| format!("function-{n}")).collect();
        let text = funcs_text(&long);
        assert!(text.len() <= FUNCS_BYTES_MAX && text.ends_with('\n'));
        assert_eq!(text.lines().next(), Some("function-0"));
        assert_eq!(funcs_text(&[]), "");
    }
}
