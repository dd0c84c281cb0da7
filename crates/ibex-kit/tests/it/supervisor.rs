//! What systemd sees: notify datagrams, watchdog, passed sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{Daemon, PATIENCE, command, program, text, wait_for};

struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { socket, dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("notify")
    }

    fn receive(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).ok()?;
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).ok()?;
        buffer.get(..length).map(text)
    }

    /// The next datagram that begins so; others are skipped.
    fn expect(&self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self
                .receive(PATIENCE)
                .unwrap_or_else(|| panic!("no {wanted}"));
            if got.starts_with(wanted) {
                return got;
            }
            assert!(Instant::now() < deadline, "no {wanted}");
        }
    }
}

#[test]
fn ready_reload_and_stop_are_told() {
    let manager = Manager::new();
    let daemon = Daemon::start_with(&[], |command| {
        command.env("NOTIFY_SOCKET", manager.path());
    });
    assert_eq!(manager.expect("READY=1"), "READY=1\nSTATUS=serving");
    assert_eq!(daemon.echo("at once"), "hello\nat once\n");
    assert_eq!(daemon.get("/readyz").0, 200);
    for _ in 0..3 {
        daemon.signal(Signal::HUP);
        assert!(
            manager
                .expect("RELOADING=1")
                .starts_with("RELOADING=1\nMONOTONIC_USEC=")
        );
        assert!(manager.expect("READY=1").contains("STATUS=serving"));
    }
    daemon.stop();
    assert_eq!(manager.expect("STOPPING=1"), "STOPPING=1\nSTATUS=draining");
}

#[test]
fn a_stalled_loop_stops_the_pings_and_turns_healthz() {
    let manager = Manager::new();
    let daemon = Daemon::start_with(&["--set", "watchdog.stall=1s"], |command| {
        command
            .env("NOTIFY_SOCKET", manager.path())
            .env("WATCHDOG_USEC", "2000000");
    });
    let mut last = Instant::now();
    manager.expect("WATCHDOG=1");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
        assert!(
            last.elapsed() < Duration::from_secs(2),
            "{:?}",
            last.elapsed()
        );
        last = Instant::now();
    }
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
    daemon.echo("stall");
    let stalled = wait_for("the stall", || {
        Some(daemon.get("/healthz")).filter(|(status, _)| *status == 503)
    });
    assert!(stalled.1.starts_with("stalled: echo "), "{}", stalled.1);
    while manager.receive(Duration::from_millis(1)).is_some() {}
    let more = manager
        .receive(Duration::from_millis(1500))
        .filter(|text| text.contains("WATCHDOG=1"));
    assert_eq!(more, None);
    assert!(daemon.log().contains("loops stalled, no watchdog ping"));
}

/// A shell that puts its standard input on descriptor 3, as systemd would, and becomes the daemon.
fn activated(listener: OwnedFd, name: &str, pid: &str, flags: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script = format!(
        "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_FDNAMES={name} LISTEN_PID={pid} exec {} {flags}",
        program().display()
    );
    shell
        .args(["-c", &script])
        .env_clear()
        .stdin(Stdio::from(listener));
    shell
}

#[test]
fn a_passed_socket_is_used_by_its_name_and_outlives_the_process() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    for flags in [
        "--admin 127.0.0.1:0",
        "--admin 127.0.0.1:0 --listen fd:echo",
        // The default, spelt out as the example files do.
        "--admin 127.0.0.1:0 --listen 127.0.0.1:7007",
    ] {
        let prepared = activated(
            OwnedFd::from(listener.try_clone().unwrap()),
            "echo",
            "$$",
            flags,
        );
        let daemon = Daemon::run(prepared, tempfile::tempdir().unwrap());
        assert_eq!(daemon.address("echo"), addr.to_string());
        assert_eq!(daemon.echo("x"), "hello\nx\n");
        assert_eq!(daemon.ask("POST", "/-/reload", "", "").0, 200);
        assert_eq!(daemon.echo("y"), "hello\ny\n");
        assert_eq!(daemon.published(), [("echo".to_owned(), addr.to_string())]);
        daemon.stop();
        // The kernel goes on queueing for the next one.
        std::net::TcpStream::connect(addr).unwrap();
    }
}

#[test]
fn a_passed_unix_socket_serves_the_admin_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let daemon = Daemon::run(
        activated(
            OwnedFd::from(listener),
            "admin",
            "$$",
            "--listen 127.0.0.1:0",
        ),
        tempfile::tempdir().unwrap(),
    );
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(
        crate::daemon::exchange(&mut stream, "GET", "/readyz", "", "").0,
        200
    );
    daemon.stop();
    assert!(
        path.exists(),
        "a passed socket's file is the service manager's"
    );
}

#[test]
fn a_foreign_pid_is_ignored_and_an_unwanted_or_missing_name_refused() {
    let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let foreign = Daemon::run(
        activated(socket(), "echo", "1", "--admin none --listen 127.0.0.1:0"),
        tempfile::tempdir().unwrap(),
    );
    foreign.stop();
    let unwanted = activated(
        socket(),
        "nobody",
        "$$",
        "--admin none --listen 127.0.0.1:0",
    )
    .output()
    .unwrap();
    assert_eq!(
        unwanted.status.code(),
        Some(78),
        "{}",
        text(&unwanted.stderr)
    );
    assert!(text(&unwanted.stderr).contains("passed socket \"nobody\" is wanted by no listener"));
    let missing = command()
        .args(["--admin", "none", "--listen", "fd:echo"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(78));
    assert!(
        text(&missing.stderr).contains("no socket of this name was passed"),
        "{}",
        text(&missing.stderr)
    );
}

#[test]
fn few_descriptors_lower_the_connections_and_a_storm_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/bin/sh");
    let script = format!(
        "ulimit -n 60; exec {} --listen 127.0.0.1:0 --admin 127.0.0.1:0",
        program().display()
    );
    shell.args(["-c", &script]).env_clear().stdin(Stdio::null());
    let daemon = Daemon::run(shell, dir);
    assert!(
        daemon.log().contains("fewer connections than configured"),
        "{}",
        daemon.log()
    );
    // More than the process has descriptors for: the limit was lowered to what fits, so the rest is turned away one by one.
    let crowd: Vec<std::net::TcpStream> = (0..100).map(|_| daemon.connect()).collect();
    wait_for("rejections", || {
        let (_, metrics) = daemon.get("/metrics");
        metrics
            .contains("ibex_echo_connections_rejected_total{listener=\"echo\",reason=\"limit\"}")
            .then_some(())
    });
    drop(crowd);
    // Descriptors that the arithmetic does not know of are used up: connections are shed.
    let hoarder = wait_for("a place", || daemon.hoard());
    let outside = daemon.connect();
    wait_for("shedding", || {
        daemon
            .log()
            .contains("out of file descriptors")
            .then_some(())
    });
    drop((hoarder, outside));
    wait_for("recovery", || {
        use std::io::Read as _;
        let mut stream = std::net::TcpStream::connect(daemon.address("echo")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).ok()
    });
    daemon.stop();
}
