//! The units on a booted systemd: this machine's own, as a container over a copy-on-write view of it, with the family installed as docs/ops/systemd.md
//! says. What happens inside is `scripts/systemd/inside.sh`.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::Path;
use std::process::{Command, Stdio};

use ibex_testkit::daemon::binary;
use ibex_testkit::family::DAEMONS;
use ibex_testkit::skip;

/// What is looked at in the life of each unit.
const LIFE: [&str; 13] = [
    "start",
    "ready",
    "unprivileged",
    "capabilities",
    "status",
    "journal",
    "reload",
    "reload-keeps-process",
    "killed",
    "ready-again",
    "watchdog",
    "ready-after-watchdog",
    "stop",
];
/// And at a unit behind a socket.
const SOCKET: [&str; 5] = [
    "socket",
    "socket-starts-it",
    "socket-active",
    "socket-killed",
    "socket-serves-again",
];
/// `outside.sh` says by this that the machine cannot boot a container.
const CANNOT: i32 = 77;

#[test]
fn heavy_units_live_under_a_booted_systemd() {
    if !rustix::process::geteuid().is_root() {
        skip::skip("needs root to boot a container");
        return;
    }
    for program in ["systemd-nspawn", "unshare", "curl"] {
        if skip::program(program).is_none() {
            return;
        }
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scripts/systemd");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let programs = binary("ibex").unwrap();
    let work = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "bash"])
        .arg(scripts.join("outside.sh"))
        .arg(work.path())
        .arg(programs.parent().unwrap())
        .arg(deploy.canonicalize().unwrap())
        .arg(scripts.join("inside.sh"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    let reason = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT) {
        skip::skip(&format!("no container here: {}", reason.trim()));
        return;
    }
    assert!(output.status.success(), "{answer}{reason}");
    let lives = DAEMONS
        .iter()
        .flat_map(|member| LIFE.map(|what| format!("ok {} {what}", member.short)));
    let sockets = SOCKET.map(|what| format!("ok gearmand {what}"));
    for line in lives.chain(sockets) {
        assert!(
            answer.lines().any(|said| said == line),
            "{line:?} missing in\n{answer}{reason}"
        );
    }
    assert_eq!(answer.lines().last(), Some("end"), "{answer}");
}
