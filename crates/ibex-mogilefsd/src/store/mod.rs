//! The metadata database behind a narrow interface: every SQL statement of the tracker is in this folder.
//!
//! [`schema`] owns the tables, [`files`] keys and replicas, [`small`] domains, classes, hosts, devices and settings, [`queues`] the work that
//! trackers share. Times are the
//! database's own seconds, never this machine's. Nothing here decides; callers pass decisions in.

pub(crate) mod files;
pub(crate) mod fsck;
pub(crate) mod queues;
pub(crate) mod schema;
pub(crate) mod small;

use ibex_mogilefs_proto::{DevId, ErrorCode, Fid};
use ibex_sql::{Db, Engine, Value};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Sql(#[from] ibex_sql::Error),
    /// The state of the metadata forbids it.
    #[error("refused: {}", .0.code())]
    Refused(ErrorCode),
}

impl StoreError {
    /// The code a client gets.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(code) => *code,
            Self::Sql(error) if error.is_unique_violation() => ErrorCode::Dup,
            Self::Sql(_) => ErrorCode::Db,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// Work that waits for nobody: due at once, before everything else.
pub(crate) const URGENT: u64 = 0;
/// Never due again without a person.
pub(crate) const NEVER: u64 = 2_147_483_647;
/// The largest failure count a TINYINT UNSIGNED holds.
pub(crate) const FAILCOUNT_MAX: u32 = 255;

/// The metadata database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) db: Db,
    sql: Dialect,
}

/// Phrases that differ between the engines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialect {
    engine: Engine,
}

impl Dialect {
    /// Seconds since 1970 on the database's clock.
    pub(crate) fn now(self) -> &'static str {
        self.engine
            .pick("CAST(strftime('%s','now') AS INTEGER)", "UNIX_TIMESTAMP()")
    }

    pub(crate) fn insert_ignore(self) -> &'static str {
        self.engine.pick("INSERT OR IGNORE", "INSERT IGNORE")
    }

    /// A parameter that is a name or key. SQLite compares a text with a blob as different, whatever their bytes, and the original stores text.
    pub(crate) fn text(self) -> &'static str {
        self.engine.pick("CAST(? AS TEXT)", "?")
    }

    /// A name or key column as bytes.
    pub(crate) fn bytes(self, column: &str) -> String {
        match self.engine {
            Engine::Sqlite => format!("CAST({column} AS BLOB)"),
            Engine::MySql => column.to_owned(),
        }
    }

    /// Locks selected rows until the end of the transaction; SQLite's writer is alone anyway.
    pub(crate) fn for_update(self) -> &'static str {
        self.engine.pick("", "FOR UPDATE")
    }
}

/// A name or key as a parameter: text when it is UTF-8, so that a column with a character set compares as its owner set it up.
pub(crate) fn key_value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(bytes),
    }
}

impl Store {
    pub(crate) fn new(db: Db) -> Self {
        Self {
            sql: Dialect {
                engine: db.engine(),
            },
            db,
        }
    }
}

/// Question marks for a list of `count` parameters.
pub(crate) fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

pub(crate) fn fid_values(fids: &[Fid]) -> Vec<Value> {
    fids.iter().map(|fid| Value::from(fid.0)).collect()
}

/// The devices in a comma list such as `tempfile.devids`.
pub(crate) fn parse_devids(text: &str) -> Vec<DevId> {
    text.split(',')
        .filter_map(|part| DevId::parse(part.trim().as_bytes()))
        .collect()
}

pub(crate) fn join_devids(devices: &[DevId]) -> String {
    devices
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
