//! Everything a test of the family needs and no daemon may contain: real binaries as children ([`Daemon`]), their logs ([`log`]), scripts of bytes
//! against a port ([`wire`]), a proxy that misbehaves on purpose ([`proxy`]), a MariaDB server for one test ([`mariadb`]), free ports ([`ports`]), a
//! small HTTP client ([`http`]), certificates ([`tls`]), disks that get full ([`disk`]), the corpora of fuzz targets ([`fuzz`]), and the clock and seeds
//! of simulations ([`sim`]).
//!
//! It blocks, on purpose: a test reads from top to bottom, and no runtime hides a lost wake-up of the daemon. Waiting is always for a *condition* with a
//! deadline ([`wait::until`]); nothing here sleeps and hopes. Development only: no crate has it among its ordinary dependencies but `xtask` and the tests.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod disk;
pub mod family;
pub mod fuzz;
pub mod http;
pub mod log;
pub mod mariadb;
pub mod ports;
pub mod proxy;
pub mod sim;
pub mod skip;
pub mod tls;
pub mod wait;
pub mod wire;

pub use daemon::{Builder, Daemon};

/// Result of everything here; a test adds `?` or `unwrap()`.
pub type Result<T> = anyhow::Result<T>;
