//! The admin port of a running daemon.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, command, text, wait_for};

#[test]
fn health_paths() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/startupz"), (200, "ok\n".to_owned()));
    assert_eq!(
        daemon.get("/readyz?verbose"),
        (200, "[+]phase ok\nok\n".to_owned())
    );
    let (_, head, _) = daemon.ask("GET", "/readyz", "", "");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let (status, _, body) = daemon.ask("POST", "/-/drain", "", "");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    let (status, body) = daemon.get("/readyz");
    assert!(status == 503 && body.contains("[-]lame-duck"), "{body}");
    assert_eq!(daemon.ask("POST", "/-/undrain", "", "").0, 200);
    assert_eq!(daemon.get("/readyz").0, 200);
    let admin = daemon.address("admin");
    let output = command()
        .args(["--healthcheck", "--admin", &admin])
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "ok\n")
    );
    daemon.stop();
    let output = command()
        .args(["--healthcheck", "--admin", &admin])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("refused"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn metrics_in_both_forms() {
    let daemon = Daemon::start(&[]);
    daemon.echo("counted");
    let (status, head, classic) = daemon.ask("GET", "/metrics", "", "");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for wanted in [
        "# TYPE ibex_echo_lines_total counter\nibex_echo_lines_total 1",
        "# TYPE ibex_build_info gauge\nibex_build_info{daemon=\"echo\"",
        "ibex_ready 1",
        "ibex_phase{phase=\"running\"} 1",
        "ibex_phase{phase=\"draining\"} 0",
        "ibex_config_reload_success 1",
        "ibex_log_messages_total{level=\"error\"} 0",
        "ibex_worker_progress_ratio{worker=\"count-up\"}",
        "process_open_fds ",
        "ibex_loop_stall_seconds_bucket{loop=\"echo\",le=\"+Inf\"}",
    ] {
        assert!(classic.contains(wanted), "{wanted} missing in\n{classic}");
    }
    assert!(!classic.contains("# EOF") && !classic.contains("# UNIT"));
    let (_, head, open) = daemon.ask(
        "GET",
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
        "",
    );
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(
        open.ends_with("# EOF\n") && open.contains("# TYPE ibex_echo_lines counter\n"),
        "{open}"
    );
    promtool(&classic);
    daemon.stop();
}

/// `promtool check metrics` must be silent; without the tool the check says so and is not made.
fn promtool(classic: &str) {
    use std::io::Write as _;
    let Ok(mut child) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(classic.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(text(&output.stdout) + &text(&output.stderr), "");
}

#[test]
fn pages_and_their_data() {
    let daemon = Daemon::start(&[]);
    daemon.echo("one");
    let (status, page) = daemon.get("/");
    assert_eq!(status, 200);
    for wanted in [
        "<h1>ibex-echo</h1>",
        "class=\"good\">ready<",
        "count-up",
        "<th scope=\"row\">lines</th><td>1</td>",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(wanted), "{wanted} missing in\n{page}");
    }
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("<script"),
        "{page}"
    );
    assert!(daemon.get("/-/lines").1.contains("\"lines\": 1"));
    assert!(
        daemon
            .get("/-/build")
            .1
            .contains("\"daemon\": \"ibex-echo\"")
    );
    assert!(
        daemon
            .get("/-/debug/tasks")
            .1
            .contains("\"name\": \"accept\"")
    );
    assert!(daemon.get("/-/status").1.contains("\"phase\": \"running\""));
    let _open = daemon.connect();
    let line = wait_for("the connection", || {
        daemon
            .get("/-/connections")
            .1
            .lines()
            .next()
            .map(str::to_owned)
    });
    let view: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        view.get("listener").and_then(serde_json::Value::as_str),
        Some("echo")
    );
    let id = view.get("id").and_then(serde_json::Value::as_u64).unwrap();
    assert_eq!(
        daemon
            .ask("DELETE", &format!("/-/connections/{id}"), "", "")
            .0,
        200
    );
    wait_for("the close", || {
        daemon.get("/-/connections").1.is_empty().then_some(())
    });
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/-/reload", 405),
        ("POST", "/metrics", 405),
        ("POST", "/-/config", 405),
        ("DELETE", "/-/connections/999", 404),
    ] {
        assert_eq!(
            daemon.ask(method, path, "", "").0,
            status,
            "{method} {path}"
        );
    }
    daemon.stop();
}

#[test]
fn workers_can_be_paused_and_slowed() {
    let daemon = Daemon::start(&[]);
    let done = |daemon: &Daemon| daemon.get("/-/workers").1.contains("\"done\": 100");
    wait_for("the work", || done(&daemon).then_some(()));
    let (status, _, body) = daemon.ask("POST", "/-/workers/count-up/pause", "", "");
    assert!(
        status == 200 && body.contains("\"state\": \"paused\""),
        "{body}"
    );
    assert!(
        daemon
            .get("/metrics")
            .1
            .contains("ibex_worker_paused{worker=\"count-up\"} 1")
    );
    let (_, _, body) = daemon.ask("POST", "/-/workers/count-up/speed", "", "25%");
    assert!(body.contains("\"speed\": 25"), "{body}");
    assert_eq!(
        daemon.ask("POST", "/-/workers/count-up/speed", "", "0").0,
        422
    );
    assert_eq!(
        daemon.ask("POST", "/-/workers/count-up/dance", "", "").0,
        404
    );
    assert_eq!(daemon.ask("POST", "/-/workers/nobody/pause", "", "").0, 404);
    let (_, _, body) = daemon.ask("POST", "/-/workers/count-up/resume", "", "");
    assert!(body.contains("\"paused\": false"), "{body}");
    daemon.stop();
}

#[test]
fn log_level_changes_live_and_goes_back() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.get("/-/log-level").1, "info\n");
    assert_eq!(
        daemon
            .ask("PUT", "/-/log-level?for=200ms", "", "debug,hyper=warn")
            .0,
        200
    );
    assert_eq!(daemon.get("/-/log-level").1, "debug,hyper=warn\n");
    wait_for("the old level", || {
        (daemon.get("/-/log-level").1 == "info\n").then_some(())
    });
    assert_eq!(daemon.ask("PUT", "/-/log-level", "", "loud=yes").0, 422);
    assert_eq!(
        daemon.ask("PUT", "/-/log-level?for=soon", "", "debug").0,
        422
    );
    daemon.stop();
}

#[test]
fn token_host_and_cross_site_rules() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0k\n").unwrap();
    let set = format!("admin.token_file={}", token.display());
    let daemon = Daemon::start(&["--set", &set, "--set", "admin.hosts=ops.example"]);
    for path in ["/healthz", "/readyz", "/startupz"] {
        assert_eq!(daemon.get(path).0, 200, "{path}");
    }
    for path in ["/metrics", "/", "/-/config", "/-/workers"] {
        assert_eq!(daemon.get(path).0, 401, "{path}");
        assert_eq!(
            daemon
                .ask("GET", path, "Authorization: Bearer t0k\r\n", "")
                .0,
            200,
            "{path}"
        );
    }
    assert_eq!(
        daemon
            .ask("POST", "/-/drain", "Authorization: Bearer wrong\r\n", "")
            .0,
        401
    );
    let cross = "Authorization: Bearer t0k\r\nOrigin: http://evil.example\r\n";
    assert_eq!(daemon.ask("POST", "/-/drain", cross, "").0, 403);
    assert_eq!(
        daemon
            .ask("GET", "/healthz", "Host: evil.example\r\n", "")
            .0,
        421
    );
    assert_eq!(
        daemon
            .ask("GET", "/healthz", "Host: ops.example:80\r\n", "")
            .0,
        200
    );
    assert_eq!(daemon.get("/readyz").0, 200);
    assert!(!daemon.stop().contains("t0k"));
}

#[test]
fn too_many_admin_connections_are_closed_and_the_rest_is_served() {
    use std::io::Read as _;
    let daemon = Daemon::start(&["--set", "admin.connections=2"]);
    let _held: Vec<TcpStream> = (0..2)
        .map(|_| TcpStream::connect(daemon.address("admin")).unwrap())
        .collect();
    wait_for("the limit", || {
        let mut third = TcpStream::connect(daemon.address("admin")).unwrap();
        third
            .set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        let mut buffer = [0; 1];
        matches!(third.read(&mut buffer), Ok(0)).then_some(())
    });
    drop(_held);
    wait_for("room", || {
        TcpStream::connect(daemon.address("admin"))
            .ok()
            .and_then(|mut stream| {
                use std::io::Write as _;
                stream
                    .write_all(
                        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                    )
                    .ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).ok()?;
                answer.starts_with("HTTP/1.1 200").then_some(())
            })
    });
    daemon.stop();
}
