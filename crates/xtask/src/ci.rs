//! `cargo xtask ci`: everything that must be green, cheap things first, all of it in one run so that one failure does not hide the next.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use ibex_testkit::mariadb::Server;

use crate::suite::Tally;
use crate::{dist, sh, test, tidy};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ends at the first suite that fails.
    #[arg(long)]
    fail_fast: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let steps: &[fn(&mut Tally)] = &[
        format,
        tidiness,
        lints,
        test::build_binaries,
        generated,
        tests,
        test::doctests,
        rustdoc,
        demo,
        demo_again,
        demo_mariadb,
        licences,
    ];
    for step in steps {
        step(&mut tally);
        if args.fail_fast && tally.has_failed() {
            break;
        }
    }
    Ok(tally.finish())
}

fn format(tally: &mut Tally) {
    tally.check("format", &mut sh::cargo(&["fmt", "--all", "--check"]));
}

fn tidiness(tally: &mut Tally) {
    tally.count_with("tidy", tidy::counted);
}

fn lints(tally: &mut Tally) {
    tally.check(
        "clippy",
        &mut sh::cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
}

fn generated(tally: &mut Tally) {
    tally.check_with("generated files", dist::check_committed);
}

fn tests(tally: &mut Tally) {
    test::tests(tally, None, None);
}

fn rustdoc(tally: &mut Tally) {
    let mut command = sh::cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    tally.check("rustdoc", command.env("RUSTDOCFLAGS", "-D warnings"));
}

/// Arguments of every walk of the demo: the binaries are built by now.
const DEMO: &[&str] = &[
    "run",
    "--quiet",
    "--locked",
    "--package",
    "xtask",
    "--",
    "demo",
    "--check",
    "--no-build",
];

fn demo_dir() -> PathBuf {
    std::env::temp_dir().join(format!("ibex-ci-demo-{}", std::process::id()))
}

fn demo(tally: &mut Tally) {
    tally.check(
        "demo --check",
        sh::cargo(DEMO).arg("--state").arg(demo_dir()),
    );
}

fn demo_again(tally: &mut Tally) {
    let dir = demo_dir();
    tally.check(
        "demo --check, same state",
        sh::cargo(DEMO).arg("--state").arg(&dir),
    );
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("{} stays: {error}", dir.display());
    }
}

fn demo_mariadb(tally: &mut Tally) {
    let server = match Server::start() {
        Ok(Some(server)) => server,
        Ok(None) => return tally.skip("demo --check on MariaDB", "MariaDB is not installed"),
        Err(error) => return tally.check_with("demo --check on MariaDB", || Err(error)),
    };
    let dir = demo_dir();
    tally.check(
        "demo --check on MariaDB",
        sh::cargo(DEMO)
            .args(["--users", "50", "--db", &server.url()])
            .arg("--state")
            .arg(&dir),
    );
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("{} stays: {error}", dir.display());
    }
}

fn licences(tally: &mut Tally) {
    if sh::works("cargo", &["deny", "--version"]) {
        tally.check(
            "licences",
            &mut sh::cargo(&["deny", "check", "licenses", "bans", "sources"]),
        );
    } else {
        tally.skip("licences", "cargo-deny is not installed");
    }
}
