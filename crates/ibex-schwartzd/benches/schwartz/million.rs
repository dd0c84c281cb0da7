//! A million jobs: what a daemon costs that has nothing to do, and how soon it serves after a restart.

use std::time::{Duration, Instant};

use ibex_schwartz::Client;
use ibex_sql::{Config, Db, params};
use serde_json::json;

use crate::latency::{self, Times};
use crate::ours::{Ours, take_and_finish};
use crate::place::{Kind, Place};

/// Functions, each with a hundredth of a promille of the jobs.
const FUNCS: u32 = 10_000;
/// Jobs.
const JOBS: u32 = 1_000_000;
/// Workers that wait during the quiet time, and functions of each.
const WAITING: usize = 100;
const FUNCS_EACH: usize = 100;
/// Samples of a pick-up.
const PICKUPS: usize = 1000;

/// A million rows over ten thousand functions, by statements.
fn fill(url: &str, is_own: bool, run_after: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        if is_own {
            let client = Client::open([url]).await.unwrap();
            client.close().await.unwrap();
        }
        let db = Db::open(
            &Config::new(url)
                .unwrap()
                .with_stall_timeout(Duration::from_secs(60)),
        )
        .await
        .unwrap();
        let numbers =
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)";
        db.execute(
            format!("{numbers} INSERT INTO funcmap (funcname) SELECT 'F' || i FROM n"),
            params![FUNCS],
        )
        .await
        .unwrap();
        for _ in 0..10 {
            let rows = format!(
                "{numbers} INSERT INTO job (funcid, arg, insert_time, run_after, grabbed_until) \
                 SELECT i % {FUNCS} + 1, zeroblob(100), unixepoch(), {run_after}, 0 FROM n"
            );
            db.execute(rows, params![JOBS / 10]).await.unwrap();
        }
        if !is_own {
            // As the original's tables are.
            db.execute("DROP INDEX job_sz_ready", params![])
                .await
                .unwrap();
        }
        db.close().await.unwrap();
    });
}

/// Processor seconds of a process so far.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // utime and stime, in hundredths of a second.
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Resident mebibytes.
fn resident(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap();
    kib / 1024.0
}

/// What a quiet daemon costs.
pub(crate) struct Idle {
    /// Percent of one processor while nobody waits, and while many wait.
    pub(crate) cpu_alone: f64,
    pub(crate) cpu_waited: f64,
    pub(crate) resident_mib: f64,
    /// Of a pick-up with the million there, and without.
    pub(crate) pickup: Times,
    pub(crate) pickup_empty: Times,
}

pub(crate) fn idle(time: Duration) -> Option<Idle> {
    let empty = Ours::start(Kind::Sqlite)?;
    let pickup_empty = latency::of_http(&empty, PICKUPS);
    empty.daemon.stop().unwrap();

    let place = Place::new(Kind::Sqlite)?;
    fill(&place.url(), true, "unixepoch() + 8640000 + i % 86400");
    let ours = Ours::start_with(place, &[])?;
    let pid = ours.daemon.pid().unwrap();
    let over = |time: Duration| {
        let (start, before) = (Instant::now(), cpu(pid));
        // Nothing is waited for: the time itself is what is measured over.
        std::thread::sleep(time);
        (cpu(pid) - before) / start.elapsed().as_secs_f64() * 100.0
    };
    let cpu_alone = over(time);
    let (cpu_waited, pickup) = std::thread::scope(|scope| {
        for worker in 0..WAITING {
            let mut http = ours.connect();
            scope.spawn(move || {
                let funcs: Vec<String> = (0..FUNCS_EACH)
                    .map(|n| format!("F{}", worker * FUNCS_EACH + n))
                    .collect();
                let fetch = json!({ "funcs": funcs, "wait_ms": 60_000 }).to_string();
                http.post("/v1/fetch", &fetch);
            });
        }
        ibex_testkit::wait::until_true("all to wait", || {
            let waiters = ours.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap();
            waiters > WAITING as f64 - 0.5
        })
        .unwrap();
        let cpu_waited = over(time.min(Duration::from_secs(45)));
        (cpu_waited, latency::of_http(&ours, PICKUPS))
    });
    let resident_mib = resident(pid);
    ours.daemon.stop().unwrap();
    Some(Idle {
        cpu_alone,
        cpu_waited,
        resident_mib,
        pickup,
        pickup_empty,
    })
}

/// Seconds until `/readyz` says yes and until the first hundred jobs are handed out, a million being ready, after each kind of start.
pub(crate) fn restart() -> Option<Vec<(&'static str, f64, f64)>> {
    let place = Place::new(Kind::Sqlite)?;
    fill(&place.url(), true, "unixepoch() - 10");
    let mut ours = Ours::start_with(place, &[])?;
    let mut all = Vec::new();
    for (name, how) in [("after SIGTERM", false), ("after SIGKILL under load", true)] {
        if how {
            // Something to recover.
            let mut http = ours.connect();
            for _ in 0..20 {
                http.post("/v1/jobs", &crate::ours::bulk(1000));
                take_and_finish(&mut http, 100, |_| {});
            }
            ours.daemon.kill().unwrap();
        } else {
            ours.daemon.terminate().unwrap();
        }
        let start = Instant::now();
        ours.daemon.restart().unwrap();
        let ready = start.elapsed().as_secs_f64();
        let first = first_fetch(&ours, start);
        all.push((name, ready, first));
    }
    ours.daemon.stop().unwrap();
    let place = Place::new(Kind::Sqlite)?;
    if perl_is_there() {
        place.make_classic();
        fill(&place.url(), false, "unixepoch() - 10");
        let start = Instant::now();
        let ours = Ours::start_with(place, &[])?;
        let ready = start.elapsed().as_secs_f64();
        let first = first_fetch(&ours, start);
        all.push(("first start on tables without our index", ready, first));
        ours.daemon.stop().unwrap();
    }
    Some(all)
}

fn first_fetch(ours: &Ours<'_>, start: Instant) -> f64 {
    let fetch = json!({ "funcs": ["F1", "F2", "F3"], "max": 100 }).to_string();
    let answer = ours.connect().post("/v1/fetch", &fetch);
    assert!(String::from_utf8_lossy(&answer).contains("lease"));
    start.elapsed().as_secs_f64()
}

fn perl_is_there() -> bool {
    std::process::Command::new("perl")
        .args(["-MDBD::SQLite", "-e", "1"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
