//! Integration tests of `ibex-sql`: one conformance suite for both engines, and the faults of each.
//!
//! One binary; a module per subject. Needs MariaDB for the second engine and says so when it is missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod crash;
mod full;
mod mysql;
mod sqlite;
mod suite;

use ibex_sql::{Config, Db};

/// A database in a file of its own folder, which must outlive it.
pub(crate) async fn file_db(dir: &tempfile::TempDir) -> Db {
    Db::open(&file_config(dir)).await.unwrap()
}

pub(crate) fn file_config(dir: &tempfile::TempDir) -> Config {
    Config::new(&format!("sqlite:{}", dir.path().join("test.db").display())).unwrap()
}
