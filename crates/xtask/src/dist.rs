//! `cargo xtask dist`: man pages and completions from every binary's own flag definitions, and the example configurations from its own defaults, so that
//! nothing of it is written twice. `--check` (and `ci`) compares what is committed with what would be written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use ibex_testkit::family::DAEMONS;

use crate::sh;

/// Shells with completions, and the folder and file name each expects (`{}` is the binary).
const SHELLS: &[(&str, &str)] = &[
    ("bash", "bash/{}"),
    ("zsh", "zsh/_{}"),
    ("fish", "fish/{}.fish"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Builds with the release profile and copies the binaries too.
    #[arg(long)]
    release: bool,
    /// Changes nothing; fails when a committed generated file differs.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sh::run(&mut sh::build_family(args.release))?;
    let target = sh::target_dir()?;
    let bin_dir = target.join(if args.release { "release" } else { "debug" });
    if args.check {
        check_examples(&bin_dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = target.join("dist");
    write_examples(&bin_dir)?;
    for binary in DAEMONS.iter().map(|member| member.binary).chain([sh::TOOL]) {
        write_man(&bin_dir, &out, binary)?;
        write_completions(&bin_dir, &out, binary)?;
        if args.release {
            fs::create_dir_all(out.join("bin"))?;
            fs::copy(bin_dir.join(binary), out.join("bin").join(binary))
                .with_context(|| format!("copy {binary}"))?;
        }
    }
    eprintln!("written: {} and deploy/examples/", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Fails when a committed example differs from what the built binaries say.
pub(crate) fn check_committed() -> Result<()> {
    check_examples(&sh::target_dir()?.join("debug"))
}

fn example_path(short: &str) -> PathBuf {
    sh::root()
        .join("deploy/examples")
        .join(format!("{short}.toml"))
}

fn example(bin_dir: &Path, binary: &str) -> Result<String> {
    sh::output(generator(bin_dir, binary).arg("--print-config=defaults"))
}

/// The binary in an environment that cannot leak into what it prints.
fn generator(bin_dir: &Path, binary: &str) -> Command {
    let mut command = Command::new(bin_dir.join(binary));
    command
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("PATH", "/usr/bin:/bin");
    command
}

fn write_examples(bin_dir: &Path) -> Result<()> {
    for member in DAEMONS {
        let text = example(bin_dir, member.binary)?;
        write(&example_path(member.short), &text)?;
    }
    Ok(())
}

fn check_examples(bin_dir: &Path) -> Result<()> {
    let mut stale = Vec::new();
    for member in DAEMONS {
        let want = example(bin_dir, member.binary)?;
        if fs::read_to_string(example_path(member.short)).unwrap_or_default() != want {
            stale.push(format!("deploy/examples/{}.toml", member.short));
        }
    }
    ensure!(
        stale.is_empty(),
        "run `cargo xtask dist`: {} no longer says what the binary says",
        stale.join(", ")
    );
    Ok(())
}

fn write_man(bin_dir: &Path, out: &Path, binary: &str) -> Result<()> {
    // The daemons' pages are in section 8.
    let section = if binary == sh::TOOL { 1 } else { 8 };
    let page = sh::output(generator(bin_dir, binary).arg("--generate-man"))?;
    ensure!(
        page.contains(".TH"),
        "{binary} --generate-man writes no man page"
    );
    write(
        &out.join(format!("man/man{section}/{binary}.{section}")),
        &page,
    )
}

fn write_completions(bin_dir: &Path, out: &Path, binary: &str) -> Result<()> {
    for (shell, path) in SHELLS {
        let script =
            sh::output(generator(bin_dir, binary).args(["--generate-completions", shell]))?;
        write(
            &out.join("completions").join(path.replace("{}", binary)),
            &script,
        )?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
