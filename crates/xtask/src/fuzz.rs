//! `cargo xtask fuzz [target] [seconds]`: the fuzz targets under `crates/*/fuzz/`, run by cargo-fuzz when it is installed. Their corpora are replayed by
//! ordinary tests on the stable toolchain in any case.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;
use crate::suite::println;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The target; without it the targets are listed.
    target: Option<String>,
    /// How long to run, in seconds.
    #[arg(default_value_t = 60)]
    seconds: u32,
}

/// One file under `fuzz_targets/`.
#[derive(Debug)]
struct Target {
    name: String,
    fuzz_dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let targets = targets()?;
    let Some(wanted) = &args.target else {
        if targets.is_empty() {
            println("no fuzz targets yet: they live in crates/<crate>/fuzz/fuzz_targets/");
        }
        for target in &targets {
            println(&format!(
                "{:<28} {}",
                target.name,
                target
                    .fuzz_dir
                    .strip_prefix(sh::root())
                    .unwrap_or(&target.fuzz_dir)
                    .display()
            ));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let names = || {
        targets
            .iter()
            .map(|target| target.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let target = targets
        .iter()
        .find(|target| target.name == *wanted)
        .with_context(|| format!("no fuzz target {wanted:?} among: {}", names()))?;
    ensure!(
        sh::works("cargo", &["fuzz", "--version"]),
        "cargo-fuzz is not installed (cargo install cargo-fuzz); the corpora are replayed by `cargo xtask test` without it"
    );
    if !target.fuzz_dir.join("Cargo.toml").is_file() {
        bail!("{} has no Cargo.toml", target.fuzz_dir.display());
    }
    let mut command = sh::cargo(&["fuzz", "run", "--fuzz-dir"]);
    command
        .arg(&target.fuzz_dir)
        .arg(&target.name)
        .args(["--", &format!("-max_total_time={}", args.seconds)]);
    // The sanitizer flags are unstable; this lets a stable toolchain of the same version accept them.
    sh::run(command.env("RUSTC_BOOTSTRAP", "1"))?;
    Ok(ExitCode::SUCCESS)
}

fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(sh::root().join("crates"))? {
        let fuzz_dir = entry?.path().join("fuzz");
        let Ok(files) = std::fs::read_dir(fuzz_dir.join("fuzz_targets")) else {
            continue;
        };
        for file in files {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                targets.push(Target {
                    name,
                    fuzz_dir: fuzz_dir.clone(),
                });
            }
        }
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(targets)
}
