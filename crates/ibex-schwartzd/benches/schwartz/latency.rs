//! How long after an insert a waiting worker has the job, by every way in and out.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Http, folder, now};
use crate::ours::{Ours, bulk};
use crate::perl;
use crate::place::{Kind, Place};

/// Milliseconds, sorted.
pub(crate) type Times = Vec<f64>;

/// A fetch that waits, again and again; tells when each job arrived.
fn long_poll(mut worker: Http, count: usize, told: &Sender<f64>) {
    let fetch = json!({ "funcs": ["Bench"], "wait_ms": 60_000 }).to_string();
    for _ in 0..count {
        let answer: Value = serde_json::from_slice(&worker.post("/v1/fetch", &fetch)).unwrap();
        told.send(now()).unwrap();
        complete(&mut worker, &answer["jobs"][0]);
    }
}

/// The same from a stream of jobs.
fn stream(worker: Http, mut finisher: Http, count: usize, told: &Sender<f64>) {
    let mut lines = worker.get("/v1/take?funcs=Bench&worker=w&prefetch=2");
    for _ in 0..count {
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended");
        }
        told.send(now()).unwrap();
        complete(&mut finisher, &serde_json::from_str(&line).unwrap());
    }
}

fn complete(http: &mut Http, job: &Value) {
    let path = format!("/v1/jobs/{}/complete", job["handle"].as_str().unwrap());
    http.post(&path, &json!({ "lease": job["lease"] }).to_string());
}

/// Inserts one after the other, each when `waits` says that the worker waits, and compares with the arrivals.
fn measure(
    count: usize,
    arrivals: &Receiver<f64>,
    mut waits: impl FnMut(),
    mut insert: impl FnMut() -> f64,
) -> Times {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        waits();
        let inserted = insert();
        all.push((arrivals.recv().unwrap() - inserted).max(0.0) * 1000.0);
    }
    all.sort_by(f64::total_cmp);
    all
}

fn waiting(ours: &Ours<'_>, least: f64) -> impl FnMut() {
    let admin = ours.daemon.admin().unwrap();
    move || {
        let has = || {
            let text = ibex_testkit::http::get(admin, "/metrics").unwrap().text();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("ibex_schwartzd_fetch_waiters "));
            line.is_some_and(|value| value.trim().parse().is_ok_and(|value: f64| value > least))
        };
        ibex_testkit::wait::until_true("a waiting worker", has).unwrap();
    }
}

/// From before an insert over HTTP, the commit in it, to the answer of a long poll. The daemon is given, so that it may have other things to do.
pub(crate) fn of_http(ours: &Ours<'_>, count: usize) -> Times {
    let (told, arrivals) = channel();
    // Others may wait for other functions.
    let before = ours.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap();
    let worker = ours.connect();
    let thread = std::thread::spawn(move || long_poll(worker, count, &told));
    let mut producer = ours.connect();
    let all = measure(count, &arrivals, waiting(ours, before), || {
        let start = now();
        producer.post("/v1/jobs", &bulk(1));
        start
    });
    thread.join().unwrap();
    all
}

/// The same into a stream.
pub(crate) fn of_stream(count: usize) -> Option<Times> {
    let ours = Ours::start(Kind::Sqlite)?;
    let (told, arrivals) = channel();
    let (worker, finisher) = (ours.connect(), ours.connect());
    let thread = std::thread::spawn(move || stream(worker, finisher, count, &told));
    let mut producer = ours.connect();
    let all = measure(count, &arrivals, waiting(&ours, 0.0), || {
        let start = now();
        producer.post("/v1/jobs", &bulk(1));
        start
    });
    thread.join().unwrap();
    ours.daemon.stop().unwrap();
    Some(all)
}

/// A Perl program that is asked for things line by line.
struct Script {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Script {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn ask(&mut self) -> f64 {
        writeln!(self.child.stdin.as_mut().unwrap(), "insert").unwrap();
        self.line().trim().parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// From a Perl program's commit to the answer of a long poll.
pub(crate) fn of_foreign(kind: Kind<'_>, count: usize) -> Option<Times> {
    let ours = Ours::start(kind)?;
    let (dsn, user) = ours.place.dbi();
    let mut program = Script::start(perl::script("foreign", &dsn, user, Duration::ZERO)?);
    let (told, arrivals) = channel();
    let worker = ours.connect();
    let thread = std::thread::spawn(move || long_poll(worker, count, &told));
    let all = measure(count, &arrivals, waiting(&ours, 0.0), || program.ask());
    thread.join().unwrap();
    ours.daemon.stop().unwrap();
    Some(all)
}

/// A job server of Debian's; ends when dropped.
struct Gearmand(Child);

impl Drop for Gearmand {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// From before an insert over HTTP to the start of the work in a Perl worker that was poked through a job server.
pub(crate) fn of_poke(count: usize) -> Option<Times> {
    let gearmand = ibex_testkit::skip::find_program("gearmand")?;
    let has_worker = Command::new("perl")
        .args(["-MGearman::Worker", "-e", "1"])
        .stderr(Stdio::null())
        .status();
    has_worker.ok().filter(std::process::ExitStatus::success)?;
    let dir = folder();
    let addr = ibex_testkit::ports::free();
    let server = addr.to_string();
    let child = Command::new(gearmand)
        .args(["--listen=127.0.0.1", "--log-file=stderr"])
        .arg(format!("--port={}", addr.port()))
        .arg(format!("--pid-file={}", dir.path().join("pid").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _gearmand = Gearmand(child);
    ibex_testkit::wait::until_true("gearmand", || TcpStream::connect(addr).is_ok()).unwrap();
    let place = Place::new(Kind::Sqlite)?;
    let (dsn, user) = place.dbi();
    let ours = Ours::start_with(place, &[("poke_gearman", &server)])?;
    let mut command = perl::script("poked", &dsn, user, Duration::ZERO)?;
    command.args([&server]);
    let mut worker = Script::start(command);
    assert_eq!(worker.line(), "ready\n");
    let mut producer = ours.connect();
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let start = now();
        producer.post("/v1/jobs", &bulk(1));
        let begun: f64 = worker.line().trim().parse().unwrap();
        all.push((begun - start) * 1000.0);
    }
    all.sort_by(f64::total_cmp);
    ours.daemon.stop().unwrap();
    Some(all)
}
