//! The cache as its widespread clients and tools see it, each a real program of its own. What is missing on the machine is skipped with a line.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod languages;
mod tools;

use ibex_testkit::Daemon;

fn start() -> Daemon {
    Daemon::builder("ibex-memcached").start().unwrap()
}

fn script(name: &str) -> String {
    format!("{}/tests/it/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}
