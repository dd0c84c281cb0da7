//! CPU of the server per operation, both servers in turn.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use ibex_base::rng::Rng;
use ibex_memcached_proto::reply::{Code, Reply};

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, THREADS, Talk, start_all, store};

const KEYS: usize = 100_000;
/// Keys where values are large.
const LARGE_KEYS: usize = 2000;
const CONNECTIONS: u64 = 4;

/// What one connection sends in one go, and how many operations that is.
struct Scenario {
    name: &'static str,
    operations: usize,
    value_bytes: usize,
    one: fn(&mut BytesMut, usize),
    /// Put around all operations.
    around: (&'static [u8], &'static [u8]),
    /// Replies that end it.
    ends: usize,
}

impl Scenario {
    const fn pipelined(name: &'static str, one: fn(&mut BytesMut, usize)) -> Self {
        Self {
            name,
            operations: 32,
            value_bytes: 100,
            one,
            around: (b"", b""),
            ends: 32,
        }
    }

    const fn single(name: &'static str, value_bytes: usize) -> Self {
        Self {
            operations: 1,
            value_bytes,
            ends: 1,
            ..Self::pipelined(name, get)
        }
    }

    fn keys(&self) -> usize {
        if self.value_bytes > 1000 {
            LARGE_KEYS
        } else {
            KEYS
        }
    }
}

fn line(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn get(out: &mut BytesMut, key: usize) {
    line(out, &format!("get key:{key:06}\r\n"));
}

fn key(key: usize) -> Vec<u8> {
    format!("key:{key:06}").into_bytes()
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::single("get, one at a time", 100),
        Scenario::pipelined("get x32 pipelined", get),
        Scenario::pipelined("miss x32 pipelined", |out, key| {
            line(out, &format!("get miss:{key:06}\r\n"));
        }),
        Scenario {
            around: (b"", b"mn\r\n"),
            ends: 1,
            ..Scenario::pipelined("mg x32 pipelined", |out, key| {
                line(out, &format!("mg key:{key:06} v f c t\r\n"));
            })
        },
        Scenario {
            operations: 100,
            around: (b"get", b"\r\n"),
            ends: 1,
            ..Scenario::pipelined("multiget of 100 keys", |out, key| {
                line(out, &format!(" key:{key:06}"));
            })
        },
        Scenario::pipelined("set x32 pipelined", |out, n| store(out, &key(n), 0, 100)),
        Scenario::pipelined("delete x32 pipelined", |out, key| {
            line(out, &format!("delete gone:{key:06}\r\n"));
        }),
        Scenario::single("get of 10 kB", 10_000),
        Scenario::single("get of 100 kB", 100_000),
    ]
}

/// Whether a reply is the last of its request. `VA` is followed by `MN` here.
fn ends(reply: &Reply<'_>) -> bool {
    !matches!(reply, Reply::Value(_) | Reply::Meta { code: Code::Va, .. })
}

/// Stores `keys` keys `key:000000` and on.
pub(crate) fn fill(server: &Server, bytes: usize, keys: usize) {
    let mut talk = Talk::new(server);
    for first in (0..keys).step_by(64) {
        let batch = first..keys.min(first + 64);
        for n in batch.clone() {
            store(&mut talk.out, &key(n), 0, bytes);
        }
        talk.send();
        talk.receive(batch.len(), ends);
    }
}

/// Server CPU in microseconds per operation.
fn measure(server: &Server, scenario: &Scenario, span: Duration) -> f64 {
    let before = server.cpu();
    let client = |seed| {
        let (mut talk, mut rng) = (Talk::new(server), Rng::new(seed));
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < span {
            talk.out.extend_from_slice(scenario.around.0);
            for _ in 0..scenario.operations {
                (scenario.one)(&mut talk.out, rng.index(scenario.keys()));
            }
            talk.out.extend_from_slice(scenario.around.1);
            talk.send();
            talk.receive(scenario.ends, ends);
            done += scenario.operations;
        }
        done
    };
    let operations: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|seed| scope.spawn(move || client(seed)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    (server.cpu() - before) * 1e6 / operations as f64
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn run(options: &Options) -> bool {
    let rounds = options.rounds();
    println!("CPU microseconds per operation, -t {THREADS}, medians of {rounds}");
    let mut rows = Rows::new(&["operation", "ibex-memcached", "memcached", "ratio"]);
    for scenario in scenarios() {
        if !options.takes(scenario.name) {
            continue;
        }
        let servers = start_all(1024, &[]);
        let mut costs = vec![Vec::new(); servers.len()];
        for server in &servers {
            fill(server, scenario.value_bytes, scenario.keys());
        }
        for _ in 0..rounds {
            for (server, costs) in servers.iter().zip(&mut costs) {
                costs.push(measure(server, &scenario, options.seconds()));
            }
        }
        let medians: Vec<f64> = costs.into_iter().map(median).collect();
        let theirs = medians.get(1).copied().unwrap_or(f64::NAN);
        rows.push(vec![
            scenario.name.to_owned(),
            format!("{:.3}", medians[0]),
            format!("{theirs:.3}"),
            format!("{:.2}", medians[0] / theirs),
        ]);
    }
    rows.keep(options, "cpu");
    true
}
