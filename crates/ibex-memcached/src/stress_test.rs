//! Many threads on one small store: every value says whose it is and which version, and nobody may ever read anything else.
//!
//! Each key has one thread that writes it; all read it. Meanwhile memory is far too small, its limit changes, everything is flushed and namespaces are
//! invalidated. A read may miss; it may not show another key's value, a torn one, or a version older than one that was seen before.
//! `IBEX_STRESS_STEPS` makes it longer.

use crate::config::Config;
use crate::shared::Shared;
use crate::testing::{Bench, shared};
use ibex_base::rng::Rng;
use ibex_cache_core::{Bits, NewItem};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: usize = 6;
const KEYS: usize = 1200;
const STEPS: u64 = 1500;

/// The value of a version: its words, over and over.
fn value(key: usize, version: u64, bytes: usize) -> Vec<u8> {
    let words = format!("[{key} {version} {bytes}]");
    let bytes = bytes.max(words.len());
    let mut value = words.repeat(bytes.div_ceil(words.len())).into_bytes();
    value.truncate(bytes);
    value
}

/// Key, version and size that a value tells of itself, if it is whole.
fn read(value_bytes: &[u8]) -> (usize, u64, usize) {
    let end = value_bytes.iter().position(|byte| *byte == b']').unwrap();
    let words = std::str::from_utf8(&value_bytes[1..end]).unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let [key, version, bytes] = words[..] else {
        panic!("{words:?}")
    };
    let (key, version) = (key.parse().unwrap(), version.parse().unwrap());
    let bytes = bytes.parse().unwrap();
    assert!(
        value_bytes == value(key, version, bytes),
        "a torn value of key {key}, version {version}"
    );
    (key, version, bytes)
}

/// Small ones mostly, and each way of keeping large ones.
fn size(rng: &mut Rng) -> usize {
    let most = [40, 40, 300, 300, 2000, 2000, 9000, 9000, 40_000, 300_000][rng.index(10)];
    rng.index(most)
}

struct Player {
    bench: Bench,
    rng: Rng,
    number: usize,
    /// The last version written of each own key.
    written: Vec<u64>,
    /// The highest version read of each key.
    seen: Vec<u64>,
    hits: u64,
}

impl Player {
    fn own_key(&mut self) -> usize {
        let own = self.rng.index(KEYS / THREADS);
        own * THREADS + self.number
    }

    /// Reads a key; the version that is there.
    fn look(&mut self, key: usize, floor: &AtomicU64) -> Option<u64> {
        // Whatever was answered as written before this read began must not come back older.
        let least = floor.load(Ordering::Acquire).max(self.seen[key]);
        let prefix = key % 7;
        let request = match self.rng.below(3) {
            0 => format!("get n{prefix}:{key}\r\n"),
            1 => format!("gets n{prefix}:{key}\r\n"),
            _ => format!("mg n{prefix}:{key} v\r\n"),
        };
        let reply = self.bench.ask(request.as_bytes());
        if reply == b"END\r\n" || reply == b"EN\r\n" {
            return None;
        }
        let line = reply.iter().take_while(|byte| **byte != b'\n').count();
        let start = line + 1;
        let end = if reply.starts_with(b"VA ") {
            2
        } else {
            "\r\nEND\r\n".len()
        };
        let (told, version, _) = read(&reply[start..reply.len() - end]);
        assert_eq!(told, key, "another key's value");
        assert!(
            version >= least,
            "key {key}: version {version} after {least}"
        );
        self.seen[key] = version;
        self.hits += 1;
        Some(version)
    }

    fn write(&mut self, key: usize) {
        let version = self.written[key] + 1;
        let bytes = size(&mut self.rng);
        let block = value(key, version, bytes);
        let prefix = key % 7;
        let verb = ["set", "ms"][self.rng.index(2)];
        let head = if verb == "set" {
            format!("set n{prefix}:{key} 0 0 {}\r\n", block.len())
        } else {
            format!("ms n{prefix}:{key} {}\r\n", block.len())
        };
        let request = [head.as_bytes(), &block, b"\r\n"].concat();
        let reply = self.bench.ask(&request);
        assert!(
            matches!(&reply[..], b"STORED\r\n" | b"HD\r\n"),
            "{}",
            reply.escape_ascii()
        );
        self.written[key] = version;
    }

    fn step(&mut self, floors: &[AtomicU64]) {
        match self.rng.below(1000) {
            0 => assert_eq!(self.bench.ask(b"flush_all\r\n"), b"OK\r\n"),
            1..6 => {
                let megabytes = 8 + self.rng.below(8);
                let request = format!("cache_memlimit {megabytes}\r\n");
                assert_eq!(self.bench.ask(request.as_bytes()), b"OK\r\n");
            }
            6..16 => {
                let request = format!("ns_invalidate n{}\r\n", self.rng.below(7));
                assert_eq!(self.bench.ask(request.as_bytes()), b"OK\r\n");
            }
            16..60 => {
                let key = self.own_key();
                self.bench
                    .ask(format!("delete n{}:{key}\r\n", key % 7).as_bytes());
                assert_eq!(
                    self.look(key, &floors[key]),
                    None,
                    "only its writer stores it"
                );
            }
            60..400 => {
                let key = self.own_key();
                self.write(key);
                floors[key].store(self.written[key], Ordering::Release);
                let version = self.look(key, &floors[key]);
                assert!(version.is_none_or(|version| version == self.written[key]));
            }
            _ => {
                let key = self.rng.index(KEYS);
                self.look(key, &floors[key]);
            }
        }
    }
}

fn play(shared: &Arc<Shared>, number: usize, steps: u64, floors: &[AtomicU64]) -> u64 {
    let mut player = Player {
        bench: Bench::of(shared, number),
        rng: Rng::new(number as u64),
        number,
        written: vec![0; KEYS],
        seen: vec![0; KEYS],
        hits: 0,
    };
    for _ in 0..steps {
        player.step(floors);
    }
    player.hits
}

#[test]
fn nobody_reads_what_was_not_written() {
    let steps = std::env::var("IBEX_STRESS_STEPS").ok();
    let steps = steps.map_or(STEPS, |steps| steps.parse().unwrap());
    let config = Config {
        threads: u32::try_from(THREADS).unwrap(),
        ns_delimiter: ":".to_owned(),
        memory: "64M".parse().unwrap(),
        ..Config::default()
    };
    let shared = shared(config);
    let floors: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let hits: u64 = std::thread::scope(|scope| {
        let players: Vec<_> = (0..THREADS)
            .map(|number| {
                let (shared, floors) = (&shared, &floors);
                scope.spawn(move || play(shared, number, steps, floors))
            })
            .collect();
        players
            .into_iter()
            .map(|player| player.join().unwrap())
            .sum()
    });
    shared.store.each(|shard| shard.check_invariants());
    let stats = shared.store.stats();
    assert!(hits > steps, "{hits} hits: the threads met nothing");
    assert!(stats.evictions > 0, "memory was never short");
}

/// Values of almost half the memory that come at once are all stored, one after another, and small ones find room all the while.
#[test]
fn the_largest_values_at_once_are_all_stored() {
    let config = Config {
        memory: "16M".parse().unwrap(),
        item_size_max: "8M".parse().unwrap(),
        ..Config::default()
    };
    let shared = shared(config);
    let store = &shared.store;
    let put = |key: &[u8], value: &[u8]| {
        let hash = store.hash(key);
        let mut staged = store.stage(1, hash, value);
        let mut shard = store.shard(hash);
        let new = NewItem {
            key,
            value: &[value],
            flags: 0,
            expiry: 0,
            cas: store.next_cas(),
            bits: Bits::default(),
        };
        assert!(
            staged.insert(&mut shard, 1, hash, &new).is_ok(),
            "{}",
            value.len()
        );
    };
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            scope.spawn(move || {
                let (large, small) = (vec![b'l'; 8_000_000], vec![b's'; 20_000]);
                for _ in 0..6 {
                    put(&[number], &large);
                    put(&[number, number], &small);
                    let (key, mut out) = ([(number + 1) % 4], Vec::new());
                    let hash = store.hash(&key);
                    let mut shard = store.shard(hash);
                    if let Ok(found) = shard.find(1, hash, &key) {
                        store.copy_out(shard, hash, found, &mut out);
                        assert!(out == large, "torn");
                    }
                }
            });
        }
    });
    store.each(|shard| shard.check_invariants());
}
