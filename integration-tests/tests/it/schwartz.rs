//! The daemon and the original Perl library on the same tables: what one inserts, the other works, once. The command line and deaths of programs have
//! modules of their own.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod command;
mod kills;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use ibex_testkit::http::Request;
use ibex_testkit::mariadb::Server;
use ibex_testkit::{Daemon, skip};
use integration_tests::peers;
use serde_json::{Value, json};
use tempfile::TempDir;

fn perl(driver: &str) -> Option<PathBuf> {
    let perl = skip::program("perl")?;
    let modules = ["-MTheSchwartz", &format!("-MDBD::{driver}"), "-e", "1"];
    peers::can_run(&perl, &modules, "libtheschwartz-perl").then_some(perl)
}

fn tour(perl: &Path, args: &[&str]) -> String {
    let script = format!(
        "{}/tests/it/scripts/schwartz_tour.pl",
        env!("CARGO_MANIFEST_DIR")
    );
    peers::ok(Command::new(perl).arg(script).args(args), b"").unwrap()
}

fn ask(addr: SocketAddr, path: &str, body: &Value) -> Value {
    let answer = Request::post(path, "application/json", body.to_string())
        .send(addr)
        .unwrap();
    assert!(
        (200..300).contains(&answer.status),
        "{path}: {} {}",
        answer.status,
        answer.text()
    );
    serde_json::from_slice(&answer.body).unwrap()
}

/// Both directions over one set of tables.
fn both_ways(perl: &Path, daemon: &Daemon, dsn: &str) {
    let addr = daemon
        .addr(ibex_testkit::family::member("schwartzd").unwrap().listener)
        .unwrap();

    let jobid: u64 = tour(perl, &[dsn, "insert", "FromPerl", "an argument", "key-1"])
        .trim()
        .parse()
        .unwrap();
    let fetch = json!({ "worker": "test", "funcs": ["FromPerl"], "max": 10, "wait_ms": 10_000 });
    let jobs = ask(addr, "/v1/fetch", &fetch);
    let job = &jobs["jobs"][0];
    assert_eq!(
        job["jobid"]
            .as_u64()
            .or_else(|| job["jobid"].as_str()?.parse().ok()),
        Some(jobid),
        "{jobs}"
    );
    let handle = job["handle"].as_str().unwrap().replace(':', "%3A");
    ask(
        addr,
        &format!("/v1/jobs/{handle}/complete"),
        &json!({ "lease": job["lease"] }),
    );
    assert_eq!(
        tour(perl, &[dsn, "work", "FromPerl"]),
        "",
        "the job is done"
    );

    ask(
        addr,
        "/v1/jobs",
        &json!({ "func": "FromUs", "arg": "hello from the daemon" }),
    );
    assert_eq!(
        tour(perl, &[dsn, "work", "FromUs"]),
        "hello from the daemon\n"
    );
    let none = ask(
        addr,
        "/v1/fetch",
        &json!({ "worker": "test", "funcs": ["FromUs"], "max": 1, "wait_ms": 0 }),
    );
    assert_eq!(
        none["jobs"].as_array().map(Vec::len),
        Some(0),
        "what Perl completed is not handed out again"
    );
}

#[test]
fn perl_and_the_daemon_share_sqlite_tables() {
    let Some(perl) = perl("SQLite") else { return };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("jobs.db");
    let daemon = Daemon::builder("ibex-schwartzd")
        .set("store.url", &format!("sqlite:{}", file.display()))
        .start()
        .unwrap();
    both_ways(
        &perl,
        &daemon,
        &format!("dbi:SQLite:dbname={}", file.display()),
    );
    daemon.stop().unwrap();
}

#[test]
fn perl_and_the_daemon_share_mariadb_tables() {
    let Some(perl) = perl("MariaDB") else { return };
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let daemon = Daemon::builder("ibex-schwartzd")
        .set("store.url", &database.url())
        .start()
        .unwrap();
    let dsn = format!(
        "dbi:MariaDB:database={};host={};port={}",
        database.name(),
        server.addr().ip(),
        server.addr().port()
    );
    both_ways(&perl, &daemon, &dsn);
    daemon.stop().unwrap();
}
