//! `cargo xtask sim [AREA] [--seeds N]`: the simulations of all cores (tests whose name contains `sim`), played with many more seeds than the ordinary run.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::sh;
use crate::suite::{Tally, run_tests};

/// Seeds of a run by hand: minutes, not hours, on two cores.
const SEEDS_DEFAULT: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only packages with this in their names, such as `schwartz`; a number is how many seeds.
    area: Option<String>,
    /// How many seeds each simulation plays.
    #[arg(long, default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// Only the package of this name.
    #[arg(short, long)]
    package: Option<String>,
    /// Replays this one seed.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut seeds = args.seeds;
    let mut packages: Vec<String> = args.package.iter().cloned().collect();
    match args.area.as_ref().map(|area| (area, area.parse())) {
        None => {}
        Some((_, Ok(number))) => seeds = number,
        Some((area, Err(_))) => packages.extend(packages_of(area)?),
    }
    let mut command = sh::cargo(&["test", "--locked", "--tests"]);
    if packages.is_empty() {
        command.arg("--workspace");
    }
    for package in &packages {
        command.args(["--package", package]);
    }
    command
        .args(["sim", "--", "--nocapture"])
        .env("IBEX_SIM_SEEDS", seeds.to_string());
    if let Some(seed) = args.seed {
        command.env("IBEX_SIM_SEED", seed.to_string());
    }
    let mut tally = Tally::default();
    tally.count_with(
        &format!("simulations, {} seeds", args.seed.map_or(seeds, |_| 1)),
        || run_tests(&mut command),
    );
    Ok(tally.finish())
}

/// Packages whose names have this part.
fn packages_of(area: &str) -> Result<Vec<String>> {
    let metadata = sh::metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let names: Vec<String> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .filter(|name| name.contains(area))
        .map(str::to_owned)
        .collect();
    ensure!(!names.is_empty(), "no package has {area:?} in its name");
    Ok(names)
}
