//! Ports that are taken, state that is in use, sockets passed by a supervisor.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ibex_testkit::daemon::binary;
use ibex_testkit::wait;
use integration_tests::ping;
use rustix::process::{Pid, Signal, kill_process};

use super::{Case, err};

/// A start that cannot work says so within this time; the state folder and the store may be opened first.
const REFUSAL_MAX: Duration = Duration::from_secs(1);

/// The daemon as its builder would start it, without the harness around it.
fn command(case: &Case, dir: &Path) -> Command {
    for sub in ["state", "run", "cache", "home"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    case.builder()
        .command(&binary(case.member.binary).unwrap(), dir)
}

pub(super) fn busy_port(short: &str) {
    let case = Case::new(short);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let mut command = command(&case, &case.dir.path().join("busy"));
    let start = Instant::now();
    let output = command.env("IBEX_ADMIN__LISTEN", &addr).output().unwrap();
    let elapsed = start.elapsed();
    assert_eq!(output.status.code(), Some(69), "{}", err(&output));
    assert!(
        err(&output).contains(&addr),
        "the message names {addr}: {}",
        err(&output)
    );
    assert!(elapsed < REFUSAL_MAX * 3, "the refusal takes {elapsed:?}");
}

pub(super) fn second_instance(short: &str) {
    let case = Case::new(short);
    let daemon = case.builder().start().unwrap();
    let mut second = command(&case, daemon.dir());
    second.env("IBEX_PORT_FILE", case.dir.path().join("second.toml"));
    // What keeps no state has nothing to protect, and may run twice.
    let keeps_state =
        daemon.dir().join("state/lock").exists() || find_lock(&daemon.dir().join("state"));
    if keeps_state {
        let output = second.output().unwrap();
        assert!(!output.status.success(), "two daemons on one state");
        assert!(
            err(&output).contains(&daemon.pid().unwrap().to_string()),
            "the message names the other's pid: {}",
            err(&output)
        );
    } else {
        assert!(
            !case.member.has_store,
            "a daemon with a store locks its state"
        );
    }
    daemon.stop().unwrap();
}

fn find_lock(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return false;
    };
    entries.flatten().any(|entry| {
        entry.file_name() == "lock" || entry.path().is_dir() && find_lock(&entry.path())
    })
}

pub(super) fn passed_socket(short: &str) {
    let case = Case::new(short);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let ping = ping::of(short).unwrap();
    // Twice, on the same socket: it stays open for the next process, and a client that connects in between waits.
    for round in 0..2 {
        let dir = case.dir.path().join(format!("round{round}"));
        let plain = command(&case, &dir);
        let early = ping::connect(addr).unwrap();
        let mut child = with_socket(&plain, &listener, case.member.listener)
            .spawn()
            .unwrap();
        ping.fresh(addr).unwrap_or_else(|error| {
            panic!(
                "round {round}: {error:#}\n{}",
                std::fs::read_to_string(dir.join("err")).unwrap_or_default()
            )
        });
        drop(early);
        wait::until_true("the port file", || dir.join("ports.toml").exists()).unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = wait::until(wait::PATIENCE, "the end", || child.try_wait().unwrap()).unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

/// Wraps a command so that it finds `listener` as descriptor 3 and its own process id in `LISTEN_PID`, as systemd would start it.
fn with_socket(plain: &Command, listener: &TcpListener, name: &str) -> Command {
    let dir = plain.get_current_dir().unwrap();
    let mut wrapped = Command::new("sh");
    wrapped
        .args([
            "-c",
            "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"",
            "sh",
        ])
        .arg(plain.get_program())
        .args(plain.get_args());
    wrapped
        .env_clear()
        .envs(
            plain
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .env_remove("IBEX_LISTEN")
        .current_dir(dir);
    wrapped.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    wrapped.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    wrapped
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("err")).unwrap());
    wrapped
}

pub(super) fn foreign_socket(short: &str) {
    let case = Case::new(short);
    let daemon = case
        .builder()
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "stranger")
        .start()
        .unwrap();
    ping::of(short)
        .unwrap()
        .fresh(daemon.addr(case.member.listener).unwrap())
        .unwrap();
    daemon.stop().unwrap();
}
