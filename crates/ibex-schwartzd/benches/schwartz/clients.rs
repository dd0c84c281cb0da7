//! The three queues under test, each with clients that keep their connections and do nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ibex_testkit::Daemon;
use serde_json::{Value, json};

/// Jobs that lie ready before work is measured.
const READY: usize = 200_000;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// Runs `step` on so many connections at once until the time is over, and answers what they did per second.
fn together<C: Send>(
    connections: Vec<C>,
    time: Duration,
    step: impl Fn(&mut C) -> usize + Sync,
) -> f64 {
    let start = Instant::now();
    let done: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let step = &step;
                scope.spawn(move || {
                    let mut done = 0;
                    while start.elapsed() < time {
                        done += step(&mut connection);
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).sum()
    });
    done as f64 / start.elapsed().as_secs_f64()
}

/// A kept HTTP/1.1 connection.
struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(1 << 16, stream),
        }
    }

    fn post(&mut self, path: &str, body: &str) -> Vec<u8> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 20"), "{path}: {line}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).unwrap();
        answer
    }
}

/// Our daemon on a fresh file.
pub(crate) struct Ours {
    daemon: Daemon,
    dir: tempfile::TempDir,
}

impl Ours {
    pub(crate) fn start() -> Option<Self> {
        let dir = folder();
        let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
        let daemon = Daemon::builder("ibex-schwartzd")
            .set("store.url", &url)
            .set("shutdown.grace", "1s")
            .start()
            .unwrap();
        Some(Self { daemon, dir })
    }

    fn connect(&self) -> Http {
        Http::new(self.daemon.addr("schwartz").unwrap())
    }

    pub(crate) fn insert_bulk(self, connections: usize, list: usize, time: Duration) -> f64 {
        let body = bulk(list);
        let done = together(
            (0..connections).map(|_| self.connect()).collect(),
            time,
            |http| {
                http.post("/v1/jobs", &body);
                list
            },
        );
        self.daemon.stop().unwrap();
        done
    }

    pub(crate) fn work(self, connections: usize, max: usize, time: Duration) -> f64 {
        let mut http = self.connect();
        for _ in 0..READY / 1000 {
            http.post("/v1/jobs", &bulk(1000));
        }
        let fetch = json!({ "funcs": ["Bench"], "max": max }).to_string();
        let done = together(
            (0..connections).map(|_| self.connect()).collect(),
            time,
            |http| {
                let answer: Value =
                    serde_json::from_slice(&http.post("/v1/fetch", &fetch)).unwrap();
                let jobs = answer["jobs"].as_array().unwrap();
                let results: Vec<Value> = jobs
                    .iter()
                    .map(|job| json!({ "handle": job["handle"], "lease": job["lease"], "op": "complete" }))
                    .collect();
                http.post("/v1/finish", &json!({ "results": results }).to_string());
                jobs.len()
            },
        );
        self.daemon.stop().unwrap();
        done
    }
}

fn bulk(list: usize) -> String {
    let job = json!({ "func": "Bench", "arg": "x".repeat(100) });
    if list == 1 {
        return job.to_string();
    }
    json!({ "jobs": vec![job; list] }).to_string()
}

/// The Perl library on a file that our schema made.
pub(crate) struct Perl;

fn perl_script(case: &str, file: &Path, time: Duration) -> Option<Command> {
    let found = Command::new("perl")
        .args(["-MTheSchwartz", "-MDBD::SQLite", "-e", "1"])
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/schwartz/perl.pl");
    let mut command = Command::new("perl");
    command
        .arg(script)
        .arg(case)
        .arg(format!("dbi:SQLite:dbname={}", file.display()))
        .arg(time.as_secs_f64().to_string());
    Some(command)
}

impl Perl {
    pub(crate) fn run(case: &str, time: Duration) -> Option<f64> {
        let dir = folder();
        let file = dir.path().join("perl.db");
        let mut command = perl_script(case, &file, time)?;
        // The classic tables alone, in the journal mode that Perl's users have.
        let statements = ibex_schwartz::schema::statements(
            ibex_schwartz::schema::Dialect::Sqlite,
            ibex_schwartz::schema::Style::Bare,
            "",
        );
        let make = "use DBI; my $d = DBI->connect('dbi:SQLite:dbname='.shift,'','',{RaiseError=>1}); $d->do($_) for @ARGV";
        assert!(
            Command::new("perl")
                .args(["-e", make])
                .arg(&file)
                .args(statements)
                .status()
                .unwrap()
                .success()
        );
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let (done, seconds) = text.trim().split_once(' ').unwrap();
        Some(done.parse::<f64>().unwrap() / seconds.parse::<f64>().unwrap())
    }
}

/// Debian's beanstalkd with a log that is synced at every write.
pub(crate) struct Beanstalkd {
    child: Child,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Beanstalkd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Beanstalkd {
    pub(crate) fn start() -> Option<Self> {
        let program = ["/usr/bin/beanstalkd", "/usr/local/bin/beanstalkd"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.is_file())?;
        let dir = folder();
        let addr = ibex_testkit::ports::free();
        let child = Command::new(program)
            .args(["-l", &addr.ip().to_string(), "-p", &addr.port().to_string()])
            .args(["-f0", "-b"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        ibex_testkit::wait::until_true("beanstalkd", || TcpStream::connect(addr).is_ok()).unwrap();
        Some(Self {
            child,
            addr,
            _dir: dir,
        })
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::with_capacity(1 << 16, stream)
    }

    /// `list` puts in one write, then all answers.
    pub(crate) fn put(self, connections: usize, list: usize, time: Duration) -> f64 {
        let puts = format!("put 1024 0 60 100\r\n{}\r\n", "x".repeat(100)).repeat(list);
        together(
            (0..connections).map(|_| self.connect()).collect(),
            time,
            |stream| {
                stream.get_mut().write_all(puts.as_bytes()).unwrap();
                for _ in 0..list {
                    assert!(line(stream).starts_with("INSERTED"));
                }
                list
            },
        )
    }

    /// `max` reserves in one write, then `max` deletes in one.
    pub(crate) fn work(self, connections: usize, max: usize, time: Duration) -> f64 {
        let mut first = self.connect();
        let puts = format!("put 1024 0 600 100\r\n{}\r\n", "x".repeat(100)).repeat(500);
        for _ in 0..READY / 4 / 500 {
            first.get_mut().write_all(puts.as_bytes()).unwrap();
            for _ in 0..500 {
                line(&mut first);
            }
        }
        let reserves = "reserve-with-timeout 0\r\n".repeat(max);
        together(
            (0..connections).map(|_| self.connect()).collect(),
            time,
            |stream| {
                stream.get_mut().write_all(reserves.as_bytes()).unwrap();
                let mut deletes = String::new();
                let mut body = [0; 102];
                for _ in 0..max {
                    let answer = line(stream);
                    let Some(rest) = answer.strip_prefix("RESERVED ") else {
                        continue;
                    };
                    let (id, _) = rest.split_once(' ').unwrap();
                    deletes += &format!("delete {id}\r\n");
                    stream.read_exact(&mut body).unwrap();
                }
                stream.get_mut().write_all(deletes.as_bytes()).unwrap();
                let count = deletes.lines().count();
                for _ in 0..count {
                    assert_eq!(line(stream).trim_end(), "DELETED");
                }
                count
            },
        )
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// A worker that waits and finishes, told of by the time at which each job arrived; and who inserts, by the time of its answer.
fn latency(ours: Ours, count: usize, mut insert: impl FnMut() -> f64) -> Vec<f64> {
    let mut worker = ours.connect();
    let fetch = json!({ "funcs": ["Bench"], "wait_ms": 60_000 }).to_string();
    let (told, arrivals) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        for _ in 0..count {
            let answer: Value = serde_json::from_slice(&worker.post("/v1/fetch", &fetch)).unwrap();
            told.send(now()).unwrap();
            let job = &answer["jobs"][0];
            let path = format!("/v1/jobs/{}/complete", job["handle"].as_str().unwrap());
            worker.post(&path, &json!({ "lease": job["lease"] }).to_string());
        }
    });
    let mut all = Vec::new();
    for _ in 0..count {
        // The worker waits again.
        ibex_testkit::wait::until_true("a waiting fetch", || {
            ours.daemon
                .metric("ibex_schwartzd_fetch_waiters")
                .is_ok_and(|waiters| waiters > 0.0)
        })
        .unwrap();
        let inserted = insert();
        all.push((arrivals.recv().unwrap() - inserted).max(0.0) * 1000.0);
    }
    waiting.join().unwrap();
    ours.daemon.stop().unwrap();
    all
}

/// From before the request to the worker's answer: the commit is in it.
pub(crate) fn latency_of_http(count: usize) -> Option<Vec<f64>> {
    let ours = Ours::start()?;
    let mut producer = ours.connect();
    Some(latency(ours, count, move || {
        let start = now();
        producer.post("/v1/jobs", &bulk(1));
        start
    }))
}

/// From Perl's commit to the worker's answer.
pub(crate) fn latency_of_foreign(count: usize) -> Option<Vec<f64>> {
    let ours = Ours::start()?;
    let file = ours.dir.path().join("jobs.db");
    let mut child = perl_script("foreign", &file, Duration::ZERO)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let all = latency(ours, count, || {
        writeln!(orders, "insert").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    });
    drop(orders);
    child.wait().unwrap();
    Some(all)
}
