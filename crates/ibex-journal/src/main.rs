//! The binary: a daemon when called as `serve` or `worker` (or with flags only), else a command that ends.

use clap::Parser as _;
use ibex_journal::args::{Args, Cli, Role};
use ibex_journal::{ABOUT, commands, config::Config, serve, work};
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("serve") | None => ibex_kit::main::<Args, Config, _>(ABOUT, serve),
        Some("worker") => ibex_kit::main::<Args, Config, _>(ABOUT, work),
        Some("-h" | "--help" | "-V" | "--version" | "help") => commands::run(Cli::parse()),
        Some(flag) if flag.starts_with('-') => match Args::try_parse().map(|args| args.role) {
            Ok(Role::Worker) => ibex_kit::main::<Args, Config, _>(ABOUT, work),
            Ok(Role::Serve) | Err(_) => ibex_kit::main::<Args, Config, _>(ABOUT, serve),
        },
        Some(_) => commands::run(Cli::parse()),
    }
}
