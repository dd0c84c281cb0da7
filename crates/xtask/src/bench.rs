//! `cargo xtask bench [area]`: the benchmarks that exist, found in `cargo metadata` (targets of kind `bench`), never a list that can lie.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh;
use crate::suite::println;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Area, package or name of the benchmarks to run: `memcached`, `gearman`, `ibex-sql` …; without it they are listed.
    area: Option<String>,
    /// Arguments for the benchmark programs.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// One benchmark program.
#[derive(Debug)]
struct Bench {
    package: String,
    name: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let benches = benches(&sh::metadata()?)?;
    let Some(area) = &args.area else {
        if benches.is_empty() {
            println("no benchmarks yet: they live in crates/<crate>/benches/");
        }
        for bench in &benches {
            println(&format!("{:<24} {}", bench.package, bench.name));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let chosen: Vec<&Bench> = benches
        .iter()
        .filter(|bench| bench.package.contains(area.as_str()) || bench.name.contains(area.as_str()))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no benchmarks of {area:?}; `cargo xtask bench` lists what there is"
    );
    for bench in chosen {
        // These start the daemon of their name and use the operator's tool, which `cargo bench` builds for their own packages only.
        if bench.package == "integration-tests" {
            let daemon = format!("ibex-{}", bench.name);
            let build = [
                "build",
                "--locked",
                "--release",
                "--bins",
                "--package",
                "ibex",
                "--package",
            ];
            sh::run(sh::cargo(&build).arg(daemon))?;
        }
        let mut command = sh::cargo(&[
            "bench",
            "--locked",
            "--package",
            &bench.package,
            "--bench",
            &bench.name,
            "--",
        ]);
        sh::run(command.args(&args.rest))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn benches(metadata: &Value) -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?
    {
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_bench = target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bench"));
            if let (true, Some(package), Some(name)) =
                (is_bench, package["name"].as_str(), target["name"].as_str())
            {
                benches.push(Bench {
                    package: package.to_owned(),
                    name: name.to_owned(),
                });
            }
        }
    }
    benches.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(benches)
}
