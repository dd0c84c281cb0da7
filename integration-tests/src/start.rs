//! Starting each daemon with the least it needs, so that the common tests can treat all alike.

use std::path::Path;

use anyhow::{Context, Result};
use ibex_testkit::family::{self, Member};
use ibex_testkit::{Builder, Daemon};

/// The member of the family whose short name is `short`.
///
/// # Errors
/// When there is none.
pub fn member(short: &str) -> Result<&'static Member> {
    family::member(short).with_context(|| format!("no daemon {short}"))
}

/// A builder with what this daemon cannot do without.
///
/// # Errors
/// When a file it needs cannot be written.
pub fn builder(member: &Member, scratch: &Path) -> Result<Builder> {
    let mut builder = Daemon::builder(member.binary);
    for arg in member.args {
        builder = builder.arg(arg.replace("{dir}", &scratch.to_string_lossy()));
    }
    Ok(builder)
}
