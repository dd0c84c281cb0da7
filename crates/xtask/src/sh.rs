//! Running other programs: where the workspace is, how cargo is called, what a failed command looks like.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ibex_testkit::family::DAEMONS;
use serde_json::Value;

/// The operator's tool.
pub(crate) const TOOL: &str = "ibex";

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}

/// `cargo` of the toolchain that runs us, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Builds the daemons and the operator's tool.
pub(crate) fn build_family(release: bool) -> Command {
    let mut command = cargo(&["build", "--locked", "--package", TOOL]);
    for member in DAEMONS {
        command.args(["--package", member.binary]);
    }
    if release {
        command.arg("--release");
    }
    command
}

/// Runs a command with our own output and requires success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// Runs a command and answers its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{} ended with {}\n{}",
        shown(command),
        done.status,
        errors.trim_end()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether a program runs at all.
pub(crate) fn works(program: impl AsRef<OsStr>, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// `cargo metadata` of the workspace's own packages.
pub(crate) fn metadata() -> Result<Value> {
    let text = output(&mut cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--locked",
    ]))?;
    serde_json::from_str(&text).context("read cargo metadata")
}

/// The target folder, wherever the environment or a configuration puts it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(dir))
}
