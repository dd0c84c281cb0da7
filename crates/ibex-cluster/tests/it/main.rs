//! The fence, the numbers, scatter/gather and the mover against real databases: SQLite always, MariaDB where it is installed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod app;
mod basics;
mod moves;
