//! `cargo xtask test`: builds every binary (the integration tests start them), runs every test with nextest or `cargo test`, gives all of them one MariaDB
//! server when the machine has it, and says what was skipped and why.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use ibex_testkit::mariadb::{self, Server};
use ibex_testkit::skip::SKIP_FILE_ENV;

use crate::sh;
use crate::suite::{Tally, run_tests};

/// Debian packages with the peers of the integration tests: the original daemons, their tools and the clients people use.
pub(crate) const PEERS: &[&str] = &[
    "mariadb-server",
    "memcached",
    "libmemcached-tools",
    "gearman-tools",
    "gearman-job-server",
    "libgearman-client-perl",
    "libtheschwartz-perl",
    "libdbd-mariadb-perl",
    "libdbd-sqlite3-perl",
    "php-cli",
    "php-memcached",
    "php-gearman",
    "python3-pymemcache",
    "python3-pylibmc",
    "libcache-memcached-perl",
    "libcache-memcached-fast-perl",
    "prometheus",
    "curl",
    "strace",
    "systemd",
    "util-linux",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose names contain this.
    filter: Option<String>,
    /// Only the package of this name.
    #[arg(short, long)]
    package: Option<String>,
    /// Installs the Debian packages whose programs the tests use as peers (apt-get, as root).
    #[arg(long)]
    install_peers: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.install_peers {
        install_peers()?;
    }
    let mut tally = Tally::default();
    build_binaries(&mut tally);
    if !tally.has_failed() {
        tests(&mut tally, args.package.as_deref(), args.filter.as_deref());
        if args.package.is_none() && args.filter.is_none() {
            doctests(&mut tally);
        }
    }
    Ok(tally.finish())
}

/// Builds all binaries first, so that a test that starts one finds it.
pub(crate) fn build_binaries(tally: &mut Tally) {
    tally.check(
        "build all binaries",
        &mut sh::cargo(&["build", "--workspace", "--bins", "--locked"]),
    );
}

/// Unit, property, simulation and integration tests.
pub(crate) fn tests(tally: &mut Tally, package: Option<&str>, filter: Option<&str>) {
    let server = match Server::start() {
        Ok(server) => server,
        Err(error) => {
            eprintln!("MariaDB does not start here, tests will try for themselves: {error:#}");
            None
        }
    };
    let skips = skip_file();
    let has_nextest = sh::works("cargo", &["nextest", "--version"]);
    if !has_nextest {
        eprintln!(
            "cargo-nextest is not installed; using cargo test, which runs the test binaries one after the other"
        );
    }
    let mut command = sh::cargo(if has_nextest {
        &["nextest", "run", "--no-fail-fast"]
    } else {
        &["test", "--no-fail-fast", "--lib", "--bins", "--tests"]
    });
    command.arg("--locked");
    match package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.args(filter);
    if has_nextest {
        command.args([
            "--no-tests=pass",
            "--status-level=fail",
            "--final-status-level=fail",
        ]);
    }
    command.env(SKIP_FILE_ENV, &skips);
    if let Some(server) = &server {
        command.env(mariadb::SERVER_ENV, server.url());
    }
    tally.count_with("tests", || run_tests(&mut command));
    tally.note_skips(read_skips(&skips));
}

/// The examples in the documentation of the libraries.
pub(crate) fn doctests(tally: &mut Tally) {
    tally.count_with("doctests", || {
        run_tests(&mut sh::cargo(&[
            "test",
            "--workspace",
            "--doc",
            "--locked",
            "--quiet",
        ]))
    });
}

fn skip_file() -> PathBuf {
    let path = std::env::temp_dir().join(format!("ibex-skips-{}", std::process::id()));
    drop(std::fs::remove_file(&path));
    path
}

/// The noted skips, `test: reason` each, and the file removed.
fn read_skips(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    drop(std::fs::remove_file(path));
    let mut lines: Vec<String> = text.lines().map(|line| line.replace('\t', ": ")).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn install_peers() -> Result<()> {
    if !sh::works("apt-get", &["--version"]) {
        bail!(
            "--install-peers knows apt-get only; install the equivalents of: {}",
            PEERS.join(" ")
        );
    }
    let is_root = rustix::process::geteuid().is_root();
    let apt = |args: &[&str]| {
        let mut command = if is_root {
            Command::new("apt-get")
        } else {
            Command::new("sudo")
        };
        if !is_root {
            command.arg("apt-get");
        }
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        sh::run(&mut command)
    };
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(PEERS);
    apt(&install)
}
