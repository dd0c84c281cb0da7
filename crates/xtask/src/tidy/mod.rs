//! `cargo xtask tidy`: the rules of the house that no compiler knows, each a small readable check that names the file and what to do.

mod layers;
mod shipped;
mod sources;

use std::process::ExitCode;

use anyhow::Result;

use crate::suite::{Counts, println};

/// One check: its name, and the findings it has (none is good).
type Check = (&'static str, fn() -> Result<Vec<String>>);

const CHECKS: &[Check] = &[
    ("layers: arrows point down", layers::arrows),
    ("layers: pure crates stay pure", layers::purity),
    ("layers: one owner of each database driver", layers::drivers),
    (
        "lock file: one TLS provider, no aws-lc-sys",
        layers::lock_file,
    ),
    ("sources: every file says what it owns", sources::headers),
    ("sources: no leftovers", sources::leftovers),
    ("sources: no line beyond 160 columns", sources::long_lines),
    (
        "sources: one integration test binary per crate",
        sources::test_binaries,
    ),
    (
        "shipped: every daemon has unit, service, example and docs",
        shipped::complete,
    ),
    ("shipped: links in docs lead somewhere", shipped::links),
];

pub(crate) fn run() -> Result<ExitCode> {
    let counts = counted()?;
    println(&format!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    ));
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all checks and shows the findings.
pub(crate) fn counted() -> Result<Counts> {
    let mut counts = Counts::default();
    for (name, check) in CHECKS {
        let findings = check()?;
        if findings.is_empty() {
            counts.passed += 1;
            continue;
        }
        counts.failed += 1;
        eprintln!("{name}:");
        for finding in findings {
            eprintln!("  {finding}");
        }
    }
    Ok(counts)
}
