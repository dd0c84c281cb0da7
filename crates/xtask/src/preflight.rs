//! What must be on the machine before anything is built, said in words a person can act on. Cargo itself refuses a toolchain older than `rust-version`.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Looks for a C compiler: SQLite is compiled in, and rustc links through it.
pub(crate) fn check() -> Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let found = Command::new(&compiler)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!(
        "no C compiler ({compiler}) was found; SQLite is compiled into the daemons and needs one.\n\
         Debian and Ubuntu: apt-get install build-essential; Fedora: dnf install gcc; Alpine: apk add build-base"
    )
}
