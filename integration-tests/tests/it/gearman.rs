//! The job server as its widespread clients see it: the `gearman` and `gearadmin` tools, Perl's Gearman::Client and ::Worker,
//! php-gearman, libgearman's C client and worker, Python's `gear` and `python3-gearman`, `node-gearman`. What a walk expects of ours it expects of the
//! original too, which is walked next.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ibex_testkit::{Daemon, ports, skip, wait};
use integration_tests::peers;

pub(crate) fn start() -> (Daemon, SocketAddr) {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    (daemon, addr)
}

/// Lets a client walk its surface: against ours, then against Debian's server, so that what the walk expects is what the original does.
pub(crate) fn against_both(mut walk: impl FnMut(SocketAddr, Whose)) {
    let (daemon, addr) = start();
    walk(addr, Whose::Ours);
    daemon.stop().unwrap();
    let Some(program) = skip::program("gearmand") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let addr = ports::free();
    let mut command = Command::new(program);
    // It unlinks its pid file: never a path that anybody else needs.
    command
        .args(["-L", "127.0.0.1", "-p", &addr.port().to_string(), "-P"])
        .arg(dir.path().join("pid"))
        .arg("-l")
        .arg(dir.path().join("log"));
    let server = Guard(
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait::until_true("the original to listen", || {
        std::net::TcpStream::connect(addr).is_ok()
    })
    .unwrap();
    walk(addr, Whose::Theirs);
    drop(server);
}

/// Whose server a client talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    Theirs,
}

/// `program script host port`, which ends with the line `ok`.
fn tour(mut command: Command, name: &str, addr: SocketAddr) {
    command
        .arg(script(name))
        .arg(addr.ip().to_string())
        .arg(addr.port().to_string());
    let out = peers::ok(&mut command, b"").unwrap();
    assert_eq!(out.lines().last(), Some("ok"), "{name}");
}

fn script(name: &str) -> String {
    format!(
        "{}/tests/it/scripts/gear/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// A child that is killed when the test ends.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn tool(program: &Path, addr: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command
        .arg("-h")
        .arg(addr.ip().to_string())
        .arg("-p")
        .arg(addr.port().to_string());
    command
}

#[test]
fn the_gearman_tool_works_and_submits() {
    let Some(gearman) = skip::program("gearman") else {
        return;
    };
    let (daemon, addr) = start();
    let mut worker = tool(&gearman, addr);
    worker
        .args(["-w", "-f", "count", "--", "wc", "-c"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let worker = Guard(worker.spawn().unwrap());
    let out = peers::ok(tool(&gearman, addr).args(["-f", "count"]), b"eleven char").unwrap();
    assert_eq!(out.trim(), "11");
    let lines: Vec<String> = peers::ok(
        tool(&gearman, addr).args(["-f", "count", "-n"]),
        b"a\nbb\nccc\n",
    )
    .unwrap()
    .lines()
    .map(str::to_owned)
    .collect();
    assert_eq!(lines.len(), 3, "one job for each line: {lines:?}");
    peers::ok(
        tool(&gearman, addr).args(["-b", "-f", "count"]),
        b"in the background",
    )
    .unwrap();
    wait::until_true("the background job to be done", || {
        daemon.metric("ibex_ready").is_ok() && status(addr).contains("count\t0\t0\t1")
    })
    .unwrap();
    drop(worker);
    wait::until_true("the worker to be gone", || {
        status(addr).contains("count\t0\t0\t0")
    })
    .unwrap();
    daemon.stop().unwrap();
}

/// The admin protocol's `status`, asked by hand.
fn status(addr: SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = integration_tests::ping::connect(addr).unwrap();
    stream.write_all(b"status\n").unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !text.ends_with(b".\n") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the connection ended within the status");
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn gearadmin_asks_everything_it_can() {
    let Some(gearadmin) = skip::program("gearadmin") else {
        return;
    };
    let (daemon, addr) = start();
    let ask = |args: &[&str]| peers::ok(tool(&gearadmin, addr).args(args), b"").unwrap();
    assert!(ask(&["--server-version"]).contains('.'));
    assert_eq!(
        ask(&["--getpid"]).trim().trim_start_matches("OK "),
        daemon.pid().unwrap().to_string()
    );
    ask(&["--create-function=made_by_hand"]);
    assert!(ask(&["--status"]).contains("made_by_hand\t0\t0\t0"));
    ask(&["--drop-function=made_by_hand"]);
    assert!(!ask(&["--status"]).contains("made_by_hand"));
    assert!(ask(&["--workers"]).contains('.'));
    assert!(ask(&["--show-jobs"]).contains('.') || ask(&["--show-jobs"]).is_empty());
    daemon.stop().unwrap();
}

#[test]
fn perl_clients_and_workers_walk_their_whole_surface() {
    let Some(perl) = skip::program("perl") else {
        return;
    };
    if !peers::can_run(
        &perl,
        &["-MGearman::Client", "-MGearman::Worker", "-e", "1"],
        "libgearman-client-perl",
    ) {
        return;
    }
    against_both(|addr, _| {
        let out = peers::ok(
            Command::new(&perl)
                .arg(script("tour.pl"))
                .arg(addr.to_string()),
            b"",
        )
        .unwrap();
        assert_eq!(out.lines().last(), Some("ok"));
    });
}

#[test]
fn php_clients_and_workers_walk_their_whole_surface() {
    let Some(php) = skip::program("php") else {
        return;
    };
    if !peers::can_run(
        &php,
        &["-r", "exit(class_exists('GearmanClient') ? 0 : 1);"],
        "php-gearman",
    ) {
        return;
    }
    against_both(|addr, _| {
        let mut worker = Command::new(&php);
        worker
            .arg(script("worker.php"))
            .arg(addr.ip().to_string())
            .arg(addr.port().to_string())
            .arg("9");
        let worker = Guard(worker.stdin(Stdio::null()).spawn().unwrap());
        tour(Command::new(&php), "tour.php", addr);
        drop(worker);
    });
}

#[test]
fn c_clients_and_workers_walk_their_whole_surface() {
    let Some(cc) = skip::program("cc") else {
        return;
    };
    if !Path::new("/usr/include/libgearman/gearman.h").exists() {
        skip::skip("libgearman-dev is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let built = |name: &str| {
        let program = dir.path().join(name);
        let mut command = Command::new(&cc);
        command.arg("-o").arg(&program);
        command.arg(script(&format!("{name}.c"))).arg("-lgearman");
        peers::ok(&mut command, b"").unwrap();
        program
    };
    let (worker, client) = (built("worker"), built("client"));
    against_both(|addr, whose| {
        let at = |program: &Path| {
            let mut command = Command::new(program);
            command
                .arg(addr.ip().to_string())
                .arg(addr.port().to_string());
            command
        };
        let mut working = Guard(at(&worker).stdin(Stdio::null()).spawn().unwrap());
        let mut command = at(&client);
        if whose == Whose::Ours {
            command.arg("later");
        }
        let out = peers::ok(&mut command, b"").unwrap();
        assert_eq!(out.lines().last(), Some("ok"));
        wait::until_true("the worker to end by itself", || {
            working
                .0
                .try_wait()
                .unwrap()
                .is_some_and(|status| status.success())
        })
        .unwrap();
    });
}

#[test]
fn python_gear_walks_its_whole_surface() {
    let Some(python) = peers::python_with("gear") else {
        return;
    };
    against_both(|addr, _| tour(Command::new(&python), "tour_gear.py", addr));
}

#[test]
fn python3_gearman_walks_its_whole_surface() {
    let Some(python) = peers::python_with("python3_gearman") else {
        return;
    };
    against_both(|addr, _| tour(Command::new(&python), "tour_python3_gearman.py", addr));
}

#[test]
fn node_gearman_walks_its_whole_surface() {
    let Some(node) = skip::program("node") else {
        return;
    };
    let Some(home) = std::env::var_os("HOME") else {
        return;
    };
    let modules = Path::new(&home).join(".cache/ibex/node-clients/node_modules");
    if !modules.join("node-gearman").exists() {
        skip::skip("no Node here has node-gearman");
        return;
    }
    against_both(|addr, _| {
        let mut command = Command::new(&node);
        command.env("NODE_PATH", &modules);
        tour(command, "tour_node.js", addr);
    });
}

#[test]
fn an_acknowledged_background_job_outlives_kill_nine() {
    let Some(gearman) = skip::program("gearman") else {
        return;
    };
    let (mut daemon, addr) = start();
    peers::ok(
        tool(&gearman, addr).args(["-b", "-f", "later", "-u", "one"]),
        b"survive",
    )
    .unwrap();
    daemon.kill_and_restart().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    assert!(status(addr).contains("later\t1\t0\t0"), "{}", status(addr));
    let out = peers::ok(
        tool(&gearman, addr).args(["-w", "-c", "1", "-f", "later", "--", "cat"]),
        b"",
    )
    .unwrap();
    drop(out);
    wait::until_true("the job to be done", || {
        status(addr).contains("later\t0\t0\t0")
    })
    .unwrap();
    daemon.stop().unwrap();
}
