//! Request traces: what is read, and how it is stored when it was missed. The same seed gives both servers the same trace.

use std::collections::HashMap;
use std::path::Path;

use ibex_base::rng::Rng;
use ibex_base::zipf::Zipf;

/// Keys of a trace, of which a cache of 64 MiB holds a third to a half.
const KEYS: u32 = 1_000_000;
/// Requests of a trace; the first third fills the cache and is not counted.
pub(crate) const REQUESTS: usize = 3_000_000;
/// Bytes of a value where nothing else is said.
const BYTES: u32 = 100;
/// Keys above this belong to scans or to the second mix.
const OTHER_KEYS: u32 = 1 << 30;

/// One read, and the store that follows a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) key: u32,
    pub(crate) bytes: u32,
    /// Lifetime in seconds; 0 for ever.
    pub(crate) ttl: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Popularity alone.
    Zipf,
    /// Every 100 000 requests, 20 000 of keys that are read once and never again.
    Scans,
    /// Of two popular keys one is replaced by a new one within the trace.
    Drift,
    /// A third of the keys each live 5 s, 20 s, for ever.
    Lifetimes,
    /// Values of 20 to 5000 bytes, each size as likely as its double.
    Sizes,
    /// Values of 100 bytes; then, half way, other keys with values of 400.
    Change,
}

/// A named trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    exponent: f64,
    shape: Shape,
    /// Requests a second, where time matters.
    pub(crate) rate: Option<u32>,
}

const fn plain(name: &'static str, exponent: f64) -> Trace {
    Trace {
        name,
        exponent,
        shape: Shape::Zipf,
        rate: None,
    }
}

const fn shaped(name: &'static str, shape: Shape) -> Trace {
    Trace {
        shape,
        ..plain(name, 0.9)
    }
}

/// The trace whose course over time is kept too.
pub(crate) const CHANGE: &str = "size mix changes";

pub(crate) const TRACES: [Trace; 11] = [
    plain("zipf 0.7", 0.7),
    plain("zipf 0.8", 0.8),
    plain("zipf 0.9", 0.9),
    plain("zipf 0.99", 0.99),
    plain("zipf 1.0", 1.0),
    plain("zipf 1.1", 1.1),
    shaped("zipf 0.9, scans", Shape::Scans),
    shaped("zipf 0.9, drift", Shape::Drift),
    Trace {
        rate: Some(60_000),
        ..shaped("zipf 0.9, lifetimes", Shape::Lifetimes)
    },
    shaped("zipf 0.9, many sizes", Shape::Sizes),
    shaped(CHANGE, Shape::Change),
];

/// A recorded trace: text with commas, whose first line names the columns. `size` is the value's bytes, `lbn` (a block's number, in traces of storage) or
/// `key` what is read; keys are numbered in the order they come.
pub(crate) fn recorded(path: &Path) -> Vec<Request> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |wanted: &[&str]| {
        let at = names.iter().position(|name| wanted.contains(name));
        at.unwrap_or_else(|| panic!("no column {wanted:?} in {names:?}"))
    };
    let (key, size) = (column(&["key", "lbn"]), column(&["size"]));
    let mut numbers = HashMap::new();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            let next = u32::try_from(numbers.len()).unwrap();
            Request {
                key: *numbers.entry(cells[key]).or_insert(next),
                bytes: cells[size].parse().unwrap(),
                ttl: 0,
            }
        })
        .collect()
}

/// A number that looks random but belongs to the key.
fn mark(key: u32) -> u64 {
    Rng::new(u64::from(key)).next_u64()
}

impl Trace {
    /// Whether a policy that counts items can be simulated on it.
    pub(crate) fn is_uniform(&self) -> bool {
        matches!(self.shape, Shape::Zipf | Shape::Scans | Shape::Drift)
    }

    pub(crate) fn requests(self) -> impl Iterator<Item = Request> {
        let (mut rng, zipf) = (Rng::new(42), Zipf::new(KEYS, self.exponent));
        (0..REQUESTS).map(move |n| {
            let rank = zipf.sample(&mut rng);
            self.request(u32::try_from(n).unwrap(), rank)
        })
    }

    fn request(self, n: u32, rank: u32) -> Request {
        let plain = Request {
            key: rank,
            bytes: BYTES,
            ttl: 0,
        };
        match self.shape {
            Shape::Zipf => plain,
            Shape::Scans if n % 100_000 >= 80_000 => Request {
                key: OTHER_KEYS + n,
                ..plain
            },
            Shape::Scans => plain,
            Shape::Drift => {
                // Each rank changes its key once within the trace, at a moment of its own.
                let moment = mark(rank) % (2 * REQUESTS as u64);
                let is_new = u64::from(n) > moment;
                Request {
                    key: if is_new { OTHER_KEYS + rank } else { rank },
                    ..plain
                }
            }
            Shape::Lifetimes => Request {
                ttl: [5, 20, 0][(mark(rank) % 3) as usize],
                ..plain
            },
            Shape::Sizes => {
                let doublings = (mark(rank) % 800) as f64 / 100.0;
                Request {
                    bytes: (20.0 * doublings.exp2()) as u32,
                    ..plain
                }
            }
            Shape::Change if n as usize >= REQUESTS / 2 => Request {
                key: OTHER_KEYS + rank,
                bytes: 4 * BYTES,
                ..plain
            },
            Shape::Change => plain,
        }
    }
}
