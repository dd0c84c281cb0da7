//! The admin text protocol and the admin port of the real daemon.

use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::Daemon;

use crate::packets::Wire;

fn start() -> Daemon {
    Daemon::builder("ibex-gearmand")
        .set("job_handle_prefix", "H:t")
        .start()
        .unwrap()
}

#[test]
fn lists_show_what_is_there() {
    let daemon = start();
    let addr = daemon.addr("gearman").unwrap();
    let (mut client, mut worker, mut operator) = (
        Wire::connect(addr),
        Wire::connect(addr),
        Wire::connect(addr),
    );
    worker.send(Request::SetClientId {
        id: b"w\nforged line",
    });
    worker.send(Request::CanDo { function: b"f" });
    worker.send(Request::CanDo { function: b"g" });
    worker.said();
    client.send(Request::Submit(Submit::new(b"f", b"u1", b"x")));
    client.send(Request::Submit(Submit::new(b"f", b"", b"y").background()));
    let (first, second) = (client.handle(), client.handle());
    worker.send(Request::GrabJob(Grab::Plain));
    worker.said();
    assert_eq!(operator.list("status"), ["f\\t2\\t1\\t1", "g\\t0\\t0\\t1"]);
    assert_eq!(
        operator.list("prioritystatus"),
        ["f\\t0\\t1\\t0\\t1", "g\\t0\\t0\\t0\\t1"]
    );
    assert_eq!(
        operator.list("show jobs"),
        [
            format!("{first}\\t0\\t0\\t0"),
            format!("{second}\\t0\\t0\\t1")
        ]
    );
    assert_eq!(operator.list("show unique jobs"), ["u1", ""]);
    let workers = operator.list("workers");
    assert_eq!(workers.len(), 3);
    assert!(
        workers
            .iter()
            .any(|line| line.ends_with(" w?forged line : g f")),
        "{workers:?}"
    );
    assert!(
        workers.iter().any(|line| line.ends_with(" 127.0.0.1 - :")),
        "{workers:?}"
    );
    let job = operator.list(&format!("show job {first}"));
    assert!(
        job.contains(&"state: running".to_owned()) && job.contains(&"clients: 1".to_owned()),
        "{job:?}"
    );
    assert!(operator.list("show functions")[1].starts_with("f\\t2\\t0\\t1\\t0\\t0\\t1\\t1\\t"));
    assert!(operator.list("jobs")[0].starts_with("f\\tu1\\t127.0.0.1:"));
    assert!(
        operator
            .list("clients")
            .iter()
            .any(|line| line.starts_with("\\tf\\tu1\\t"))
    );
    assert!(
        operator
            .list("metrics")
            .iter()
            .any(|line| line.starts_with("ibex_gearmand_jobs_assigned_total 1"))
    );
    daemon.stop().unwrap();
}

#[test]
fn lines_of_every_command() {
    let daemon = start();
    let mut operator = Wire::connect(daemon.addr("gearman").unwrap());
    for (command, answer) in [
        ("version", "text OK 1.1.21+ibex\\n"),
        ("VERSION\r", "text OK 1.1.21+ibex\\n"),
        ("verbose", "text OK INFO\\n"),
        ("create function x", "text OK\\r\\n"),
        ("drop function x", "text OK\\r\\n"),
        ("drop function x", "text ERR function not found\\r\\n"),
        ("maxqueue x 5", "text OK\\r\\n"),
        (
            "maxqueue",
            "text ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+maxqueue\\r\\n",
        ),
        ("cancel job H:t:77", "text ERR UNKNOWN_JOB\\r\\n"),
        ("show nonsense", "text ERR UNKNOWN_SHOW_ARGUMENTS\\r\\n"),
        (
            "nonsense",
            "text ERR UNKNOWN_COMMAND Unknown+server+commandnonsense\\r\\n",
        ),
        (
            "shutdown",
            "text ERR UNKNOWN_COMMAND Unknown+server+commandshutdown\\r\\n",
        ),
        ("pause x", "text OK\\r\\n"),
        ("resume x", "text OK\\r\\n"),
        ("limit x running 2", "text OK\\r\\n"),
        ("limit x rate 10/s burst 3", "text OK\\r\\n"),
        ("purge x", "text OK 0\\r\\n"),
        ("drain off", "text OK\\r\\n"),
        ("retry dead *", "text OK 0\\r\\n"),
    ] {
        assert_eq!(operator.line(command), answer, "{command}");
    }
    assert_eq!(
        operator.line("getpid"),
        format!("text OK {}\\n", daemon.pid().unwrap())
    );
    daemon.stop().unwrap();
}

#[test]
fn shutdown_comes_over_the_operators_socket_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let mut daemon = Daemon::builder("ibex-gearmand")
        .set("admin_socket", &format!("unix:{}", path.display()))
        .start()
        .unwrap();
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut socket, b"shutdown\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).unwrap();
    assert_eq!(answer, "OK\r\n");
    assert!(
        daemon
            .wait_exit(std::time::Duration::from_secs(20))
            .unwrap()
            .success()
    );
}

#[test]
fn the_admin_port_shows_functions_jobs_and_workers() {
    let daemon = start();
    let addr = daemon.addr("gearman").unwrap();
    let mut client = Wire::connect(addr);
    client.send(Request::Submit(Submit::new(b"f", b"u1", b"x").background()));
    client.handle();
    let functions = daemon.admin_get("/-/functions").unwrap().text();
    assert!(
        functions.contains("\"name\":\"f\"") || functions.contains("\"name\": \"f\""),
        "{functions}"
    );
    let jobs = daemon.admin_get("/-/jobs").unwrap().text();
    assert!(jobs.contains("u1"), "{jobs}");
    client.send(Request::Submit(Submit {
        schedule: Some([b"0", b"3", b"", b"", b"0"]),
        ..Submit::new(b"nightly", b"n1", b"x").background()
    }));
    client.handle();
    let schedules = daemon.admin_get("/-/schedules").unwrap().text();
    let schedules: serde_json::Value = serde_json::from_str(&schedules).unwrap();
    assert_eq!(schedules[0]["function"], "nightly", "{schedules}");
    assert_eq!(schedules[0]["hour"], "3", "{schedules}");
    let page = daemon.admin_get("/").unwrap().text();
    assert!(page.contains("nobody can do this"), "{page}");
    let submitted = daemon
        .metric("ibex_gearmand_jobs_submitted_total{kind=\"background\",priority=\"normal\"}")
        .unwrap();
    assert!((submitted - 1.0).abs() < f64::EPSILON);
    daemon.stop().unwrap();
}
