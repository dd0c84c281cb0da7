//! Seeded, hostile schedules: mixed sizes, storms of overwrites, limits that shrink under the live items, no eviction, floods of big values.
//!
//! `IBEX_SIM_SEED` replays one seed, `IBEX_SIM_SEEDS` sets how many are run.

use crate::model::Pair;
use ibex_base::rng::Rng;

const SEEDS: u64 = 256;
const STEPS: u64 = 400;

fn value(rng: &mut Rng, flavour: u64) -> Vec<u8> {
    let size = match flavour % 4 {
        0 => rng.below(64),
        1 => rng.below(700),
        2 => rng.below(6000),
        _ => [0, 10, 500, 513, 20_000][rng.index(5)],
    };
    let fill = (rng.below(256)) as u8;
    vec![fill; size as usize]
}

fn run(seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let evicts = rng.chance(4, 5);
    let mut limit = 96 * 1024 + rng.below(512 * 1024) as usize;
    let mut pair = Pair::new(limit, 4096, evicts, seed);
    let keys = 1 + rng.below(2000);
    let flavour = rng.next_u64();
    let mut full = 0;
    for _ in 0..STEPS {
        for _ in 0..rng.below(8) {
            let key = format!("k{}", rng.below(keys)).into_bytes();
            match rng.below(20) {
                0..8 => pair.read(&key),
                8..15 => {
                    let ttl = [0, 0, 1, 5, 100, 5000][rng.index(6)];
                    let bytes = value(&mut rng, flavour);
                    let flags = rng.below(2) as u32;
                    let is_over_half = 2 * (bytes.len() + 4096) > limit;
                    let outcome = pair.write(&key, bytes, flags, ttl, false);
                    assert!(
                        outcome.is_ok() || !evicts || is_over_half,
                        "with eviction there is always room"
                    );
                    full += u64::from(outcome.is_err());
                }
                15..18 => pair.delete(&key),
                _ => pair.touch(&key, [0, 1, 50][rng.index(3)]),
            }
        }
        if rng.chance(1, 10) {
            pair.now += rng.below(20) as u32;
        }
        if rng.chance(1, 60) {
            pair.shard.sweep(pair.now, rng.below(64) as usize);
        }
        if rng.chance(1, 150) && evicts {
            limit = 96 * 1024 + rng.below(1024 * 1024) as usize;
            pair.shard.set_limit(pair.now, limit);
        }
        if rng.chance(1, 300) {
            pair.flush();
        }
        if rng.chance(1, 10) {
            pair.shard.check_invariants();
        }
    }
    pair.check_whole();
    let summary = format!("{:?} full={full}", pair.shard.stats());
    pair.flush();
    pair.shard.check_invariants();
    assert_eq!(pair.shard.stats().curr_items, 0);
    summary
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse::<u64>().ok())
    };
    match number("IBEX_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("IBEX_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn hostile_schedules_keep_every_promise() {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed: replay with IBEX_SIM_SEED={seed}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(42), run(42));
}
