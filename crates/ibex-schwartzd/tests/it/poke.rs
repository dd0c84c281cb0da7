//! Waking workers of others: a gearman job for each insert, and datagrams the other way.

use crate::Case;
use ibex_gearman_client::{Config, Worker};
use serde_json::json;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

pub(crate) struct Gearmand(Child);

impl Drop for Gearmand {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("gearmand stays: {error}");
        }
    }
}

impl Gearmand {
    /// Debian's, and where it listens.
    pub(crate) fn start(dir: &Path) -> Option<(Self, String)> {
        let program = ibex_testkit::skip::program("gearmand")?;
        let port = ibex_testkit::ports::free().port();
        let child = Command::new(program)
            .args([
                "--listen=127.0.0.1",
                &format!("--port={port}"),
                "--log-file=stderr",
            ])
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = format!("127.0.0.1:{port}");
        ibex_testkit::wait::until_true("gearmand to listen", || {
            TcpStream::connect(&server).is_ok()
        })
        .unwrap();
        Some((Self(child), server))
    }
}

#[test]
fn an_insert_pokes_workers_through_gearman() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_gearmand, server)) = Gearmand::start(dir.path()) else {
        return;
    };
    let case = Case::start(&[("poke_gearman", &server), ("poke_function", "poke_%f")]);
    let poked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&poked);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = CancellationToken::new();
    let worker = Worker::new(Config::new([server])).function(
        "poke_P",
        move |job: ibex_gearman_client::WorkerJob| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock()
                    .unwrap()
                    .push(String::from_utf8(job.workload().to_vec()).unwrap());
                Ok(bytes::Bytes::new())
            }
        },
    );
    let running = runtime.spawn(worker.run(stop.clone()));
    let handles: Vec<String> = (0..5)
        .map(|n| case.insert(&json!({"func": "P", "arg": format!("{n}")})))
        .collect();
    ibex_testkit::wait::until_true("all pokes to arrive", || poked.lock().unwrap().len() == 5)
        .unwrap();
    assert_eq!(*poked.lock().unwrap(), handles);
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn a_datagram_makes_the_daemon_look() {
    let case = Case::start(&[
        ("poke_udp", "127.0.0.1:0"),
        ("sqlite_poll_interval", "1m"),
        ("watch_files", "false"),
    ]);
    let poke = case.daemon.addr("poke").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime
        .block_on(ibex_schwartz::Client::open([case.url()]))
        .unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| case.fetch("U", 30_000));
        ibex_testkit::wait::until_true("the fetch to wait", || {
            case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
        })
        .unwrap();
        let inserted = runtime
            .block_on(client.insert(ibex_schwartz::Job::new("U", "x")))
            .unwrap();
        let handle = inserted.handle().unwrap().to_string();
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(handle.as_bytes(), poke)
            .unwrap();
        assert_eq!(waiting.join().unwrap()[0]["handle"], handle);
    });
    case.daemon.stop().unwrap();
}
