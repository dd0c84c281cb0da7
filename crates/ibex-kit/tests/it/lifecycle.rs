//! Start, reload, drain, stop, and being refused.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{Daemon, PATIENCE, command, text, wait_for};

#[test]
fn starts_serves_and_stops_quickly() {
    let mut daemon = Daemon::start(&[]);
    assert_eq!(daemon.echo("ping"), "hello\nping\n");
    assert_eq!(daemon.get("/readyz"), (200, "ok\n".to_owned()));
    let idle = daemon.connect();
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
    let log = daemon.log();
    for wanted in [
        "ibex-echo starts",
        "configuration",
        "limits",
        "listening",
        "ready in ",
        "stopping reason=SIGTERM",
        "drained",
        "bye",
    ] {
        assert!(log.contains(wanted), "{wanted} missing in\n{log}");
    }
}

#[test]
fn reload_changes_what_is_live_and_names_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.toml");
    std::fs::write(&file, "greeting = \"one\"\n").unwrap();
    let daemon = Daemon::start(&["--config", file.to_str().unwrap()]);
    assert_eq!(daemon.echo("x"), "one\nx\n");
    std::fs::write(&file, "greeting = \"two\"\nkeep_state = true\n").unwrap();
    daemon.signal(Signal::HUP);
    wait_for("the new greeting", || {
        (daemon.echo("x") == "two\nx\n").then_some(())
    });
    wait_for("the log", || {
        daemon
            .log()
            .contains("needs restart key=keep_state")
            .then_some(())
    });
    let (status, body) = daemon.get("/-/config");
    assert_eq!(status, 200);
    assert!(
        body.contains("keep_state = false  # default") && body.contains("greeting = \"two\""),
        "{body}"
    );
    let (status, _, body) = daemon.ask("POST", "/-/reload", "", "");
    assert_eq!(
        (status, body.contains("\"keep_state\"")),
        (200, true),
        "{body}"
    );
    std::fs::write(&file, "greeting = broken\n").unwrap();
    let (status, _, body) = daemon.ask("POST", "/-/reload", "", "");
    assert_eq!(status, 422);
    assert!(body.contains("echo.toml:1:12"), "{body}");
    assert_eq!(daemon.echo("x"), "two\nx\n");
    let (_, metrics) = daemon.get("/metrics");
    assert!(
        metrics.contains("ibex_config_reload_success 0")
            && metrics.contains("ibex_config_reloads_total{result=\"failure\"} 1"),
        "{metrics}"
    );
    daemon.stop();
}

#[test]
fn many_hangups_lose_no_connection() {
    let daemon = Daemon::start(&[]);
    let mut stream = daemon.connect();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "hello");
    for number in 0..100 {
        daemon.signal(Signal::HUP);
        stream.write_all(format!("{number}\n").as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
    }
    drop(lines);
    assert!(daemon.stop().contains("configuration reloaded"));
}

#[test]
fn work_in_flight_finishes_or_is_cut_at_the_deadline() {
    let mut daemon = Daemon::start(&["--set", "shutdown.grace=300ms"]);
    let mut stream = daemon.connect();
    stream.write_all(b"slow\n").unwrap();
    wait_for("the work", || {
        daemon
            .get("/-/status")
            .1
            .contains("\"busy\": 1")
            .then_some(())
    });
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(3),
        "{took:?}"
    );
}

#[test]
fn a_second_stop_is_at_once() {
    let mut daemon = Daemon::start(&["--set", "shutdown.grace=10m"]);
    let mut stream = daemon.connect();
    stream.write_all(b"slow\n").unwrap();
    wait_for("the work", || {
        daemon
            .get("/-/status")
            .1
            .contains("\"busy\": 1")
            .then_some(())
    });
    daemon.signal(Signal::TERM);
    wait_for("the drain", || {
        daemon
            .log()
            .contains("stopping reason=SIGTERM")
            .then_some(())
    });
    assert!(daemon.is_alive());
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn readyz_says_no_while_the_listeners_still_accept_for_the_delay() {
    let mut daemon = Daemon::start(&["--set", "shutdown.delay=2s"]);
    daemon.signal(Signal::TERM);
    wait_for("not ready", || {
        (daemon.get("/readyz").0 == 503).then_some(())
    });
    assert_eq!(daemon.echo("late"), "hello\nlate\n");
    assert!(daemon.get("/readyz").1.contains("[-]phase: draining"));
    let (status, _, refused) = daemon.ask("POST", "/-/reload", "", "");
    assert_eq!(
        (status, refused.as_str()),
        (422, "reload refused while draining\n")
    );
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_busy_port_ends_the_start_with_69_and_the_address() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    for flags in [
        ["--listen", &addr, "--admin", "none"],
        ["--admin", &addr, "--listen", "127.0.0.1:0"],
    ] {
        let began = Instant::now();
        let output = command().args(flags).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(began.elapsed() < Duration::from_secs(1));
        let last = said.lines().last().unwrap();
        assert!(
            last.starts_with("ibex-echo: listen 127.0.0.1:") && last.contains("address in use"),
            "{said}"
        );
    }
}

#[test]
fn a_second_instance_on_the_same_state_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let set = format!("state_dir={}", state.path().display());
    let flags = ["--set", "keep_state=true", "--set", set.as_str()];
    let mut first = Daemon::start(&flags);
    let second = command()
        .args(flags)
        .args(["--listen", "127.0.0.1:0", "--admin", "none"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(74));
    assert!(
        text(&second.stderr).contains(&format!("in use by process {}", first.pid())),
        "{}",
        text(&second.stderr)
    );
    first.signal(Signal::KILL);
    first.wait();
    Daemon::start(&flags).stop();
}

#[test]
fn a_panicking_task_ends_the_process_as_a_bug() {
    let mut daemon = Daemon::start(&[]);
    let mut stream = daemon.connect();
    stream.write_all(b"panic\n").unwrap();
    let status = daemon.wait();
    // A debug build unwinds and exits 70; a release build aborts.
    assert!(
        status.code() == Some(70) || status.code().is_none(),
        "{status}"
    );
    assert!(daemon.log().contains("as asked for"), "{}", daemon.log());
}

#[test]
fn other_signals() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal(Signal::USR1);
    wait_for("the summary", || {
        daemon.log().contains(" summary ").then_some(())
    });
    daemon.signal(Signal::USR2);
    wait_for("lame duck", || {
        (daemon.get("/readyz").0 == 503).then_some(())
    });
    assert_eq!(daemon.echo("x"), "hello\nx\n");
    daemon.signal(Signal::USR2);
    wait_for("ready again", || {
        (daemon.get("/readyz").0 == 200).then_some(())
    });
    daemon.signal(Signal::QUIT);
    assert_eq!(daemon.wait().code(), None, "an abort is a signal");
    assert!(
        daemon.log().contains("task=accept") && daemon.log().contains("SIGQUIT"),
        "{}",
        daemon.log()
    );
}

#[test]
fn unix_sockets_for_data_and_admin_are_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (data, admin) = (dir.path().join("data"), dir.path().join("admin"));
    let mut prepared = command();
    prepared.args([
        "--listen",
        &format!("unix:{}", data.display()),
        "--admin",
        &format!("unix:{}", admin.display()),
    ]);
    let daemon = Daemon::run(prepared, tempfile::tempdir().unwrap());
    let mut stream = std::os::unix::net::UnixStream::connect(&data).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello\n");
    let mut stream = std::os::unix::net::UnixStream::connect(&admin).unwrap();
    assert_eq!(
        crate::daemon::exchange(&mut stream, "GET", "/healthz", "", "").0,
        200
    );
    let ready = command()
        .args([
            "--healthcheck",
            "--admin",
            &format!("unix:{}", admin.display()),
        ])
        .output()
        .unwrap();
    assert_eq!(ready.status.code(), Some(0));
    daemon.stop();
    assert!(!data.exists() && !admin.exists());
}

#[test]
fn several_addresses_are_published_in_order() {
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0"]);
    assert_ne!(daemon.address("echo"), daemon.address("echo_1"));
    daemon.stop();
}

#[test]
fn goes_into_the_background_with_a_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let (pid_file, ports) = (dir.path().join("pid"), dir.path().join("ports"));
    let started = command()
        .args([
            "-d",
            "-P",
            pid_file.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "none",
        ])
        .env("IBEX_PORT_FILE", &ports)
        .output()
        .unwrap();
    assert_eq!(started.status.code(), Some(0), "{}", text(&started.stderr));
    wait_for("the port file", || ports.exists().then_some(()));
    let pid: i32 = std::fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM)
        .unwrap();
    wait_for("the pid file's end", || (!pid_file.exists()).then_some(()));
}
