//! The client against a real memcached: the original from the system, or the program named by `IBEX_TEST_MEMCACHED`; leases against ours too.
//!
//! Skipped with a message where there is none. Each test starts its own servers on ports the system chooses.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

mod classic;
mod examples;
mod extras;
mod failures;
mod fake;
mod leases;
mod mapping;
mod near;
mod operations;
mod pools;
mod server;
