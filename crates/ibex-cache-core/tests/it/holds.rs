//! How long one call on a shard takes, which is how long a server holds its lock: a measurement to be run by hand in a release build.
//!
//! `cargo test --release -p ibex-cache-core --test it holds -- --ignored --nocapture`
#![expect(clippy::print_stdout, reason = "a measurement prints")]

use ibex_base::rng::Rng;
use ibex_cache_core::{Bands, Bits, NewItem, PIECE_BYTES, Shard, ShardConfig};
use rustix::time::{ClockId, clock_gettime};

/// Durations of one kind of call, in nanoseconds of processor time: what others do on the machine does not count.
struct Times(&'static str, Vec<i64>);

fn now() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

impl Times {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = now();
        let outcome = call();
        self.1.push(now() - start);
        outcome
    }

    fn print(mut self) {
        self.1.sort_unstable();
        let at = |part: usize| {
            let index = (self.1.len() - 1) * part / 10_000;
            self.1[index] / 100
        };
        let micros = |tenths: i64| format!("{}.{}", tenths / 10, tenths % 10);
        println!(
            "  {:28} {:>9} calls  p50 {:>8}  p99 {:>8}  p99.99 {:>8}  max {:>8} us",
            self.0,
            self.1.len(),
            micros(at(5000)),
            micros(at(9900)),
            micros(at(9999)),
            micros(at(10_000))
        );
    }
}

fn new<'a>(key: &'a [u8], value: &'a [&'a [u8]]) -> NewItem<'a> {
    NewItem {
        key,
        value,
        flags: 0,
        expiry: 0,
        cas: 1,
        bits: Bits::default(),
    }
}

fn measure(limit_bytes: usize, store_bytes: usize) {
    let segment_bytes = ShardConfig::segment_bytes_for(store_bytes);
    println!(
        "shard of {} MiB, segments of {} KiB",
        limit_bytes >> 20,
        segment_bytes >> 10
    );
    let mut shard = Shard::new(ShardConfig {
        limit_bytes,
        segment_bytes,
        evicts: true,
        seed: 1,
        bands: Bands::new(1.25, 48),
    });
    let mut rng = Rng::new(1);
    let items = (limit_bytes / 140) as u64;
    let (mut set, mut get) = (
        Times("set, 100 bytes, evicting", Vec::new()),
        Times("get, 100 bytes", Vec::new()),
    );
    let value = [b'v'; 100];
    for n in 0..4 * items {
        let key = format!("key{}", rng.below(3 * items)).into_bytes();
        let hash = Shard::hash(1, &key);
        if n < 2 * items {
            assert!(shard.insert(1, hash, &new(&key, &[&value])).is_ok());
        } else if n % 2 == 0 {
            set.time(|| shard.insert(1, hash, &new(&key, &[&value])))
                .unwrap_or(());
        } else {
            get.time(|| {
                if let Ok(found) = shard.find(1, hash, &key) {
                    shard.accessed(1, found);
                    std::hint::black_box(shard.view(found).value().map(<[u8]>::len).sum::<usize>());
                }
            });
        }
    }
    set.print();
    get.print();
    large(&mut shard, limit_bytes);
    let mut sweep = Times("sweep, one segment", Vec::new());
    while !sweep.time(|| shard.sweep(1, 1)) {}
    sweep.print();
    let mut shrink = Times("limit halved, one step", Vec::new());
    shard.note_limit(limit_bytes / 2);
    while !shrink.time(|| shard.enforce_step(1)) {}
    shrink.print();
    let mut flush = Times("flush", Vec::new());
    flush.time(|| shard.flush());
    flush.time(|| shard.flush());
    flush.print();
}

fn large(shard: &mut Shard, limit_bytes: usize) {
    let value = vec![b'v'; (10 << 20).min(limit_bytes / 8)];
    let mut room = Times("large set: a step for room", Vec::new());
    let mut write = Times("large set: a piece", Vec::new());
    let mut finish = Times("large set: its item", Vec::new());
    let mut read = Times("large get: a piece", Vec::new());
    let mut unpin = Times("large get: unpin", Vec::new());
    let mut at_once = Times("the same value at once", Vec::new());
    for n in 0..12_u8 {
        let key = [b'L', n];
        let hash = Shard::hash(1, &key);
        let Ok(Some(pinned)) = shard.begin(value.len()) else {
            return;
        };
        for piece in value.chunks(PIECE_BYTES) {
            while !room.time(|| shard.make_room(1)) {}
            assert!(write.time(|| shard.write_piece(1, &pinned, piece)).is_ok());
        }
        assert!(
            finish
                .time(|| shard.insert_written(1, hash, &new(&key, &[]), pinned))
                .is_ok()
        );
        if let Ok(found) = shard.find(1, hash, &key)
            && let Some(pinned) = shard.pin(found)
        {
            let mut out = Vec::with_capacity(value.len());
            let mut at = 0;
            while at < value.len() {
                at = read.time(|| shard.read_piece(&pinned, at, &mut out));
            }
            unpin.time(|| shard.unpin(pinned));
        }
        let key = [b'O', n];
        let hash = Shard::hash(1, &key);
        at_once
            .time(|| shard.insert(1, hash, &new(&key, &[&value])))
            .unwrap_or(());
    }
    for times in [room, write, finish, read, unpin, at_once] {
        times.print();
    }
}

#[test]
#[ignore = "a measurement"]
fn of_a_small_and_a_large_store() {
    measure(16 << 20, 64 << 20);
    measure(128 << 20, 1 << 30);
}
