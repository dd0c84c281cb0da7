//! Daemon, database and workers end with SIGKILL under load: what was acknowledged is there, and no job runs twice under a live lease.
//!
//! Two deaths of each kind in the ordinary run; `IBEX_KILLS=n` for more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ibex_testkit::http::Request;
use ibex_testkit::mariadb::Server;
use ibex_testkit::{Daemon, daemon, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine with other work to do takes its time to start a server.
const PATIENCE: Duration = Duration::from_secs(120);

fn until_true(what: &str, condition: impl Fn() -> bool) {
    wait::until(PATIENCE, what, || condition().then_some(())).unwrap();
}

fn kills() -> usize {
    std::env::var("IBEX_KILLS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2)
}

/// Numbers that differ between runs, so that many runs see many moments.
fn random(below: u64) -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    ibex_base::rng::Rng::new(u64::from(now.subsec_nanos())).below(below)
}

/// What producers and workers were told.
struct Seen {
    addr: Mutex<SocketAddr>,
    inserted: Mutex<Vec<String>>,
    runs: Mutex<Vec<String>>,
    finished: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Seen {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr: Mutex::new(addr),
            inserted: Mutex::default(),
            runs: Mutex::default(),
            finished: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// A call whose answer may never come; nothing unless it succeeded.
    fn post(&self, path: &str, body: &Value) -> Option<Value> {
        let addr = *self.addr.lock().unwrap();
        let answer = Request::post(path, "application/json", body.to_string()).send(addr);
        let answer = answer
            .ok()
            .filter(|answer| (200..300).contains(&answer.status));
        if answer.is_none() {
            // Away: nobody gains from asking as fast as it goes.
            std::thread::sleep(Duration::from_millis(10));
        }
        serde_json::from_slice(&answer?.body).ok()
    }

    fn produce(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            if let Some(answer) = self.post("/v1/jobs", &json!({ "func": "K" })) {
                let handle = answer["handle"].as_str().unwrap().to_owned();
                self.inserted.lock().unwrap().push(handle);
            }
        }
    }

    fn work(&self) {
        let fetch = json!({ "funcs": ["K"], "max": 5, "wait_ms": 100, "grab_for": 3600 });
        while !self.is_over.load(Ordering::SeqCst) {
            let Some(answer) = self.post("/v1/fetch", &fetch) else {
                continue;
            };
            for job in answer["jobs"].as_array().unwrap() {
                let handle = job["handle"].as_str().unwrap().to_owned();
                self.runs.lock().unwrap().push(handle.clone());
                let path = format!("/v1/jobs/{handle}/complete");
                if self
                    .post(&path, &json!({ "lease": job["lease"] }))
                    .is_some()
                {
                    self.finished.lock().unwrap().push(handle);
                }
            }
        }
    }

    /// Waits until so many more jobs were finished than before.
    fn wait_finished(&self, more: usize) {
        let done = || self.finished.lock().unwrap().len();
        let before = done();
        until_true("jobs to be finished", || done() >= before + more);
    }
}

#[test]
fn heavy_nothing_is_lost_when_mariadb_and_the_daemon_are_killed() {
    let Some(mut server) = Server::start_own().unwrap() else {
        return;
    };
    server.sql("CREATE DATABASE q").unwrap();
    let url = format!("{}/q?timeout=2s&connect_timeout=500ms", server.url());
    let mut daemon = Daemon::builder("ibex-schwartzd")
        .set("store.url", &url)
        .set("auto_init", "true")
        .set("retry_after", "1s")
        .set("shutdown.grace", "2s")
        .announce("database")
        .announce("worker step failed")
        .start()
        .unwrap();
    let addr = |daemon: &Daemon| daemon.addr("schwartz").unwrap();
    let seen = Seen::new(addr(&daemon));
    std::thread::scope(|scope| {
        let stop = StopAtEnd(&seen.is_over);
        for _ in 0..3 {
            scope.spawn(|| seen.produce());
        }
        for _ in 0..2 {
            scope.spawn(|| seen.work());
        }
        for round in 0..kills() {
            seen.wait_finished(5 + usize::try_from(random(40)).unwrap());
            server.kill().unwrap();
            // Both at once now and then.
            let both = round % 4 == 3;
            if both {
                daemon.kill().unwrap();
            }
            server.restart().unwrap();
            if both {
                daemon.restart().unwrap();
                *seen.addr.lock().unwrap() = addr(&daemon);
            }
            seen.wait_finished(5 + usize::try_from(random(40)).unwrap());
            daemon.kill_and_restart().unwrap();
            *seen.addr.lock().unwrap() = addr(&daemon);
        }
        seen.wait_finished(5);
        drop(stop);
    });
    let runs = seen.runs.lock().unwrap();
    let distinct: BTreeSet<&String> = runs.iter().collect();
    assert_eq!(
        distinct.len(),
        runs.len(),
        "a job ran twice under a live lease"
    );
    let finished = seen.finished.lock().unwrap();
    let finished: BTreeSet<&String> = finished.iter().collect();
    let inserted = seen.inserted.lock().unwrap();
    for handle in inserted.iter() {
        let answer = Request::get(&format!("/v1/jobs/{handle}")).send(addr(&daemon));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "acknowledged {handle} is lost");
        if finished.contains(handle) {
            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(answer["state"], "completed", "{handle}");
        }
    }
    eprintln!(
        "{} kills of each: {} inserts and {} finishes acknowledged",
        kills(),
        inserted.len(),
        finished.len()
    );
    daemon.stop().unwrap();
}

/// Ends the threads also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Processes that end with the test, however it ends.
struct Workers(Vec<Child>);

impl Workers {
    fn kill(&mut self, index: usize) {
        self.0[index].kill().unwrap();
        self.0[index].wait().unwrap();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            if let Err(error) = worker.kill().and_then(|()| worker.wait().map(drop)) {
                eprintln!("a worker stays: {error}");
            }
        }
    }
}

/// A worker of the command line that notes each run: job and who runs it.
fn worker(dir: &Path, place: &[&str], number: usize) -> Child {
    Command::new(daemon::binary("ibex").unwrap())
        .arg("schwartz")
        .args(place)
        .args(["work", "--func", "K", "--grab-for", "2", "--poll", "1"])
        .args(["--max-retries", "1000", "--exec"])
        .env("WORKER", number.to_string())
        .arg("echo \"$SCHWARTZ_JOBID $WORKER\" >> runs; sleep 0.0$((SCHWARTZ_JOBID % 7))")
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills workers at work, one after the other; each job is done in the end, and twice only if the one who had it was killed.
fn kill_workers(dir: &Path, place: &[&str], insert: impl Fn(), is_done: impl Fn() -> bool) {
    let lines = || {
        let text = std::fs::read_to_string(dir.join("runs")).unwrap_or_default();
        let line = |line: &str| {
            let (job, worker) = line.split_once(' ').unwrap();
            (
                job.parse::<u64>().unwrap(),
                worker.parse::<usize>().unwrap(),
            )
        };
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(line).collect::<Vec<_>>()
    };
    let mut workers = Workers((0..2).map(|number| worker(dir, place, number)).collect());
    let mut numbers = [0, 1];
    let mut killed = BTreeSet::new();
    for round in 0..kills() {
        let before = lines().len();
        for _ in 0..10 {
            insert();
        }
        let more = 1 + usize::try_from(random(8)).unwrap();
        until_true("runs", || lines().len() >= before + more);
        let index = usize::try_from(random(2)).unwrap();
        workers.kill(index);
        killed.insert(std::mem::replace(&mut numbers[index], round + 2));
        workers.0[index] = worker(dir, place, round + 2);
    }
    until_true("all jobs to be done", is_done);
    drop(workers);
    let mut runs: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (job, worker) in lines() {
        runs.entry(job).or_default().push(worker);
    }
    assert_eq!(runs.len(), kills() * 10, "every job ran");
    let mut again = 0;
    for (job, workers) in &runs {
        for earlier in &workers[..workers.len() - 1] {
            assert!(killed.contains(earlier), "job {job} ran twice: {workers:?}");
            again += 1;
        }
    }
    eprintln!(
        "{} kills of workers: {} jobs, {again} runs again",
        kills(),
        runs.len()
    );
}

#[test]
fn heavy_workers_of_a_daemon_are_killed() {
    let dir = TempDir::new().unwrap();
    let daemon = Daemon::builder("ibex-schwartzd")
        .set(
            "store.url",
            &format!("sqlite:{}", dir.path().join("jobs.db").display()),
        )
        .set("shutdown.grace", "2s")
        // As the original: what a killed worker had is ready again when its lease ended, without the wait of a failure.
        .set("count_lost", "false")
        .start()
        .unwrap();
    let addr = daemon.addr("schwartz").unwrap();
    let post = |body: &Value| {
        let answer = Request::post("/v1/jobs", "application/json", body.to_string()).send(addr);
        assert_eq!(answer.unwrap().status, 201);
    };
    let is_done = || {
        let answer = ibex_testkit::http::get(addr, "/v1/jobs?func=K").unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        answer["jobs"].as_array().unwrap().is_empty()
    };
    let url = format!("http://{addr}");
    let insert = || post(&json!({ "func": "K" }));
    kill_workers(dir.path(), &["--server", &url], insert, is_done);
    daemon.stop().unwrap();
}

#[test]
fn heavy_workers_of_mariadb_tables_are_killed() {
    let Some(server) = Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let url = database.url();
    let place = ["--db", url.as_str()];
    let dir = TempDir::new().unwrap();
    let tool = |args: &[&str]| {
        let mut command = Command::new(daemon::binary("ibex").unwrap());
        let output = command.arg("schwartz").args(place).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    tool(&["init"]);
    let insert = || drop(tool(&["insert", "K"]));
    kill_workers(dir.path(), &place, insert, || tool(&["list"]).is_empty());
}
