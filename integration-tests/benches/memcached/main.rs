//! ibex-memcached beside the memcached of the system, both started here on loopback with the same flags.
//!
//! `cargo xtask bench memcached [-- MODE… --seconds 2 --rounds 3 --only NAME --data DIR]`. Modes; `--cpu --memory` when none is given:
//!
//! - `--cpu`: the server's own time per operation, which repeats on a busy machine where throughput does not
//! - `--memory`: resident bytes per item, items held
//! - `--hit-ratio`: traces read through both; with `--hour` the one whose sizes change alone, the change after an hour; with `--recorded FILE` a recorded one
//! - `--policies`: eviction policies on the same traces, simulated
//! - `--storms`: the memory bound under abuse; fails when ours breaks it
//! - `--latency`: against load
//! - `--restart`: warm restart of a gigabyte
//! - `--soak`: every answer compared with a model, for `--seconds`
//! - `--plots`: draws the data files that are there
//!
//! Every mode writes what it measured as a file of tab-separated values to `--data` (default `docs/memcached/data`). Without a memcached on the machine
//! only ours is measured.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a measuring program"
)]

mod cpu;
mod data;
mod hits;
mod latency;
mod memory;
mod plots;
mod policies;
mod restart;
mod servers;
mod soak;
mod storms;
mod svg;
mod traces;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The command line.
struct Options {
    arguments: Vec<String>,
}

impl Options {
    fn has(&self, name: &str) -> bool {
        self.arguments.iter().any(|argument| argument == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let at = self
            .arguments
            .iter()
            .position(|argument| argument == name)?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    fn seconds(&self) -> Duration {
        let seconds = self.value("--seconds").unwrap_or("2");
        Duration::from_secs_f64(seconds.parse().unwrap())
    }

    fn rounds(&self) -> usize {
        self.value("--rounds").unwrap_or("3").parse().unwrap()
    }

    /// Whether `name` is to be measured.
    fn takes(&self, name: &str) -> bool {
        self.value("--only").is_none_or(|only| name.contains(only))
    }

    /// Where the data files are.
    fn data(&self) -> PathBuf {
        match self.value("--data") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/memcached/data"),
        }
    }
}

fn main() -> ExitCode {
    let options = Options {
        arguments: std::env::args().skip(1).collect(),
    };
    // The test runner starts benches with --test to see that they work.
    if options.has("--test") || options.has("--list") {
        return ExitCode::SUCCESS;
    }
    type Mode = (&'static str, fn(&Options) -> bool);
    let modes: [Mode; 9] = [
        ("--cpu", cpu::run),
        ("--memory", memory::run),
        ("--hit-ratio", hits::run),
        ("--policies", policies::run),
        ("--storms", storms::run),
        ("--latency", latency::run),
        ("--restart", restart::run),
        ("--soak", soak::run),
        ("--plots", plots::run),
    ];
    let is_any = modes.iter().any(|(name, _)| options.has(name));
    let mut is_well = true;
    for (name, run) in modes {
        if options.has(name) || (!is_any && matches!(name, "--cpu" | "--memory")) {
            is_well &= run(&options);
        }
    }
    ExitCode::from(u8::from(!is_well))
}
