//! The memory bound under abuse: resident memory may never exceed `-m` + 10 % + 24 MiB. Each storm has fresh servers; the peak is the kernel's.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ibex_base::rng::Rng;
use ibex_memcached_proto::reply::Reply;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, Talk, start_all, store};

const MEGABYTES: u32 = 64;
const MIB: u64 = 1 << 20;
/// What resident memory may reach.
const BOUND: u64 = MEGABYTES as u64 * MIB * 11 / 10 + 24 * MIB;
/// Connections of the storm of that name.
const MANY: u64 = 10_000;
/// Descriptors for them, and for the rest: of this program and of each server.
const DESCRIPTORS: u64 = MANY + 1000;
/// Stores on the way at once.
const BATCH: usize = 32;
/// How long a storm of clients that do nothing is looked at.
const LOOK: Duration = Duration::from_secs(5);

type Storm = (&'static str, fn(&Server));

const STORMS: [Storm; 5] = [
    ("random sizes", random_sizes),
    ("overwrites", overwrites),
    ("10000 connections", connections),
    ("stalled uploads", stalled_uploads),
    ("unread multigets", unread_multigets),
];

/// Sizes from 1 byte to half a megabyte, each as likely as its double; 4 GiB in all.
fn random_sizes(server: &Server) {
    let mut rng = Rng::new(1);
    let mut left = 4096 * MIB;
    let mut talk = Talk::new(server);
    while left > 0 {
        for _ in 0..BATCH {
            let bytes = (rng.fraction() * 19.0).exp2() as usize;
            let key = format!("random:{}", rng.below(10_000_000));
            store(&mut talk.out, key.as_bytes(), 0, bytes);
            left = left.saturating_sub(bytes as u64);
        }
        exchange(&mut talk);
    }
}

fn exchange(talk: &mut Talk) {
    talk.send();
    // Refused for want of room is an answer too.
    talk.receive(BATCH, |reply| {
        matches!(reply, Reply::Stored | Reply::ServerError(_))
    });
}

/// 20 000 keys whose values change their size, four million times.
fn overwrites(server: &Server) {
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let (mut rng, mut talk) = (Rng::new(seed), Talk::new(server));
                for _ in 0..1_000_000 / BATCH {
                    for _ in 0..BATCH {
                        let key = format!("over:{}", rng.below(20_000));
                        let bytes = rng.index(8000);
                        store(&mut talk.out, key.as_bytes(), 0, bytes);
                    }
                    exchange(&mut talk);
                }
            });
        }
    });
}

fn fill(server: &Server, keys: usize, bytes: usize) {
    let mut talk = Talk::new(server);
    for first in (0..keys).step_by(BATCH) {
        for n in first..first + BATCH {
            store(&mut talk.out, format!("key:{n:06}").as_bytes(), 0, bytes);
        }
        exchange(&mut talk);
    }
}

/// A full cache and 10 000 clients that each asked once and stay.
fn connections(server: &Server) {
    fill(server, 600_000, 100);
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..MANY {
        let mut stream = server.connect();
        write!(stream, "get key:{n:06}\r\n").unwrap();
        open.push(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.stat("curr_connections") < MANY {
        assert!(Instant::now() < deadline, "connections are not taken");
        sleep(Duration::from_millis(50));
    }
    sleep(LOOK);
}

/// A full cache and 1000 clients that each announce a megabyte, send half of it and stay. Who is closed for that is closed.
fn stalled_uploads(server: &Server) {
    fill(server, 600_000, 100);
    let half = vec![b'u'; 500_000];
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..1000 {
        let mut stream = server.connect();
        stream
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let begun = write!(stream, "set upload:{n} 0 0 1000000\r\n");
        drop(begun.and_then(|()| stream.write_all(&half)));
        open.push(stream);
    }
    sleep(LOOK);
}

/// 200 clients ask for 20 000 values of 1000 bytes each, twice, and read nothing.
fn unread_multigets(server: &Server) {
    fill(server, 20_000, 1000);
    let mut request = b"get".to_vec();
    for n in 0..20_000 {
        write!(request, " key:{n:06}").unwrap();
    }
    request.extend_from_slice(b"\r\n");
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        let mut stream = server.connect();
        stream
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        for _ in 0..2 {
            drop(stream.write_all(&request));
        }
        open.push(stream);
    }
    sleep(LOOK);
}

/// The storms need more descriptors than a shell allows; the servers inherit the limit.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: limit.maximum.map(|maximum| maximum.max(DESCRIPTORS)),
    };
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        setrlimit(Resource::Nofile, wanted).expect("the right to open 11 000 files");
    }
}

pub(crate) fn run(options: &Options) -> bool {
    raise_descriptors();
    println!("\npeak of resident memory at -m {MEGABYTES}; the bound is {BOUND} bytes");
    let mut rows = Rows::new(&["storm", "server", "peak", "MiB", "within"]);
    let mut is_kept = true;
    for (name, storm) in STORMS {
        if !options.takes(name) {
            continue;
        }
        for (n, server) in start_all(MEGABYTES, &["-c", "11000"]).iter().enumerate() {
            storm(server);
            let peak = server.peak();
            is_kept &= n > 0 || peak <= BOUND;
            rows.push(vec![
                name.to_owned(),
                server.name.to_owned(),
                peak.to_string(),
                format!("{:.1}", peak as f64 / MIB as f64),
                if peak <= BOUND { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    rows.keep(options, "storms");
    is_kept
}
