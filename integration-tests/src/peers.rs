//! Running the originals' tools and clients, and small scripts in their languages.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ibex_testkit::{skip, wait};

/// A peer that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command with `input` and answers what it wrote; kills it when it hangs.
///
/// # Errors
/// When it does not start or does not end.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the peer")?;
    let mut stdin = child
        .stdin
        .take()
        .context("the child has a standard input")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let pid = child.id();
    let waiter = std::thread::spawn(move || child.wait_with_output());
    if let Err(error) = wait::until(PATIENCE, "the end of the peer", || {
        waiter.is_finished().then_some(())
    }) {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("process id out of range")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        return Err(error);
    }
    // A peer that ends without reading its input is judged by its output.
    drop(writer.join());
    let output = waiter
        .join()
        .map_err(|_| anyhow::anyhow!("the waiting thread panicked"))?;
    output.context("wait for the peer")
}

/// Runs a command and requires success; answers its standard output.
///
/// # Errors
/// With both outputs when it fails.
pub fn ok(command: &mut Command, input: &[u8]) -> Result<String> {
    let output = run(command, input)?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{:?} ended with {}\n{out}\n{err}",
        command.get_program(),
        output.status
    );
    Ok(out.into_owned())
}

/// Whether the interpreter can load what a script needs; says that the test is skipped when not.
#[must_use]
pub fn can_run(interpreter: &Path, args: &[&str], what: &str) -> bool {
    let works = Command::new(interpreter)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        skip::skip(&format!("{what} is not installed"));
    }
    works
}

/// Python from the system, which sees Debian's modules, when it is there.
#[must_use]
pub fn python() -> std::path::PathBuf {
    std::path::PathBuf::from(skip::python())
}

/// A Python that can import `module`: the system's (Debian's packages), else the one with the clients `.ci/run` installs from the Python package index.
/// `None` after saying that the test is skipped.
#[must_use]
pub fn python_with(module: &str) -> Option<std::path::PathBuf> {
    let fetched = std::env::var_os("HOME")
        .map(|home| std::path::PathBuf::from(home).join(".cache/ibex/python-clients/bin/python"));
    let found = [Some(python()), fetched]
        .into_iter()
        .flatten()
        .find(|python| {
            Command::new(python)
                .args(["-c", &format!("import {module}")])
                .stdin(Stdio::null())
                .output()
                .is_ok_and(|output| output.status.success())
        });
    if found.is_none() {
        skip::skip(&format!("no Python here has {module}"));
    }
    found
}
