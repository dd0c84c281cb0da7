//! The Gearman fronts, spoken to by Debian's `gearman`, by the Perl modules and by our own client.

use crate::Case;
use crate::poke::Gearmand;
use ibex_gearman_client::{Client, Config, JobError, Priority, Worker, WorkerJob};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// The daemon as a job server, and where it is one.
fn job_server(settings: &[(&str, &str)]) -> (Case, String) {
    let mut all = vec![("gearman_listen", "127.0.0.1:0")];
    all.extend_from_slice(settings);
    let case = Case::start(&all);
    let server = case.daemon.addr("gearman").unwrap().to_string();
    (case, server)
}

fn state(case: &Case, handle: &str) -> String {
    let durable = handle.strip_prefix("S:").unwrap_or(handle);
    let (status, job) = case.call("GET", &format!("/v1/jobs/{durable}"), &Value::Null);
    if status == 404 {
        return "gone".to_owned();
    }
    job["state"].as_str().unwrap().to_owned()
}

fn wait_state(case: &Case, handle: &str, wanted: &str) {
    ibex_testkit::wait::until_true(&format!("{handle} to be {wanted}"), || {
        state(case, handle) == wanted
    })
    .unwrap();
}

fn gearman(server: &str, args: &[&str], stdin: &[u8]) -> Option<Output> {
    let program = ibex_testkit::skip::program("gearman")?;
    let (host, port) = server.rsplit_once(':').unwrap();
    let mut child = Command::new(program)
        .args(["-h", host, "-p", port])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    Some(child.wait_with_output().unwrap())
}

#[test]
fn debians_client_and_worker_through_our_job_server() {
    let (case, server) = job_server(&[]);
    let Some(submitted) = gearman(
        &server,
        &["-b", "-v", "-f", "Cli", "-u", "key"],
        b"argument",
    ) else {
        return;
    };
    assert!(submitted.status.success(), "{submitted:?}");
    let text = String::from_utf8_lossy(&submitted.stderr).into_owned()
        + &String::from_utf8_lossy(&submitted.stdout);
    let handle = text
        .split_whitespace()
        .find(|word| word.starts_with("S:"))
        .unwrap_or_else(|| panic!("no handle in {text}"))
        .to_owned();
    assert_eq!(state(&case, &handle), "ready");
    let job = case.ok("GET", &format!("/v1/jobs/{}", &handle[2..]), &Value::Null);
    assert_eq!(
        (&job["uniqkey"], &job["priority"]),
        (&json!("key"), &json!(1))
    );
    // One job, to `cat`, whose output is the result.
    let worked = gearman(&server, &["-w", "-f", "Cli", "-c", "1", "--", "cat"], b"").unwrap();
    assert!(worked.status.success(), "{worked:?}");
    wait_state(&case, &handle, "completed");
    let job = case.ok("GET", &format!("/v1/jobs/{}", &handle[2..]), &Value::Null);
    assert_eq!(job["result"], "argument");
    // A client that would wait is told that nobody waits here.
    let refused = gearman(&server, &["-f", "Cli"], b"argument").unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("not_durable"), "{refused:?}");
    case.daemon.stop().unwrap();
}

const PERL: &str = r#"
use strict; use Gearman::Client; use Gearman::Worker;
my ($server, $what) = @ARGV;
if ($what eq 'client') {
    my $c = Gearman::Client->new; $c->job_servers($server);
    for my $n (1 .. 3) {
        my $h = $c->dispatch_background('Perl', "argument $n", { uniq => "k$n" });
        print "$h\n";
        my $s = $c->get_status($h);
        print "known ", ($s->known ? 1 : 0), " running ", ($s->running ? 1 : 0), "\n";
    }
} else {
    my $w = Gearman::Worker->new; $w->job_servers($server);
    my $done = 0;
    $w->register_function(Perl => sub { my $j = shift; $done++; die "told so\n" if $j->arg =~ /2/; print "did ", $j->arg, "\n"; return "done" });
    $w->work(stop_if => sub { $done >= 3 }) while $done < 3;
}
"#;

#[test]
fn the_perl_modules_through_our_job_server() {
    let found = Command::new("perl")
        .args(["-MGearman::Client", "-MGearman::Worker", "-e", "1"])
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        ibex_testkit::skip::skip(
            "Perl's Gearman modules are not installed (libgearman-client-perl)",
        );
        return;
    }
    let (case, server) = job_server(&[]);
    let run = |what: &str| {
        let output = Command::new("perl")
            .args(["-e", PERL, &server, what])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = run("client");
    let handles: Vec<String> = told
        .lines()
        .filter_map(|line| line.find("S:").and_then(|at| line.get(at..)))
        .map(str::to_owned)
        .collect();
    assert_eq!(handles.len(), 3, "{told}");
    assert_eq!(told.matches("known 1 running 0").count(), 3, "{told}");
    let mut did: Vec<String> = run("worker").lines().map(str::to_owned).collect();
    did.sort();
    assert_eq!(did, ["did argument 1", "did argument 3"]);
    wait_state(&case, &handles[0], "completed");
    wait_state(&case, &handles[2], "completed");
    // The one that died runs again, later.
    wait_state(&case, &handles[1], "scheduled");
    let job = case.ok(
        "GET",
        &format!("/v1/jobs/{}", &handles[1][2..]),
        &Value::Null,
    );
    assert_eq!(job["failures"].as_array().unwrap().len(), 1, "{job}");
    case.daemon.stop().unwrap();
}

#[test]
fn a_sleeping_worker_is_woken_and_the_urgent_come_first() {
    let (case, server) = job_server(&[]);
    let runtime = runtime();
    let client = runtime
        .block_on(Client::connect(Config::new([server.clone()])))
        .unwrap();
    // Waiting before the worker comes: order by priority, and a time that has not come.
    let submit = |function: &str, arg: &str, priority| {
        runtime
            .block_on(async {
                client
                    .submit_background(function, arg.to_owned())
                    .priority(priority)
                    .await
            })
            .unwrap()
    };
    submit("Order", "low", Priority::Low);
    submit("Order", "normal", Priority::Normal);
    submit("Order", "high", Priority::High);
    let later = runtime
        .block_on(async {
            client
                .submit_background("Order", "later")
                .at(SystemTime::now() + Duration::from_secs(3600))
                .await
        })
        .unwrap();
    let later = String::from_utf8(later.as_bytes().to_vec()).unwrap();
    assert_eq!(state(&case, &later), "scheduled");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let worker = Worker::new(Config::new([server])).id("sleeper").function(
        "Order",
        move |job: WorkerJob| {
            let noted = Arc::clone(&noted);
            async move {
                let text = String::from_utf8_lossy(job.workload()).into_owned();
                noted.lock().unwrap().push(text.clone());
                match text.as_str() {
                    "fails" => Err(JobError::Fail),
                    _ => Ok(bytes::Bytes::new()),
                }
            }
        },
    );
    let stop = CancellationToken::new();
    let running = runtime.spawn(worker.run(stop.clone()));
    let count = |wanted: usize| {
        ibex_testkit::wait::until_true("jobs to be worked", || {
            seen.lock().unwrap().len() == wanted
        })
        .unwrap();
    };
    count(3);
    assert_eq!(*seen.lock().unwrap(), ["high", "normal", "low"]);
    // Now it sleeps; whoever inserts wakes it.
    ibex_testkit::wait::until_true("the worker to sleep", || {
        case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
    })
    .unwrap();
    let over_http = case.insert(&json!({"func": "Order", "arg": "http"}));
    count(4);
    wait_state(&case, &over_http, "completed");
    let fails = submit("Order", "fails", Priority::Normal);
    count(5);
    wait_state(
        &case,
        std::str::from_utf8(fails.as_bytes()).unwrap(),
        "scheduled",
    );
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
    case.daemon.stop().unwrap();
}

/// A packet of a client or worker.
fn packet(kind: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let payload = arguments.join(&0);
    let mut out = b"\0REQ".to_vec();
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

struct Raw(TcpStream);

impl Raw {
    fn connect(server: &str) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(stream)
    }

    fn send(&mut self, kind: u32, arguments: &[&[u8]]) {
        self.0.write_all(&packet(kind, arguments)).unwrap();
    }

    /// Type and payload of the next packet.
    fn read(&mut self) -> (u32, Vec<u8>) {
        let mut head = [0; 12];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(&head[..4], b"\0RES");
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; number(8) as usize];
        self.0.read_exact(&mut payload).unwrap();
        (number(4), payload)
    }

    fn ask(&mut self, kind: u32, arguments: &[&[u8]]) -> (u32, Vec<u8>) {
        self.send(kind, arguments);
        self.read()
    }
}

const CAN_DO: u32 = 1;
const PRE_SLEEP: u32 = 4;
const NOOP: u32 = 6;
const JOB_CREATED: u32 = 8;
const GRAB_JOB: u32 = 9;
const NO_JOB: u32 = 10;
const JOB_ASSIGN: u32 = 11;
const WORK_COMPLETE: u32 = 13;
const SUBMIT_JOB: u32 = 7;
const SUBMIT_JOB_BG: u32 = 18;
const ECHO_REQ: u32 = 16;
const ECHO_RES: u32 = 17;
const ERROR: u32 = 19;
const CAN_DO_TIMEOUT: u32 = 23;

#[test]
fn pipelined_packets_are_answered_in_order_and_bad_ones_alone_are_refused() {
    let (case, server) = job_server(&[("max_arg_size", "1000")]);
    let mut raw = Raw::connect(&server);
    let mut all = Vec::new();
    for n in 0..100 {
        all.extend(packet(
            SUBMIT_JOB_BG,
            &[b"P", b"", format!("{n}").as_bytes()],
        ));
    }
    all.extend(packet(ECHO_REQ, &[b"between"]));
    all.extend(packet(SUBMIT_JOB_BG, &[b"P", b"", &[b'x'; 1001]]));
    all.extend(packet(SUBMIT_JOB_BG, &[b"\xff", b"", b""]));
    all.extend(packet(SUBMIT_JOB, &[b"P", b"", b""]));
    all.extend(packet(SUBMIT_JOB_BG, &[b"P", b"twice", b"a"]));
    all.extend(packet(SUBMIT_JOB_BG, &[b"P", b"twice", b"b"]));
    // In two pieces, so that a packet is cut.
    raw.0.write_all(&all[..777]).unwrap();
    raw.0.write_all(&all[777..]).unwrap();
    let mut last = 0;
    for _ in 0..100 {
        let (kind, handle) = raw.read();
        assert_eq!(kind, JOB_CREATED);
        let handle = String::from_utf8(handle).unwrap();
        let jobid: u64 = handle.rsplit_once('-').unwrap().1.parse().unwrap();
        assert!(jobid > last, "{handle}");
        last = jobid;
    }
    assert_eq!(raw.read(), (ECHO_RES, b"between".to_vec()));
    for code in ["DATA_TOO_LARGE", "INVALID_ARGUMENT", "not_durable"] {
        let (kind, text) = raw.read();
        assert_eq!(kind, ERROR);
        assert!(text.starts_with(code.as_bytes()), "{text:?}");
    }
    let first = raw.read();
    assert_eq!(first.0, JOB_CREATED);
    assert_eq!(raw.read(), first, "the pending job's handle");
    assert_eq!(case.fetch("P", 0).len(), 100);
    // Not Gearman at all: closed.
    raw.0.write_all(b"\0GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(raw.0.read(&mut [0; 10]).unwrap(), 0);
    case.daemon.stop().unwrap();
}

#[test]
fn a_connection_that_ends_gives_its_jobs_back_and_one_that_lives_keeps_them() {
    let (case, server) = job_server(&[("grab_for", "6s")]);
    let handle = case.insert(&json!({"func": "K", "arg": "x"}));
    let mut first = Raw::connect(&server);
    first.send(CAN_DO, &[b"K"]);
    let (kind, payload) = first.ask(GRAB_JOB, &[]);
    assert_eq!(kind, JOB_ASSIGN);
    assert_eq!(payload, [b"S:", handle.as_bytes(), b"\0K\0x"].concat());
    // After its lease it is still this connection's: nobody else gets it, nothing was counted.
    let begin = std::time::Instant::now();
    assert!(case.fetch("K", 7_500).is_empty());
    assert!(begin.elapsed() >= Duration::from_secs(7));
    assert_eq!(state(&case, &handle), "grabbed");
    let mut second = Raw::connect(&server);
    second.send(CAN_DO, &[b"K"]);
    assert_eq!(second.ask(GRAB_JOB, &[]).0, NO_JOB);
    second.send(PRE_SLEEP, &[]);
    let stolen = second.ask(
        WORK_COMPLETE,
        &[format!("S:{handle}").as_bytes(), b"not mine"],
    );
    assert!(stolen.1.starts_with(b"JOB_NOT_FOUND"), "{stolen:?}");
    drop(first);
    assert_eq!(second.read().0, NOOP);
    assert_eq!(second.ask(GRAB_JOB, &[]).0, JOB_ASSIGN);
    second.send(WORK_COMPLETE, &[format!("S:{handle}").as_bytes(), b""]);
    wait_state(&case, &handle, "completed");
    let job = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(job["failures"], json!([]));
    case.daemon.stop().unwrap();
}

#[test]
fn a_sleeper_that_does_not_come_loses_the_job_to_the_next() {
    let (case, server) = job_server(&[]);
    let mut idle = Raw::connect(&server);
    idle.send(CAN_DO, &[b"H"]);
    idle.send(PRE_SLEEP, &[]);
    ibex_testkit::wait::until_true("the worker to sleep", || {
        case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
    })
    .unwrap();
    let handle = case.insert(&json!({"func": "H"}));
    assert_eq!(idle.read().0, NOOP);
    // It never grabs; the job is another's soon.
    let jobs = case.fetch("H", 30_000);
    assert_eq!(jobs[0]["handle"], handle);
    assert_eq!(jobs[0]["attempt"], 1);
    assert_eq!(idle.ask(GRAB_JOB, &[]).0, NO_JOB);
    case.daemon.stop().unwrap();
}

#[test]
fn a_bounded_function_runs_no_longer_than_its_time() {
    let (case, server) = job_server(&[]);
    let handle = case.insert(&json!({"func": "T"}));
    let mut raw = Raw::connect(&server);
    raw.send(CAN_DO_TIMEOUT, &[b"T", b"1"]);
    assert_eq!(raw.ask(GRAB_JOB, &[]).0, JOB_ASSIGN);
    wait_state(&case, &handle, "scheduled");
    let job = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(job["failures"][0]["message"], "lease expired");
    let late = raw.ask(WORK_COMPLETE, &[format!("S:{handle}").as_bytes(), b""]);
    assert!(late.1.starts_with(b"JOB_NOT_FOUND"), "{late:?}");
    case.daemon.stop().unwrap();
}

#[test]
fn the_text_commands_that_monitoring_asks() {
    let (case, server) = job_server(&[]);
    case.insert(&json!({"func": "A"}));
    let mut worker = Raw::connect(&server);
    worker.send(CAN_DO, &[b"A"]);
    worker.send(22, &[b"me"]);
    assert_eq!(worker.ask(ECHO_REQ, &[b"x"]).0, ECHO_RES);
    let mut lines = BufReader::new(TcpStream::connect(&server).unwrap());
    let mut ask = |command: &str| {
        lines
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .unwrap();
        let mut all = Vec::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            let line = line.trim_end().to_owned();
            if line == "." || line.starts_with("OK") || line.starts_with("ERR") {
                all.push(line);
                return all;
            }
            all.push(line);
        }
    };
    assert_eq!(ask("status"), ["A\t1\t0\t1", "."]);
    let workers = ask("workers");
    assert!(
        workers.iter().any(|line| line.ends_with(" me : A")),
        "{workers:?}"
    );
    assert!(ask("version")[0].starts_with("OK ibex-schwartzd "));
    assert!(ask("shutdown")[0].starts_with("ERR "));
    case.daemon.stop().unwrap();
}

#[test]
fn foreground_jobs_go_to_the_job_server_that_is_meant_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_gearmand, forward)) = Gearmand::start(dir.path()) else {
        return;
    };
    let (case, server) = job_server(&[("gearman_forward", &forward)]);
    let runtime = runtime();
    let worker = Worker::new(Config::new([forward])).function("Fg", |job: WorkerJob| async move {
        match &job.workload()[..] {
            b"throw" => Err(JobError::exception("thrown")),
            text => {
                job.data(b"part of ").await;
                Ok(bytes::Bytes::copy_from_slice(text))
            }
        }
    });
    let stop = CancellationToken::new();
    let running = runtime.spawn(worker.run(stop.clone()));
    runtime.block_on(async {
        let client = Client::connect(Config::new([server]).with_exceptions(true))
            .await
            .unwrap();
        let answer = client.call("Fg", "argument").await.unwrap();
        assert_eq!(&answer[..], b"part of argument");
        let error = client.call("Fg", "throw").await.unwrap_err();
        assert!(
            matches!(&error, ibex_gearman_client::Error::JobException { data, .. } if &data[..] == b"thrown"),
            "{error}"
        );
    });
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn the_queues_calls_as_functions_of_a_job_server() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_gearmand, server)) = Gearmand::start(dir.path()) else {
        return;
    };
    let case = Case::start(&[("gearman_worker", &server)]);
    let runtime = runtime();
    let client = runtime
        .block_on(Client::connect(Config::new([server.clone()])))
        .unwrap();
    let call = |name: &str, asked: &Value| {
        let answer = runtime.block_on(async { client.call(name, asked.to_string()).await });
        answer.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    let ok = |name: &str, asked: &Value| {
        let text = call(name, asked).unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text))
    };
    let handle = ok(
        "insert_job",
        &json!({"funcname": "G", "arg": "x", "uniqkey": "k"}),
    );
    assert_eq!(state(&case, handle.as_str().unwrap()), "ready");
    let same = ok(
        "insert_job",
        &json!({"job": "G", "arg": {"a": 1}, "uniqkey": "k"}),
    );
    assert_eq!(same, handle);
    let two = ok(
        "insert_jobs",
        &json!([{"funcname": "G2"}, {"funcname": "G2", "arg": [1]}]),
    );
    assert_eq!(two.as_array().unwrap().len(), 2);
    let job = ok("grab_job", &json!({"can_do": ["G"]}));
    assert_eq!(
        (&job["job"], &job["arg"], &job["handle"]),
        (&json!("G"), &json!("x"), &handle)
    );
    assert_eq!(ok("grab_job", &json!({"can_do": ["G"]})), Value::Null);
    // Replaced by another, under the lease that this daemon remembers.
    let replaced = ok(
        "mark_completed",
        &json!({"jobid": job["jobid"], "replace_with": [{"funcname": "G3", "arg": "new"}]}),
    );
    assert_eq!(replaced["handles"].as_array().unwrap().len(), 1);
    assert_eq!(
        ok("get_status", &json!({"jobid": job["jobid"]})),
        json!({"exitstatus": 0})
    );
    let job = ok("grab_job", &json!({"can_do": ["G3"]}));
    let failed = ok(
        "mark_failed",
        &json!({"jobid": job["jobid"], "lease": job["lease"], "message": "no luck", "exit_status": 7, "retry_in": 0}),
    );
    assert_eq!(failed["retry"], true);
    let job = ok("grab_job", &json!({"can_do": ["G3"]}));
    ok(
        "mark_failed",
        &json!({"handle": job["handle"], "message": "never", "exit_status": 7}),
    );
    let log = ok("get_failure_log", &json!({"jobid": job["jobid"]}));
    let messages: Vec<&str> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages, ["no luck", "never"]);
    assert_eq!(
        ok("get_status", &json!({"jobid": job["jobid"]})),
        json!({"exitstatus": 7})
    );
    for (name, asked) in [
        ("insert_job", json!({"funcname": ""})),
        ("insert_job", json!([])),
        ("insert_jobs", json!({"funcname": "G"})),
        ("grab_job", json!({})),
        ("mark_completed", json!({"jobid": job["jobid"]})),
        ("mark_failed", json!({"message": "of nothing"})),
    ] {
        assert!(call(name, &asked).is_err(), "{name} {asked}");
    }
    // Debian's program speaks to it, too.
    if let Some(output) = gearman(
        &server,
        &["-f", "insert_job"],
        br#"{"funcname":"G4","arg":"cli"}"#,
    ) {
        let handle = String::from_utf8(output.stdout).unwrap();
        assert_eq!(state(&case, &handle), "ready");
    }
    case.daemon.stop().unwrap();
}
