//! Start, reload, drain, shutdown commands, signals.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ibex_testkit::Daemon;
use ibex_testkit::wait::until_true;
use rustix::process::Signal;

use crate::support::{Backend, Manage, Raw, balancer, get, proxy_commands, respond};

#[test]
fn sigterm_under_load_fails_no_request() {
    let backend = Backend::text("x");
    let daemon = Mutex::new(balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on",
    )));
    let addr = daemon.lock().unwrap().addr("web").unwrap();
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // Refused: the listener is closed, which is how a drain begins.
                    let Ok(stream) = std::net::TcpStream::connect(addr) else {
                        return;
                    };
                    let mut client = Raw::over(stream);
                    loop {
                        use std::io::Write as _;
                        // A connection that was closed while idle is no failed request; one that is answered half is.
                        if client
                            .stream()
                            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                            .is_err()
                        {
                            break;
                        }
                        let Some(answer) = client.try_answer(false) else {
                            break;
                        };
                        assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
                        served.fetch_add(1, Ordering::SeqCst);
                        if answer.header("Connection") == Some("close") {
                            break;
                        }
                    }
                }
            });
        }
        until_true("load", || served.load(Ordering::SeqCst) > 500).unwrap();
        let ended = daemon.lock().unwrap().terminate();
        stop.store(true, Ordering::SeqCst);
        ended.unwrap();
    });
}

#[test]
fn a_request_in_flight_is_finished() {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::start(move |_, stream| {
        gate.lock().unwrap().recv().is_ok() && respond(stream, "200 OK", "", b"done")
    });
    let mut daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the backend has it", || backend.seen().len() == 1).unwrap();
    daemon.signal(Signal::TERM).unwrap();
    until_true("nobody listens", || {
        std::net::TcpStream::connect(addr).is_err()
    })
    .unwrap();
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!(
        (answer.text().as_str(), answer.header("Connection")),
        ("done", Some("close"))
    );
    assert!(daemon.wait_exit(Duration::from_secs(20)).unwrap().success());
    daemon.judge_log().unwrap();
}

fn with_file(path: &std::path::Path) -> Daemon {
    Daemon::builder("ibex-perlbal")
        .without_env("IBEX_LISTEN")
        .arg("-c")
        .arg(path)
        .start()
        .unwrap()
}

#[test]
fn a_pid_file_is_written_and_one_that_cannot_be_is_said() {
    let backend = Backend::text("here");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("perlbal.conf");
    let pid_file = directory.path().join("run/perlbal.pid");
    let commands = proxy_commands(&[backend.addr], "");
    std::fs::write(
        &file,
        format!("SERVER pidfile = {}\n{commands}", pid_file.display()),
    )
    .unwrap();
    let mut daemon = with_file(&file);
    daemon.announce("pid file not written");
    assert_eq!(get(daemon.addr("web").unwrap(), "/").text(), "here");
    daemon.stop().unwrap();

    std::fs::create_dir(directory.path().join("run")).unwrap();
    let daemon = with_file(&file);
    let written = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(written, format!("{}\n", daemon.pid().unwrap()));
    daemon.stop().unwrap();
    assert!(!pid_file.exists());
}

#[test]
fn sighup_reloads_without_dropping_connections() {
    let (old, new) = (Backend::text("old"), Backend::text("new"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("perlbal.conf");
    let write = |backend: &Backend, more: &str| {
        std::fs::write(
            &file,
            format!(
                "{}\n{more}",
                proxy_commands(&[backend.addr], "persist_client = on\npersist_backend = on")
            ),
        )
        .unwrap()
    };
    write(&old, "");
    let mut daemon = with_file(&file);
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    let mut ask = || {
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer()
            .text()
    };
    assert_eq!(ask(), "old");
    write(&new, "");
    daemon.signal(Signal::HUP).unwrap();
    until_true("the new pool is used", || ask() == "new").unwrap();
    assert_eq!(get(addr, "/").text(), "new", "the listener is the same");
    // A broken file changes nothing, and says where it is broken.
    daemon.announce("reload");
    daemon.announce("not reloaded");
    write(&old, "FROBNICATE");
    let refused = Manage::connect(&daemon).run("RELOAD CONFIG");
    let line = std::fs::read_to_string(&file).unwrap().lines().count();
    assert!(
        refused.ends_with(&format!(
            "perlbal.conf:{line}: ERROR: unknown command: frobnicate"
        )),
        "{refused}"
    );
    daemon.signal(Signal::HUP).unwrap();
    daemon.wait_log("reload").unwrap();
    assert_eq!(ask(), "new");
    write(&old, "");
    assert_eq!(Manage::connect(&daemon).run("RELOAD CONFIG"), "OK");
    assert_eq!(ask(), "old");
    daemon.stop().unwrap();
}

#[test]
fn shutdown_commands() {
    let (go, gate) = channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let held = Arc::clone(&gate);
    let backend = Backend::start(move |_, stream| {
        held.lock().unwrap().recv().is_ok() && respond(stream, "200 OK", "", b"done")
    });
    let mut daemon = balancer(&proxy_commands(&[backend.addr], ""));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the backend has it", || backend.seen().len() == 1).unwrap();
    assert_eq!(Manage::connect(&daemon).run("SHUTDOWN GRACEFUL"), "OK");
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "done");
    assert!(daemon.wait_exit(Duration::from_secs(20)).unwrap().success());

    let mut daemon = balancer(&proxy_commands(&[backend.addr], ""));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the backend has it", || backend.seen().len() == 2).unwrap();
    let mut manage = Raw::connect(daemon.addr("mgmt").unwrap());
    assert!(manage.send("shutdown\n").rest().is_empty(), "no reply");
    assert!(
        daemon.wait_exit(Duration::from_secs(10)).unwrap().success(),
        "at once, whatever is in flight"
    );
    drop(go);
}

#[test]
fn metrics_and_status() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    for _ in 0..3 {
        get(daemon.addr("web").unwrap(), "/");
    }
    until_true("the requests are counted", || {
        daemon
            .metric("ibex_perlbal_requests_total{service=\"web\",code=\"2xx\"}")
            .is_ok_and(|n| (2.5..3.5).contains(&n))
    })
    .unwrap();
    let status = daemon.admin_get("/-/services").unwrap().text();
    assert!(status.contains("\"reverse_proxy\""), "{status}");
    daemon.stop().unwrap();
}
