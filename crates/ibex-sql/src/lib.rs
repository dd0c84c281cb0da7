//! One small interface over SQLite and MySQL/MariaDB: DSNs, pools, transactions as closures, migrations, error classes.
//!
//! ```text
//!            Db (cheap clone) ── write(closure) / execute / query / read(closure)
//!             │
//!   ┌─────────┴──────────┐
//! SQLite                MySQL
//!  writer thread         mysql_async pool per host
//!   one transaction per   READ COMMITTED, prepared statements cached,
//!   group, a savepoint    snapshot transactions for read()
//!   per caller
//!  reader threads
//! ```
//!
//! What it promises: a call that returned `Ok` from [`Db::execute`] or [`Db::write`] is on disk (SQLite: WAL with `synchronous=FULL`,
//! one commit for all callers that waited together; MySQL: what the server's own settings promise). Failures carry a class
//! ([`ErrorKind`]) so that callers decide by meaning and never by message. Retryable classes are retried inside, with a deadline.
//!
//! It is apart so that no daemon links two database libraries by hand. It does not build SQL, map objects or hide that the two
//! engines speak different dialects: [`Engine::pick`] is how a caller says both texts.

#![forbid(unsafe_code)]

mod config;
mod db;
mod error;
mod migrate;
mod mysql;
mod retry;
mod sqlite;
mod value;

pub use config::{Config, Durability};
pub use db::{BoxFuture, Db, Engine, Stats, Tx};
pub use error::{Error, ErrorKind};
pub use migrate::Migration;
pub use value::{Done, FromValue, Row, Value};

/// The parameters of a statement, in the order of its `?` marks.
///
/// ```
/// use ibex_sql::{Value, params};
/// assert_eq!(params![1_i64, "two", None::<u64>], vec![Value::Int(1), Value::Text("two".into()), Value::Null]);
/// ```
#[macro_export]
macro_rules! params {
    () => { ::std::vec::Vec::<$crate::Value>::new() };
    ($($value:expr),+ $(,)?) => { ::std::vec![$($crate::Value::from($value)),+] };
}
