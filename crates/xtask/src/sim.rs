//! `cargo xtask sim [seeds]`: the simulations of all cores (tests whose name contains `sim`), played with many more seeds than the ordinary run.

use std::process::ExitCode;

use anyhow::Result;

use crate::sh;
use crate::suite::{Tally, run_tests};

/// Seeds of a run by hand: minutes, not hours, on two cores.
const SEEDS_DEFAULT: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds each simulation plays.
    #[arg(default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// Only the package of this name.
    #[arg(short, long)]
    package: Option<String>,
    /// Replays this one seed.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = sh::cargo(&["test", "--locked", "--tests"]);
    match &args.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command
        .args(["sim", "--", "--nocapture"])
        .env("IBEX_SIM_SEEDS", args.seeds.to_string());
    if let Some(seed) = args.seed {
        command.env("IBEX_SIM_SEED", seed.to_string());
    }
    let mut tally = Tally::default();
    tally.count_with(
        &format!("simulations, {} seeds", args.seed.map_or(args.seeds, |_| 1)),
        || run_tests(&mut command),
    );
    Ok(tally.finish())
}
