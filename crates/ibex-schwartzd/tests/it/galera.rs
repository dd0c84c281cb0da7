//! Three nodes of a Galera cluster, three daemons, a node that dies under load. Only with `IBEX_GALERA` set: a cluster takes twenty seconds to come up.

mod cluster;

use crate::call;
use ibex_testkit::{Daemon, skip};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Jobs before the node dies, and jobs in all.
const JOBS_BEFORE: usize = 2000;
const JOBS: usize = 8000;

/// What producers and workers saw.
#[derive(Default)]
struct Seen {
    inserted: Mutex<Vec<String>>,
    runs: Mutex<Vec<String>>,
    completed: AtomicUsize,
    is_over: AtomicBool,
}

impl Seen {
    fn inserted(&self) -> usize {
        self.inserted.lock().unwrap().len()
    }

    fn produce(&self, addr: SocketAddr) {
        let jobs = vec![json!({"func": "G", "arg": "x".repeat(100)}); 5];
        while self.inserted() < JOBS {
            let (status, answer) = call(addr, "POST", "/v1/jobs", &json!({ "jobs": jobs }));
            assert_eq!(status, 201, "{answer}");
            let made = answer["jobs"].as_array().unwrap();
            let handles = made
                .iter()
                .map(|job| job["handle"].as_str().unwrap().to_owned());
            self.inserted.lock().unwrap().extend(handles);
        }
    }

    fn work(&self, addr: SocketAddr) {
        while !self.is_over.load(Ordering::SeqCst) {
            let want = json!({"funcs": ["G"], "max": 20, "wait_ms": 200, "grab_for": 600});
            let (status, answer) = call(addr, "POST", "/v1/fetch", &want);
            assert_eq!(status, 200, "{answer}");
            let jobs = answer["jobs"].as_array().unwrap();
            let handles = jobs
                .iter()
                .map(|job| job["handle"].as_str().unwrap().to_owned());
            self.runs.lock().unwrap().extend(handles);
            let results: Vec<Value> = jobs
                .iter()
                .map(
                    |job| json!({"handle": job["handle"], "lease": job["lease"], "op": "complete"}),
                )
                .collect();
            let (status, answer) = call(addr, "POST", "/v1/finish", &json!({ "results": results }));
            assert_eq!(status, 200, "{answer}");
            for result in answer["results"].as_array().unwrap() {
                assert_eq!(result["status"], "ok", "{result}");
                self.completed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[test]
fn heavy_one_of_three_galera_nodes_dies_under_load() {
    if std::env::var_os("IBEX_GALERA").is_none() {
        return skip::skip("a cluster is started only with IBEX_GALERA set");
    }
    if !cluster::is_installed() {
        return skip::skip("Galera is not installed (Debian package galera-4)");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster::start(dir.path());
    let daemons: Vec<Daemon> = (0..3)
        .map(|index| {
            let mut hosts: Vec<String> = nodes.iter().map(|node| node.sql.to_string()).collect();
            hosts.rotate_left(index);
            // One name for all, so that their handles are the same.
            let url = format!(
                "mysql://root@{}/q?dbi=dbi%3Amysql%3Adatabase%3Dq",
                hosts.join(",")
            );
            Daemon::builder("ibex-schwartzd")
                .set("store.url", &url)
                .announce("database")
                .start()
                .unwrap()
        })
        .collect();
    let seen = Seen::default();
    std::thread::scope(|scope| {
        let seen = &seen;
        let mut producers = Vec::new();
        for daemon in &daemons {
            let addr = daemon.addr("schwartz").unwrap();
            producers.push(scope.spawn(move || seen.produce(addr)));
            scope.spawn(move || seen.work(addr));
        }
        let loaded = ibex_testkit::wait::until_true("load", || seen.inserted() >= JOBS_BEFORE);
        nodes.remove(1);
        let produced: Vec<_> = producers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        let all = seen.inserted();
        let done = ibex_testkit::wait::until_true("all jobs to be done", || {
            seen.completed.load(Ordering::SeqCst) >= all
        });
        // Whatever went wrong, the workers end before it is said.
        seen.is_over.store(true, Ordering::SeqCst);
        loaded.and(done).unwrap();
        assert!(
            produced.iter().all(Result::is_ok),
            "a producer saw an error"
        );
    });
    let inserted = seen.inserted.into_inner().unwrap();
    let runs = seen.runs.into_inner().unwrap();
    let distinct: BTreeSet<&String> = inserted.iter().collect();
    assert_eq!(
        distinct.len(),
        inserted.len(),
        "each job has its own handle"
    );
    assert_eq!(runs.iter().collect::<BTreeSet<_>>(), distinct);
    assert_eq!(runs.len(), inserted.len(), "no job ran twice");
    for daemon in daemons {
        daemon.stop().unwrap();
    }
}
