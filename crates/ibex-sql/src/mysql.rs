//! MySQL and MariaDB over `mysql_async`: pools per host, the session's settings, values and error classes.
//!
//! Apart because it is the only file that knows the driver. READ COMMITTED for writes (no gap locks, fewer deadlocks), a
//! consistent snapshot for reads. It does not retry: `db.rs` does, by class.

use crate::config::MySqlTarget;
use crate::db::{Access, Stats};
use crate::error::{Error, ErrorKind};
use crate::value::{Done, Row, Value};
use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, IsolationLevel, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts,
    Transaction, TxOpts,
};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Prepared statements kept per connection, on both sides.
const STATEMENTS_CACHED: usize = 256;
/// Idle connections beyond the minimum are closed after this long; below every usual `wait_timeout`.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What every connection sets once: bad values are errors, text is UTF-8 in full, locks are not waited for longer than a call lasts.
const INIT: &str = "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO', \
     SESSION innodb_lock_wait_timeout = 10, SESSION time_zone = '+00:00'";

/// A database reachable over one or several hosts.
pub(crate) struct MyDb {
    pools: Vec<Pool>,
    /// The pool that worked last.
    current: AtomicUsize,
    connect_timeout: Duration,
    pub(crate) database: String,
    writes: AtomicU64,
}

impl MyDb {
    pub(crate) async fn open(target: &MySqlTarget) -> Result<Self, Error> {
        let constraints = PoolConstraints::new(0, target.pool_max)
            .ok_or_else(|| Error::new(ErrorKind::Config, "pool size makes no sense"))?;
        let pool_opts = PoolOpts::default()
            .with_constraints(constraints)
            .with_inactive_connection_ttl(IDLE_MAX)
            .with_reset_connection(false);
        let pools = target
            .hosts
            .iter()
            .map(|(host, port)| {
                Pool::new(
                    OptsBuilder::default()
                        .ip_or_hostname(host.clone())
                        .tcp_port(*port)
                        .socket(target.socket.clone())
                        .prefer_socket(target.socket.is_some())
                        .user(target.user.clone())
                        .pass(target.password.clone())
                        .db_name(Some(target.database.clone()))
                        .pool_opts(pool_opts.clone())
                        .stmt_cache_size(STATEMENTS_CACHED)
                        .client_found_rows(true)
                        .tcp_nodelay(true)
                        .init(vec![
                            "SET NAMES utf8mb4",
                            INIT,
                            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
                        ]),
                )
            })
            .collect();
        let db = Self {
            pools,
            current: 0.into(),
            connect_timeout: target.connect_timeout,
            database: target.database.clone(),
            writes: 0.into(),
        };
        drop(db.conn().await?);
        Ok(db)
    }

    pub(crate) fn stats(&self) -> Stats {
        let writes = self.writes.load(Ordering::Relaxed);
        Stats {
            writes,
            commits: writes,
            group_max: u64::from(writes > 0),
            retries: 0,
        }
    }

    /// A connection from the host that worked last, else from the next one.
    pub(crate) async fn conn(&self) -> Result<Conn, Error> {
        self.reach(Pool::get_conn).await
    }

    async fn reach<T, F: Future<Output = mysql_async::Result<T>>>(
        &self,
        take: impl Fn(&Pool) -> F,
    ) -> Result<T, Error> {
        let mut last = None;
        for step in 0..self.pools.len() {
            let index = (self.current.load(Ordering::Relaxed) + step) % self.pools.len();
            let Some(pool) = self.pools.get(index) else {
                continue;
            };
            match tokio::time::timeout(self.connect_timeout, take(pool)).await {
                Ok(Ok(taken)) => {
                    if step > 0 {
                        self.current.store(index, Ordering::Relaxed);
                    }
                    return Ok(taken);
                }
                Ok(Err(error)) => {
                    let error = convert(&error);
                    if !error.is_retryable() {
                        return Err(error.context("connect"));
                    }
                    last = Some(error);
                }
                Err(_) => {
                    last = Some(Error::new(
                        ErrorKind::ConnectionLost,
                        format!("no connection within {:?}", self.connect_timeout),
                    ))
                }
            }
        }
        Err(last
            .unwrap_or_else(|| Error::new(ErrorKind::Config, "no host to connect to"))
            .context("connect"))
    }

    pub(crate) async fn execute(&self, sql: &str, params: Vec<Value>) -> Result<Done, Error> {
        let mut conn = self.conn().await?;
        match execute(&mut conn, sql, params).await {
            Ok(done) => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                Ok(done)
            }
            // The statement was on its way and committed by itself; nobody can tell now.
            Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                Err(error.with_kind(ErrorKind::OutcomeUnknown))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn query(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, Error> {
        let mut conn = self.conn().await?;
        query(&mut conn, sql, params).await
    }

    pub(crate) async fn begin(&self, access: Access) -> Result<MyTx, Error> {
        let mut options = TxOpts::new();
        if access == Access::Read {
            options
                .with_consistent_snapshot(true)
                .with_isolation_level(IsolationLevel::RepeatableRead)
                .with_readonly(true);
        }
        // A connection the server closed while it was idle shows here, before anything was asked of it.
        let tx = self.reach(|pool| {
            let (pool, options) = (pool.clone(), options.clone());
            async move { pool.start_transaction(options).await }
        });
        Ok(MyTx { tx: tx.await? })
    }

    /// Counts one acknowledged write.
    pub(crate) fn written(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn close(&self) -> Result<(), Error> {
        for pool in &self.pools {
            pool.clone()
                .disconnect()
                .await
                .map_err(|error| convert(&error))?;
        }
        Ok(())
    }
}

/// One open transaction; dropping it rolls back when its connection returns to the pool.
pub(crate) struct MyTx {
    tx: Transaction<'static>,
}

impl MyTx {
    pub(crate) async fn execute(&mut self, sql: &str, params: Vec<Value>) -> Result<Done, Error> {
        execute(&mut self.tx, sql, params).await
    }

    pub(crate) async fn execute_each(
        &mut self,
        sql: &str,
        sets: Vec<Vec<Value>>,
    ) -> Result<Vec<Done>, Error> {
        let mut all = Vec::with_capacity(sets.len());
        for params in sets {
            all.push(execute(&mut self.tx, sql, params).await?);
        }
        Ok(all)
    }

    pub(crate) async fn query(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, Error> {
        query(&mut self.tx, sql, params).await
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.tx.commit().await.map_err(|error| {
            let error = convert(&error);
            if error.kind() == ErrorKind::ConnectionLost {
                error.context("commit").with_kind(ErrorKind::OutcomeUnknown)
            } else {
                error
            }
        })
    }

    pub(crate) async fn rollback(self) {
        // A connection that cannot roll back is broken; the server rolls back when it closes.
        if let Err(error) = self.tx.rollback().await {
            tracing::debug!(error = %convert(&error), "rollback left to the server");
        }
    }
}

async fn execute<Q: Queryable>(conn: &mut Q, sql: &str, params: Vec<Value>) -> Result<Done, Error> {
    // Statements without parameters skip the prepared protocol, which refuses some of them (LOCK TABLES, XA …).
    if params.is_empty() {
        let answer = conn
            .query_iter(sql)
            .await
            .map_err(|error| convert(&error))?;
        let done = Done {
            rows_affected: answer.affected_rows(),
            last_insert_id: answer.last_insert_id().unwrap_or(0),
        };
        answer
            .drop_result()
            .await
            .map_err(|error| convert(&error))?;
        return Ok(done);
    }
    let answer = conn
        .exec_iter(sql, bound(params))
        .await
        .map_err(|error| convert(&error))?;
    let done = Done {
        rows_affected: answer.affected_rows(),
        last_insert_id: answer.last_insert_id().unwrap_or(0),
    };
    answer
        .drop_result()
        .await
        .map_err(|error| convert(&error))?;
    Ok(done)
}

async fn query<Q: Queryable>(
    conn: &mut Q,
    sql: &str,
    params: Vec<Value>,
) -> Result<Vec<Row>, Error> {
    let rows: Vec<mysql_async::Row> = conn
        .exec(sql, bound(params))
        .await
        .map_err(|error| convert(&error))?;
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let columns: Arc<[String]> = first
        .columns_ref()
        .iter()
        .map(|column| column.name_str().into_owned())
        .collect();
    let binary: Vec<bool> = first.columns_ref().iter().map(holds_bytes).collect();
    Ok(rows
        .into_iter()
        .map(|row| {
            let values = row.unwrap_raw().into_iter().zip(&binary);
            Row::new(
                Arc::clone(&columns),
                values
                    .map(|(found, binary)| value(found, *binary))
                    .collect(),
            )
        })
        .collect())
}

/// Whether a column's strings are bytes and no text.
fn holds_bytes(column: &mysql_async::Column) -> bool {
    /// The number of the collation `binary`.
    const BINARY: u16 = 63;
    let string = matches!(
        column.column_type(),
        ColumnType::MYSQL_TYPE_STRING
            | ColumnType::MYSQL_TYPE_VAR_STRING
            | ColumnType::MYSQL_TYPE_VARCHAR
            | ColumnType::MYSQL_TYPE_BLOB
            | ColumnType::MYSQL_TYPE_TINY_BLOB
            | ColumnType::MYSQL_TYPE_MEDIUM_BLOB
            | ColumnType::MYSQL_TYPE_LONG_BLOB
    );
    string && column.character_set() == BINARY && column.flags().contains(ColumnFlags::BINARY_FLAG)
}

fn bound(params: Vec<Value>) -> Params {
    use mysql_async::Value as My;
    if params.is_empty() {
        return Params::Empty;
    }
    let values = params.into_iter().map(|param| match param {
        Value::Null => My::NULL,
        Value::Int(number) => My::Int(number),
        Value::UInt(number) => My::UInt(number),
        Value::Real(number) => My::Double(number),
        Value::Text(text) => My::Bytes(text.into_bytes()),
        Value::Blob(bytes) => My::Bytes(bytes),
    });
    Params::Positional(values.collect())
}

fn value(found: Option<mysql_async::Value>, binary: bool) -> Value {
    use mysql_async::Value as My;
    match found {
        None | Some(My::NULL) => Value::Null,
        Some(My::Int(number)) => Value::Int(number),
        Some(My::UInt(number)) => i64::try_from(number).map_or(Value::UInt(number), Value::Int),
        Some(My::Float(number)) => Value::Real(f64::from(number)),
        Some(My::Double(number)) => Value::Real(number),
        Some(My::Bytes(bytes)) if binary => Value::Blob(bytes),
        Some(My::Bytes(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(error) => Value::Blob(error.into_bytes()),
        },
        Some(My::Date(year, month, day, hour, minute, second, micros)) => {
            let fraction = if micros == 0 {
                String::new()
            } else {
                format!(".{micros:06}")
            };
            Value::Text(format!(
                "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}"
            ))
        }
        Some(My::Time(negative, days, hours, minutes, seconds, _)) => {
            let sign = if negative { "-" } else { "" };
            Value::Text(format!(
                "{sign}{:02}:{minutes:02}:{seconds:02}",
                days * 24 + u32::from(hours)
            ))
        }
    }
}

/// The class of a failure. Numbers: MariaDB knowledge base, "MariaDB Error Codes".
pub(crate) fn convert(error: &mysql_async::Error) -> Error {
    use mysql_async::Error as My;
    match error {
        My::Server(server) => Error::new(
            server_kind(server.code),
            format!("{} ({})", server.message, server.code),
        )
        .with_code(u32::from(server.code)),
        My::Io(io) => Error::new(ErrorKind::ConnectionLost, io.to_string()),
        My::Driver(driver) => Error::new(driver_kind(driver), driver.to_string()),
        My::Url(url) => Error::new(ErrorKind::Config, url.to_string()),
        My::Other(other) => Error::new(ErrorKind::Other, other.to_string()),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's list is long and everything else has no class of its own"
)]
fn driver_kind(error: &DriverError) -> ErrorKind {
    match error {
        DriverError::ConnectionClosed
        | DriverError::PacketOutOfOrder
        | DriverError::UnexpectedPacket { .. } => ErrorKind::ConnectionLost,
        DriverError::PoolDisconnected => ErrorKind::Closed,
        DriverError::PacketTooLarge => ErrorKind::TooLarge,
        DriverError::StmtParamsMismatch { .. }
        | DriverError::StmtParamsNumberExceedsLimit { .. }
        | DriverError::MixedParams => ErrorKind::Syntax,
        _ => ErrorKind::Other,
    }
}

fn server_kind(code: u16) -> ErrorKind {
    match code {
        // Deadlock; record changed since last read (snapshot isolation of newer MariaDB); Galera certification arrives as 1213, too.
        1213 | 1020 => ErrorKind::Deadlock,
        1205 => ErrorKind::LockTimeout,
        1062 | 1586 | 1169 => ErrorKind::Unique,
        // NULL refused, foreign keys, data too long, out of range, wrong value, CHECK.
        1048 | 1216 | 1217 | 1264 | 1366 | 1406 | 1451 | 1452 | 3819 | 4025 | 1364 | 1265
        | 1292 => ErrorKind::Constraint,
        1021 | 1041 | 1114 | 3 | 28 => ErrorKind::DiskFull,
        // Server runs read-only, transaction is read-only, table is read-only, server refuses by an option.
        1290 | 1792 | 1036 | 1836 => ErrorKind::ReadOnly,
        // Server shutting down, gone, lost, aborted, killed; Galera node not ready.
        1053 | 1077 | 1079 | 1152 | 1158 | 1159 | 1160 | 1161 | 1184 | 1927 | 2006 | 2013
        | 1047 => ErrorKind::ConnectionLost,
        // Too many connections, of the server or of the user.
        1040 | 1203 | 1226 => ErrorKind::Busy,
        1044 | 1045 | 1049 | 1130 | 1142 | 1143 | 1227 => ErrorKind::Config,
        1153 | 1301 => ErrorKind::TooLarge,
        1317 | 1969 | 3024 => ErrorKind::Timeout,
        1054 | 1064 | 1065 | 1146 | 1136 | 1210 | 1295 | 1052 | 1051 | 1305 | 1050 | 1060
        | 1061 | 1091 => ErrorKind::Syntax,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_server_errors() {
        let check = |code, kind| assert_eq!(server_kind(code), kind, "{code}");
        check(1213, ErrorKind::Deadlock);
        check(1205, ErrorKind::LockTimeout);
        check(1062, ErrorKind::Unique);
        check(1406, ErrorKind::Constraint);
        check(1290, ErrorKind::ReadOnly);
        check(2013, ErrorKind::ConnectionLost);
        check(1047, ErrorKind::ConnectionLost);
        check(1064, ErrorKind::Syntax);
        check(1021, ErrorKind::DiskFull);
        check(1045, ErrorKind::Config);
        check(9999, ErrorKind::Other);
    }
}
