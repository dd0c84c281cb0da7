//! Warm restart: a full cache is stopped with SIGUSR1 and started again with the same `-e` file; timed from the daemon's start to its first answer.
//!
//! Every item is asked for before and after. Ours only: the original maps its file and re-indexes on its own terms.

use std::path::Path;
use std::time::Instant;

use ibex_memcached_proto::reply::Reply;

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, Talk, start_ours, store};

const MEGABYTES: u32 = 1024;
const BYTES: usize = 100;
/// More than fit.
const KEYS: usize = 8_000_000;
const BATCH: usize = 1000;

fn key(n: usize) -> String {
    format!("key:{n:08}")
}

fn fill(server: &Server) {
    let mut talk = Talk::new(server);
    for first in (0..KEYS).step_by(BATCH) {
        for n in first..first + BATCH {
            store(&mut talk.out, key(n).as_bytes(), 0, BYTES);
        }
        talk.send();
        talk.receive(BATCH, |reply| {
            assert!(matches!(reply, Reply::Stored), "{reply:?}");
            true
        });
    }
}

/// One bit for each key: whether it is there with its whole value.
fn held(server: &Server) -> Vec<bool> {
    let mut talk = Talk::new(server);
    let mut held = Vec::with_capacity(KEYS);
    for first in (0..KEYS).step_by(BATCH) {
        for n in first..first + BATCH {
            talk.out
                .extend_from_slice(format!("get {}\r\n", key(n)).as_bytes());
        }
        talk.send();
        let mut is_there = false;
        talk.receive(BATCH, |reply| {
            if let Reply::Value(value) = reply {
                assert_eq!(value.data.len(), BYTES);
                is_there = true;
                return false;
            }
            held.push(std::mem::take(&mut is_there));
            true
        });
    }
    held
}

fn start(file: &Path) -> Server {
    start_ours(MEGABYTES, &["-e", file.to_str().unwrap()])
}

/// Seconds to stop, seconds to be back, items.
fn round(dir: &Path) -> (f64, f64, usize) {
    let file = dir.join("items");
    let server = start(&file);
    fill(&server);
    let before = held(&server);
    let stopping = Instant::now();
    server.stop_gracefully();
    let stopped = stopping.elapsed().as_secs_f64();
    let starting = Instant::now();
    let server = start(&file);
    // The port file is written before the items are there; an answer comes after.
    let items = server.stat("curr_items");
    let started = starting.elapsed().as_secs_f64();
    let after = held(&server);
    let lost = before.iter().zip(&after).filter(|(b, a)| **b && !**a);
    let risen = before.iter().zip(&after).filter(|(b, a)| !**b && **a);
    assert_eq!((lost.count(), risen.count()), (0, 0), "lost, risen");
    assert_eq!(items as usize, after.iter().filter(|held| **held).count());
    (stopped, started, items as usize)
}

pub(crate) fn run(options: &Options) -> bool {
    println!("\nwarm restart at -m {MEGABYTES}, values of {BYTES} bytes, FILE in memory");
    let mut rows = Rows::new(&["items", "stop s", "start s", "million items/s"]);
    for _ in 0..options.rounds() {
        let dir = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let (stopped, started, items) = round(dir.path());
        rows.push(vec![
            items.to_string(),
            format!("{stopped:.2}"),
            format!("{started:.2}"),
            format!("{:.2}", items as f64 / started / 1e6),
        ]);
    }
    rows.keep(options, "restart");
    true
}
