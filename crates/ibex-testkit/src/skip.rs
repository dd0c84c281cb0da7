//! Skipping a test in the open: one visible line, and a line in the file that `cargo xtask test` sums up, because a runner hides the output of passing tests.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Names the file to which every skip appends `test<TAB>reason`. Set by `cargo xtask test`.
pub const SKIP_FILE_ENV: &str = "IBEX_TEST_SKIP_FILE";

/// Says that the current test cannot run here, and why. The caller returns right after it.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
    let Some(path) = std::env::var_os(SKIP_FILE_ENV) else {
        return;
    };
    let line = format!("{test}\t{reason}\n");
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("the skip could not be noted: {error}");
    }
}

/// The program `name` from `PATH` (or from the usual system folders, which a user's `PATH` may lack), or `None` after saying that the test is skipped.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        skip(&format!("program {name} is not installed"));
    }
    found
}

/// The program `name` from `PATH` or the usual system folders; silent.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Python of the system, for which distributions package modules; the one in `PATH` where there is none. To be handed to [`program`].
#[must_use]
pub fn python() -> &'static str {
    const SYSTEM: &str = "/usr/bin/python3";
    if is_executable(Path::new(SYSTEM)) {
        SYSTEM
    } else {
        "python3"
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_shell_and_not_the_unicorn() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
