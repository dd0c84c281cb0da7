//! Integration tests of `ibex-schwartz`: one suite on both engines, the original's faults, the Perl library on the same rows.
//!
//! One binary; a module per subject. MariaDB and the Perl modules are used when they are there, and missed by one visible line when not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod carried;
mod faults;
mod fuzzed;
mod graphs;
mod handlers;
mod limits;
mod oddities;
mod once;
mod original;
mod own;
mod perl;
mod policies;
mod sealed;
mod settings;
mod sim;
mod sim_wide;
mod sim_world;
mod suite;
mod windows;
mod worker;

use ibex_schwartz::Client;

/// The URL of a database file in a folder, which must outlive it.
pub(crate) fn file_url(dir: &tempfile::TempDir, name: &str) -> String {
    format!("sqlite:{}", dir.path().join(name).display())
}

/// A client of a fresh file.
pub(crate) async fn file_client(dir: &tempfile::TempDir) -> Client {
    Client::open([file_url(dir, "jobs.db")]).await.unwrap()
}

/// A client that makes the tables where they are missing, on a server, too.
pub(crate) async fn init_client(url: &str) -> Client {
    Client::builder()
        .db(url)
        .auto_init(true)
        .build()
        .await
        .unwrap()
}
