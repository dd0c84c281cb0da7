//! Versioned steps that bring a component's tables up to date, once, whoever starts first.
//!
//! Apart because it is the only code that changes schemas. Each applied step is recorded with a checksum of its text, so a step
//! that was edited after its release, or a database that is newer than the program, is refused by name. It never goes down.
//!
//! SQLite applies all missing steps in one transaction. MySQL commits each DDL statement by itself, so a step is marked as begun
//! before and done after; a step that was interrupted is run again, and what it had already made is accepted.

use crate::db::{Engine, Tx};
use crate::error::{Error, ErrorKind};
use crate::mysql::{MyDb, convert};
use crate::params;
use mysql_async::prelude::Queryable;

/// How long a second migrator waits for the first, in seconds.
const LOCK_SECONDS: u32 = 60;
const TABLE_SQLITE: &str = "CREATE TABLE IF NOT EXISTS ibex_migrations (component TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, \
     checksum TEXT NOT NULL, done INTEGER NOT NULL, applied_at INTEGER NOT NULL, PRIMARY KEY (component, version)) STRICT";
const TABLE_MYSQL: &str = "CREATE TABLE IF NOT EXISTS ibex_migrations (component VARCHAR(64) NOT NULL, version INT UNSIGNED NOT NULL, name VARCHAR(190) NOT NULL, \
     checksum CHAR(16) NOT NULL, done TINYINT NOT NULL, applied_at BIGINT NOT NULL, PRIMARY KEY (component, version)) ENGINE=InnoDB";
const APPLIED: &str = "SELECT version, name, checksum, done FROM ibex_migrations WHERE component = ? ORDER BY version";

/// One step of a schema. Released steps never change; a mistake gets a later step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// From 1, without gaps.
    pub version: u32,
    /// What it makes, for messages; 190 bytes at most.
    pub name: &'static str,
    /// Statements for SQLite, in order.
    pub sqlite: &'static [&'static str],
    /// Statements for MySQL, in order.
    pub mysql: &'static [&'static str],
}

impl Migration {
    fn statements(&self, engine: Engine) -> &'static [&'static str] {
        match engine {
            Engine::Sqlite => self.sqlite,
            Engine::MySql => self.mysql,
        }
    }

    /// FNV-1a over the statements; it guards against edits, not against malice.
    fn checksum(&self, engine: Engine) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for statement in self.statements(engine) {
            for byte in statement.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

struct Applied {
    version: u32,
    name: String,
    checksum: String,
    done: bool,
}

fn broken(message: String) -> Error {
    Error::new(ErrorKind::Migration, message)
}

/// The steps themselves must be in order, whatever the database holds.
pub(crate) fn check_steps(component: &str, steps: &[Migration]) -> Result<(), Error> {
    for (index, step) in steps.iter().enumerate() {
        if step.version as usize != index + 1 {
            return Err(broken(format!(
                "{component}: step {:?} has version {}, {} is next",
                step.name,
                step.version,
                index + 1
            )));
        }
    }
    if component.is_empty() || component.len() > 64 {
        return Err(broken("a component's name has 1 to 64 bytes".to_owned()));
    }
    Ok(())
}

/// The steps that are missing, after checking those that are there.
fn missing<'s>(
    component: &str,
    engine: Engine,
    steps: &'s [Migration],
    applied: &[Applied],
) -> Result<&'s [Migration], Error> {
    let known = steps.last().map_or(0, |step| step.version);
    let mut complete = 0;
    for (index, found) in applied.iter().enumerate() {
        let Some(step) = steps.get(index) else {
            let newest = applied.last().map_or(0, |last| last.version);
            return Err(broken(format!(
                "{component}: the database has schema version {newest} ({}), this program knows up to {known}; start the newer program",
                applied.last().map_or("", |last| last.name.as_str())
            )));
        };
        if step.version != found.version {
            return Err(broken(format!(
                "{component}: schema version {} is missing in the database, {} is there",
                step.version, found.version
            )));
        }
        if step.checksum(engine) != found.checksum {
            return Err(broken(format!(
                "{component}: schema version {} ({}) was applied with other statements: checksum {} there, {} here",
                step.version,
                step.name,
                found.checksum,
                step.checksum(engine)
            )));
        }
        if found.done {
            complete = index + 1;
        }
    }
    Ok(steps.get(complete..).unwrap_or_default())
}

fn now() -> i64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

/// Inside one transaction, which holds SQLite's write lock: a second migrator waits for it and then finds nothing to do.
pub(crate) async fn sqlite(tx: &mut Tx, component: &str, steps: &[Migration]) -> Result<(), Error> {
    tx.execute(TABLE_SQLITE, params![]).await?;
    let mut applied = Vec::new();
    for row in tx.query(APPLIED, params![component]).await? {
        applied.push(Applied {
            version: row.get(0)?,
            name: row.get(1)?,
            checksum: row.get(2)?,
            done: row.get(3)?,
        });
    }
    for step in missing(component, Engine::Sqlite, steps, &applied)? {
        for statement in step.sqlite {
            tx.execute(statement, params![])
                .await
                .map_err(|error| failed(component, step, &error))?;
        }
        tx.execute(
            "INSERT INTO ibex_migrations (component, version, name, checksum, done, applied_at) VALUES (?, ?, ?, ?, 1, ?)",
            params![component, step.version, step.name, step.checksum(Engine::Sqlite), now()],
        )
        .await?;
        tracing::info!(
            component,
            version = step.version,
            name = step.name,
            "schema step applied"
        );
    }
    Ok(())
}

/// A class that retries or says "disk full" stays; the rest is the step's own fault.
fn failed(component: &str, step: &Migration, error: &Error) -> Error {
    let text = format!(
        "{component}: schema version {} ({}): {error}",
        step.version, step.name
    );
    let kind = error.kind();
    let stays = matches!(
        kind,
        ErrorKind::DiskFull | ErrorKind::ReadOnly | ErrorKind::Timeout | ErrorKind::Closed
    );
    let kind = if stays || kind.is_retryable() {
        kind
    } else {
        ErrorKind::Migration
    };
    Error::new(kind, text)
}

/// On one connection that holds a named lock of the server while it works.
pub(crate) async fn mysql(db: &MyDb, component: &str, steps: &[Migration]) -> Result<(), Error> {
    let mut conn = db.conn().await?;
    let lock = format!("ibex.{}", db.database);
    let lock: String = lock.chars().take(64).collect();
    let taken: Option<Option<u8>> = conn
        .exec_first("SELECT GET_LOCK(?, ?)", (&lock, LOCK_SECONDS))
        .await
        .map_err(|error| convert(&error))?;
    if taken.flatten() != Some(1) {
        return Err(Error::new(
            ErrorKind::LockTimeout,
            format!(
                "another program has been migrating {} for {LOCK_SECONDS} s",
                db.database
            ),
        ));
    }
    let outcome = mysql_locked(&mut conn, component, steps).await;
    let released = conn.exec_drop("DO RELEASE_LOCK(?)", (&lock,)).await;
    outcome?;
    // Losing the connection gives the lock back, too.
    if let Err(error) = released {
        tracing::debug!(error = %convert(&error), "migration lock left to the server");
    }
    Ok(())
}

async fn mysql_locked(
    conn: &mut mysql_async::Conn,
    component: &str,
    steps: &[Migration],
) -> Result<(), Error> {
    conn.query_drop(TABLE_MYSQL)
        .await
        .map_err(|error| convert(&error))?;
    let found: Vec<(u32, String, String, bool)> = conn
        .exec(APPLIED, (component,))
        .await
        .map_err(|error| convert(&error))?;
    let applied: Vec<Applied> = found
        .into_iter()
        .map(|(version, name, checksum, done)| Applied {
            version,
            name,
            checksum,
            done,
        })
        .collect();
    for step in missing(component, Engine::MySql, steps, &applied)? {
        let again = applied.iter().any(|found| found.version == step.version);
        let begun = (
            component,
            step.version,
            step.name,
            step.checksum(Engine::MySql),
            now(),
        );
        conn.exec_drop(
            "INSERT INTO ibex_migrations (component, version, name, checksum, done, applied_at) VALUES (?, ?, ?, ?, 0, ?) \
             ON DUPLICATE KEY UPDATE applied_at = VALUES(applied_at)",
            begun,
        )
        .await
        .map_err(|error| convert(&error))?;
        for statement in step.mysql {
            match conn
                .query_drop(*statement)
                .await
                .map_err(|error| convert(&error))
            {
                Ok(()) => {}
                Err(error) if again && is_already_there(&error) => {}
                Err(error) => return Err(failed(component, step, &error)),
            }
        }
        conn.exec_drop(
            "UPDATE ibex_migrations SET done = 1 WHERE component = ? AND version = ?",
            (component, step.version),
        )
        .await
        .map_err(|error| convert(&error))?;
        tracing::info!(
            component,
            version = step.version,
            name = step.name,
            "schema step applied"
        );
    }
    Ok(())
}

/// Table, column, index or row exists already, or what was to be dropped is gone.
fn is_already_there(error: &Error) -> bool {
    matches!(error.code(), Some(1050 | 1060 | 1061 | 1062 | 1091 | 1051))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration {
        version: 1,
        name: "one",
        sqlite: &["A"],
        mysql: &["B"],
    };
    const TWO: Migration = Migration {
        version: 2,
        name: "two",
        sqlite: &["C"],
        mysql: &["D"],
    };

    fn applied(step: &Migration, done: bool) -> Applied {
        Applied {
            version: step.version,
            name: step.name.to_owned(),
            checksum: step.checksum(Engine::MySql),
            done,
        }
    }

    #[test]
    fn an_interrupted_step_is_run_again_and_a_finished_one_is_not() {
        let rest = missing(
            "c",
            Engine::MySql,
            &[ONE, TWO],
            &[applied(&ONE, true), applied(&TWO, false)],
        )
        .unwrap();
        assert_eq!(rest, [TWO]);
        assert!(
            missing(
                "c",
                Engine::MySql,
                &[ONE, TWO],
                &[applied(&ONE, true), applied(&TWO, true)]
            )
            .unwrap()
            .is_empty()
        );
    }

    #[test]
    fn edited_and_newer_schemas_are_refused_by_version() {
        let newer = missing(
            "c",
            Engine::MySql,
            &[ONE],
            &[applied(&ONE, true), applied(&TWO, true)],
        )
        .unwrap_err();
        assert!(
            newer.to_string().contains("version 2") && newer.to_string().contains("up to 1"),
            "{newer}"
        );
        let edited = Migration {
            mysql: &["B2"],
            ..ONE
        };
        let error = missing("c", Engine::MySql, &[edited], &[applied(&ONE, true)]).unwrap_err();
        assert!(error.to_string().contains("version 1 (one)"), "{error}");
        assert!(check_steps("c", &[TWO]).is_err());
    }
}
