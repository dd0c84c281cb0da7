//! The classic tables in three dialects, and their making.
//!
//! Apart because names, types and indexes are the contract with every Perl program on the same database. Nothing here ever alters a
//! classic column.

use crate::error::Error;
use ibex_sql::{Db, Engine, params};

/// SQL dialects the tables can be printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// MySQL and MariaDB.
    MySql,
    /// PostgreSQL, for Perl programs; this library has no engine for it.
    Postgres,
}

/// How statements are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As this library makes them: `IF NOT EXISTS`, InnoDB.
    Own,
    /// Exactly the classic tables, for loaders of the original that append to every statement.
    Bare,
}

const SQLITE: [&str; 12] = [
    "CREATE TABLE {p}funcmap (funcid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, funcname VARCHAR(255) NOT NULL, UNIQUE (funcname))",
    "CREATE TABLE {p}job (jobid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, funcid INTEGER UNSIGNED NOT NULL, arg MEDIUMBLOB, uniqkey VARCHAR(255) NULL, \
     insert_time INTEGER UNSIGNED, run_after INTEGER UNSIGNED NOT NULL, grabbed_until INTEGER UNSIGNED NOT NULL, priority INTEGER UNSIGNED, \
     coalesce VARCHAR(255), UNIQUE (funcid, uniqkey))",
    "CREATE TABLE {p}note (jobid INTEGER NOT NULL, notekey VARCHAR(255), value MEDIUMBLOB, PRIMARY KEY (jobid, notekey))",
    "CREATE TABLE {p}error (error_time INTEGER UNSIGNED NOT NULL, jobid INTEGER NOT NULL, message VARCHAR(255) NOT NULL, funcid INTEGER UNSIGNED NOT NULL DEFAULT 0)",
    "CREATE TABLE {p}exitstatus (jobid INTEGER PRIMARY KEY NOT NULL, funcid INTEGER UNSIGNED NOT NULL DEFAULT 0, status INTEGER UNSIGNED, \
     completion_time INTEGER UNSIGNED, delete_after INTEGER UNSIGNED)",
    "CREATE INDEX {p}job_func_run ON {p}job (funcid, run_after)",
    "CREATE INDEX {p}job_sz_ready ON {p}job (funcid, grabbed_until, run_after)",
    "CREATE INDEX {p}job_func_coalesce ON {p}job (funcid, coalesce)",
    "CREATE INDEX {p}error_jobid ON {p}error (jobid)",
    "CREATE INDEX {p}error_time ON {p}error (error_time)",
    "CREATE INDEX {p}error_func_time ON {p}error (funcid, error_time)",
    "CREATE INDEX {p}exitstatus_after ON {p}exitstatus (delete_after)",
];

const MYSQL: [&str; 5] = [
    "CREATE TABLE {p}funcmap (funcid INT UNSIGNED PRIMARY KEY NOT NULL AUTO_INCREMENT, funcname VARCHAR(255) NOT NULL, UNIQUE (funcname))",
    "CREATE TABLE {p}job (jobid BIGINT UNSIGNED PRIMARY KEY NOT NULL AUTO_INCREMENT, funcid INT UNSIGNED NOT NULL, arg MEDIUMBLOB, uniqkey VARCHAR(255) NULL, \
     insert_time INTEGER UNSIGNED, run_after INTEGER UNSIGNED NOT NULL, grabbed_until INTEGER UNSIGNED NOT NULL, priority SMALLINT UNSIGNED, \
     coalesce VARCHAR(255), INDEX (funcid, run_after), UNIQUE (funcid, uniqkey), INDEX (funcid, coalesce), INDEX {p}job_sz_ready (funcid, grabbed_until, run_after))",
    "CREATE TABLE {p}note (jobid BIGINT UNSIGNED NOT NULL, notekey VARCHAR(255), value MEDIUMBLOB, PRIMARY KEY (jobid, notekey))",
    "CREATE TABLE {p}error (error_time INTEGER UNSIGNED NOT NULL, jobid BIGINT UNSIGNED NOT NULL, message VARCHAR(255) NOT NULL, funcid INT UNSIGNED NOT NULL DEFAULT 0, \
     INDEX (funcid, error_time), INDEX (error_time), INDEX (jobid))",
    "CREATE TABLE {p}exitstatus (jobid BIGINT UNSIGNED PRIMARY KEY NOT NULL, funcid INT UNSIGNED NOT NULL DEFAULT 0, status SMALLINT UNSIGNED, \
     completion_time INTEGER UNSIGNED, delete_after INTEGER UNSIGNED, INDEX (funcid), INDEX (delete_after))",
];

const POSTGRES: [&str; 12] = [
    "CREATE TABLE {p}funcmap (funcid SERIAL, funcname VARCHAR(255) NOT NULL, PRIMARY KEY (funcid), UNIQUE (funcname))",
    "CREATE TABLE {p}job (jobid BIGSERIAL, funcid INTEGER NOT NULL, arg BYTEA, uniqkey VARCHAR(255) NULL, insert_time INTEGER, run_after INTEGER NOT NULL, \
     grabbed_until INTEGER NOT NULL, priority SMALLINT, coalesce VARCHAR(255), PRIMARY KEY (jobid))",
    "CREATE UNIQUE INDEX {p}job_funcid_uniqkey ON {p}job (funcid, uniqkey)",
    "CREATE INDEX {p}job_funcid_runafter ON {p}job (funcid, run_after)",
    "CREATE INDEX {p}job_funcid_coalesce ON {p}job (funcid, coalesce)",
    "CREATE TABLE {p}note (jobid BIGINT NOT NULL, notekey VARCHAR(255), value BYTEA, PRIMARY KEY (jobid, notekey))",
    "CREATE TABLE {p}error (error_time INTEGER NOT NULL, jobid BIGINT NOT NULL, message VARCHAR(255) NOT NULL, funcid INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX {p}error_funcid_errortime ON {p}error (funcid, error_time)",
    "CREATE INDEX {p}error_time ON {p}error (error_time)",
    "CREATE INDEX {p}error_jobid ON {p}error (jobid)",
    "CREATE TABLE {p}exitstatus (jobid BIGINT PRIMARY KEY NOT NULL, funcid INTEGER NOT NULL DEFAULT 0, status SMALLINT, completion_time INTEGER, delete_after INTEGER)",
    "CREATE INDEX {p}exitstatus_deleteafter ON {p}exitstatus (delete_after)",
];

/// The statements that make the classic tables, in order, without a semicolon at their ends.
#[must_use]
pub fn statements(dialect: Dialect, style: Style, prefix: &str) -> Vec<String> {
    let list: &[&str] = match dialect {
        Dialect::Sqlite => &SQLITE,
        Dialect::MySql => &MYSQL,
        Dialect::Postgres => &POSTGRES,
    };
    list.iter()
        .map(|statement| {
            let mut text = statement.replace("{p}", prefix);
            if style == Style::Own {
                for start in ["CREATE TABLE ", "CREATE UNIQUE INDEX ", "CREATE INDEX "] {
                    if let Some(rest) = text.strip_prefix(start) {
                        text = format!("{start}IF NOT EXISTS {rest}");
                        break;
                    }
                }
                if dialect == Dialect::MySql {
                    text.push_str(" ENGINE=InnoDB");
                }
            }
            text
        })
        .collect()
}

/// A prefix goes into statements as it is, so it is letters, digits and underscores.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.len() <= 32
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return Ok(());
    }
    Err(Error::Config(
        "a table prefix has at most 32 letters, digits and underscores".to_owned(),
    ))
}

/// Whether the classic tables are there.
pub(crate) async fn exists(db: &Db, prefix: &str) -> Result<bool, Error> {
    match db
        .query(format!("SELECT jobid FROM {prefix}job LIMIT 1"), params![])
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ibex_sql::ErrorKind::Syntax => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Our index for finding ready jobs without stepping over grabbed and scheduled ones. A database that does not allow it is served all
/// the same, more slowly.
pub(crate) async fn extend(db: &Db, prefix: &str) -> Result<(), Error> {
    let exists = db.engine().pick("IF NOT EXISTS ", "");
    let made = db.execute(format!("CREATE INDEX {exists}{prefix}job_sz_ready ON {prefix}job (funcid, grabbed_until, run_after)"), params![]).await;
    match made {
        Ok(_) => Ok(()),
        // The name is there already.
        Err(error) if error.code() == Some(1061) => Ok(()),
        Err(error) if error.is_connection_lost() => Err(error.into()),
        Err(error) => {
            tracing::warn!(database = %db.config(), error = %error, "index for ready jobs cannot be made, finding them stays slow");
            Ok(())
        }
    }
}

/// Makes what is missing of the classic tables.
pub(crate) async fn create(db: &Db, prefix: &str) -> Result<(), Error> {
    let dialect = match db.engine() {
        Engine::Sqlite => Dialect::Sqlite,
        Engine::MySql => Dialect::MySql,
    };
    for statement in statements(dialect, Style::Own, prefix) {
        db.execute(&statement, params![]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_statements_are_what_loaders_of_the_original_take() {
        for dialect in [Dialect::Sqlite, Dialect::MySql, Dialect::Postgres] {
            for statement in statements(dialect, Style::Bare, "sch_") {
                assert!(
                    statement.starts_with("CREATE TABLE sch_")
                        || statement.starts_with("CREATE INDEX sch_")
                        || statement.starts_with("CREATE UNIQUE INDEX sch_")
                );
                assert!(
                    !statement.contains(';')
                        && !statement.contains("IF NOT EXISTS")
                        && !statement.contains("ENGINE"),
                    "{statement}"
                );
            }
        }
        assert!(
            statements(Dialect::MySql, Style::Bare, "")
                .iter()
                .all(|statement| statement.starts_with("CREATE TABLE "))
        );
        assert!(check_prefix("sch_").is_ok() && check_prefix("a;b").is_err());
    }
}
