//! The only door to building, testing and trying the workspace: `cargo xtask <command>`. Here the commands are declared; each lives in a module of its own.
//!
//! Nothing is installed and nothing outside the workspace is changed, except where a command says so (`test --install-peers`).
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod demo;
mod dist;
mod fuzz;
mod preflight;
mod sh;
mod sim;
mod suite;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, tests and tries the ibex family",
    version
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that must be green before a change lands.
    Ci(ci::Args),
    /// Every test this machine can run; says what it skipped and why.
    Test(test::Args),
    /// Starts the whole family on the loopback with a filled site; `--check` walks it without a person.
    Demo(demo::Args),
    /// Small checks of the house: layers, file headers, leftovers, units, docs.
    Tidy,
    /// Runs the benchmarks of an area, or lists what there is.
    Bench(bench::Args),
    /// Runs a fuzz target, or lists the targets.
    Fuzz(fuzz::Args),
    /// Plays the simulations with more seeds.
    Sim(sim::Args),
    /// Writes man pages, completions and example configurations.
    Dist(dist::Args),
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    preflight::check()?;
    match command {
        Command::Ci(args) => ci::run(args),
        Command::Test(args) => test::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Tidy => tidy::run(),
        Command::Bench(args) => bench::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Dist(args) => dist::run(args),
    }
}
