//! Runs one statement on a connection, and turns SQLite's values and errors into ours.
//!
//! Apart because writer and readers share it. It knows nothing of transactions.

use crate::error::{Error, ErrorKind};
use crate::value::{Done, Row, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ToSql, ffi};
use std::sync::Arc;

pub(crate) fn execute(conn: &Connection, sql: &str, params: &[Value]) -> Result<Done, Error> {
    let mut statement = prepare(conn, sql)?;
    step(conn, &mut statement, params)
}

/// Stops at the first set that fails.
pub(crate) fn execute_each(
    conn: &Connection,
    sql: &str,
    sets: &[Vec<Value>],
) -> Result<Vec<Done>, Error> {
    let mut statement = prepare(conn, sql)?;
    sets.iter()
        .map(|params| step(conn, &mut statement, params))
        .collect()
}

fn step(
    conn: &Connection,
    statement: &mut CachedStatement<'_>,
    params: &[Value],
) -> Result<Done, Error> {
    bind(statement, params)?;
    let rows = statement.raw_execute().map_err(|error| convert(&error))?;
    Ok(Done {
        rows_affected: rows as u64,
        last_insert_id: u64::try_from(conn.last_insert_rowid()).unwrap_or(0),
    })
}

pub(crate) fn query(conn: &Connection, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
    let mut statement = prepare(conn, sql)?;
    bind(&mut statement, params)?;
    let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|error| convert(&error))? {
        let mut values = Vec::with_capacity(columns.len());
        for index in 0..columns.len() {
            values.push(value(row.get_ref(index).map_err(|error| convert(&error))?));
        }
        found.push(Row::new(Arc::clone(&columns), values));
    }
    Ok(found)
}

fn prepare<'c>(conn: &'c Connection, sql: &str) -> Result<CachedStatement<'c>, Error> {
    conn.prepare_cached(sql).map_err(|error| convert(&error))
}

fn bind(statement: &mut CachedStatement<'_>, params: &[Value]) -> Result<(), Error> {
    if statement.parameter_count() != params.len() {
        return Err(Error::new(
            ErrorKind::Syntax,
            format!(
                "statement has {} parameters, {} were given",
                statement.parameter_count(),
                params.len()
            ),
        ));
    }
    for (index, param) in params.iter().enumerate() {
        if let Value::UInt(number) = param {
            return Err(Error::new(
                ErrorKind::Constraint,
                format!("{number} is beyond the integers of SQLite"),
            ));
        }
        statement
            .raw_bind_parameter(index + 1, Bound(param))
            .map_err(|error| convert(&error))?;
    }
    Ok(())
}

struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null | Value::UInt(_) => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn value(found: ValueRef<'_>) -> Value {
    match found {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        // Other programs may have bound any bytes as text; those stay bytes.
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// The class of a SQLite failure. Codes: <https://sqlite.org/rescode.html>.
pub(crate) fn convert(error: &rusqlite::Error) -> Error {
    let message = error.to_string();
    let Some(code) = error.sqlite_error() else {
        return Error::new(ErrorKind::Syntax, message);
    };
    let extended = code.extended_code;
    let kind = match extended & 0xff {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => ErrorKind::Busy,
        ffi::SQLITE_FULL => ErrorKind::DiskFull,
        ffi::SQLITE_READONLY => ErrorKind::ReadOnly,
        ffi::SQLITE_CONSTRAINT => match extended {
            ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID => ErrorKind::Unique,
            _ => ErrorKind::Constraint,
        },
        ffi::SQLITE_MISMATCH => ErrorKind::Constraint,
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => ErrorKind::Corrupt,
        ffi::SQLITE_TOOBIG => ErrorKind::TooLarge,
        ffi::SQLITE_INTERRUPT => ErrorKind::Timeout,
        ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => ErrorKind::Config,
        ffi::SQLITE_ERROR | ffi::SQLITE_RANGE | ffi::SQLITE_MISUSE => ErrorKind::Syntax,
        // A write or sync that the system refused. The file system is usually full or gone; SQLite itself knows only "I/O".
        ffi::SQLITE_IOERR
            if matches!(
                extended,
                ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE
            ) =>
        {
            ErrorKind::DiskFull
        }
        _ => ErrorKind::Other,
    };
    Error::new(kind, message).with_code(extended.unsigned_abs())
}
