//! Three nodes of a Galera cluster, three daemons, a node that dies under load. Only with `IBEX_GALERA` set: a cluster takes twenty seconds to come up.

use crate::call;
use ibex_testkit::{Daemon, ports, skip};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// Jobs before the node dies, and jobs in all.
const JOBS_BEFORE: usize = 2000;
const JOBS: usize = 8000;

struct Node {
    sql: SocketAddr,
    child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("a node stays: {error}");
        }
    }
}

fn ask(sql: SocketAddr, statement: &str) -> Option<String> {
    let output = Command::new(skip::find_program("mariadb")?)
        .args(["--no-defaults", "-uroot", "-N", "-e", statement])
        .args(["-h", &sql.ip().to_string(), "-P", &sql.port().to_string()])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Starts a node; each has its own ports for SQL, group, incremental and whole state transfer.
fn node(dir: &Path, group: &[SocketAddr], index: usize) -> Node {
    let (sql, own) = (ports::free(), group[index]);
    let cluster: Vec<String> = group.iter().map(ToString::to_string).collect();
    let mut command = Command::new(skip::find_program("mariadbd").unwrap());
    command
        .args(["--no-defaults", "--user=mysql", "--skip-log-bin", "--binlog-format=ROW"])
        .args(["--innodb-autoinc-lock-mode=2", "--innodb-flush-log-at-trx-commit=0"])
        .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"])
        .args(["--wsrep-on=ON", "--wsrep-sst-method=rsync", "--bind-address=127.0.0.1"])
        .arg(format!("--wsrep-provider={PROVIDER}"))
        .arg(format!("--datadir={}", dir.join("data").display()))
        .arg(format!("--socket={}", dir.join("socket").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--log-error={}", dir.join("log.err").display()))
        .arg(format!("--port={}", sql.port()))
        .arg(format!("--wsrep-cluster-address=gcomm://{}", cluster.join(",")))
        .arg(format!("--wsrep-node-address={own}"))
        .arg(format!("--wsrep-sst-receive-address={}", ports::free()))
        .arg(format!(
            "--wsrep-provider-options=base_port={};gmcast.listen_addr=tcp://{own};ist.recv_addr={};gcache.size=16M;pc.recovery=false;\
             evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S",
            own.port(),
            ports::free()
        ))
        .env("TMPDIR", dir);
    if index == 0 {
        command.arg("--wsrep-new-cluster");
    }
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Node { sql, child }
}

fn wait_ready(node: &Node) {
    ibex_testkit::wait::until(
        std::time::Duration::from_secs(120),
        "a node to be ready",
        || ask(node.sql, "SHOW STATUS LIKE 'wsrep_ready'").filter(|text| text.contains("ON")),
    )
    .unwrap();
}

fn cluster(dir: &Path) -> Vec<Node> {
    let group = [ports::free(), ports::free(), ports::free()];
    let folders: Vec<_> = (0..3).map(|index| dir.join(format!("{index}"))).collect();
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        let made = Command::new("chown")
            .arg("mysql")
            .args([dir, folder])
            .status()
            .unwrap();
        assert!(made.success());
        let installed = Command::new(skip::find_program("mariadb-install-db").unwrap())
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", "--user=mysql"])
            .arg(format!("--datadir={}", folder.join("data").display()))
            .env("TMPDIR", folder)
            .output()
            .unwrap();
        assert!(installed.status.success(), "{installed:?}");
    }
    let first = node(&folders[0], &group, 0);
    wait_ready(&first);
    let mut nodes = vec![first];
    for (index, folder) in folders.iter().enumerate().skip(1) {
        nodes.push(node(folder, &group, index));
    }
    nodes.iter().for_each(wait_ready);
    ask(nodes[0].sql, "CREATE DATABASE q").unwrap();
    nodes
}

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
    if !Path::new(PROVIDER).is_file()
        || skip::program("mariadbd").is_none()
        || skip::program("rsync").is_none()
    {
        return skip::skip("Galera is not installed (Debian package galera-4)");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path());
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
