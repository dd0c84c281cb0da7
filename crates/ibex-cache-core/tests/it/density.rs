//! How much fits, and that memory stays under its limit.

use ibex_cache_core::{Bands, Bits, NewItem, Shard, ShardConfig};

const MIB: usize = 1 << 20;

fn shard(limit_bytes: usize) -> Shard {
    let segment_bytes = ShardConfig::segment_bytes_for(4 * limit_bytes);
    Shard::new(ShardConfig {
        limit_bytes,
        segment_bytes,
        evicts: true,
        seed: 1,
        bands: Bands::new(1.25, 48),
    })
}

fn store(shard: &mut Shard, key: &str, value: &[u8]) {
    let hash = Shard::hash(1, key.as_bytes());
    let new = NewItem {
        key: key.as_bytes(),
        value: &[value],
        flags: 0,
        expiry: 0,
        cas: 1,
        bits: Bits::default(),
    };
    assert!(shard.insert(1, hash, &new).is_ok());
}

/// A quarter of a 64 MiB store, keys of 10 bytes.
#[test]
fn a_quarter_of_64_mib_holds_115_000_items_of_100_bytes() {
    let mut shard = shard(16 * MIB);
    for n in 0..200_000 {
        store(&mut shard, &format!("k{n:09}"), &[b'x'; 100]);
        assert!(shard.memory_bytes() <= 16 * MIB + 32 * 1024);
    }
    shard.check_invariants();
    let items = shard.stats().curr_items;
    assert!(items >= 115_000, "{items}");
}

/// The mix of sizes changes from small to large: memory is not stuck in the old sizes.
#[test]
fn a_changed_mix_of_sizes_uses_all_memory() {
    let mut shard = shard(16 * MIB);
    for n in 0..200_000 {
        store(&mut shard, &format!("small{n}"), &[b'x'; 50]);
    }
    for n in 0..400_usize {
        store(&mut shard, &format!("large{n}"), &vec![b'x'; 100_000]);
    }
    shard.check_invariants();
    assert!(shard.stats().bytes > 13 * MIB as u64, "{:?}", shard.stats());
}

#[test]
fn overwrites_of_changing_size_do_not_evict_others() {
    let mut shard = shard(16 * MIB);
    for n in 0..50_000 {
        store(&mut shard, &format!("k{n:09}"), &[b'x'; 100]);
    }
    for round in 0..200_000_usize {
        store(
            &mut shard,
            &format!("hot{}", round % 10),
            &vec![b'y'; 100 + round % 200],
        );
    }
    shard.check_invariants();
    assert_eq!(
        (shard.stats().evictions, shard.stats().curr_items),
        (0, 50_010)
    );
}

#[test]
fn a_full_store_without_eviction_refuses_and_keeps_what_it_has() {
    let limit_bytes = MIB;
    let mut shard = Shard::new(ShardConfig {
        limit_bytes,
        segment_bytes: 65536,
        evicts: false,
        seed: 1,
        bands: Bands::new(1.25, 48),
    });
    let mut stored = 0;
    for n in 0..20_000 {
        let key = format!("k{n}");
        let new = NewItem {
            key: key.as_bytes(),
            value: &[&[b'x'; 100]],
            flags: 0,
            expiry: 0,
            cas: 1,
            bits: Bits::default(),
        };
        if shard
            .insert(1, Shard::hash(1, key.as_bytes()), &new)
            .is_err()
        {
            break;
        }
        stored += 1;
    }
    assert!((5_000..10_000).contains(&stored), "{stored}");
    assert_eq!(shard.stats().curr_items, stored);
    shard.check_invariants();
    for n in 0..stored {
        let key = format!("k{n}");
        assert!(
            shard
                .find(1, Shard::hash(1, key.as_bytes()), key.as_bytes())
                .is_ok()
        );
    }
}

/// Large values go one by one, not all whose stubs share a segment.
#[test]
fn large_values_are_evicted_one_by_one() {
    let mut shard = shard(16 * MIB);
    let value = vec![b'x'; 11_000];
    let mut most = 0;
    for n in 0..20_000 {
        store(&mut shard, &format!("k{n}"), &value);
        let items = shard.stats().curr_items;
        most = most.max(items);
        assert!(items * 10 >= most * 9, "{items} of {most} after {n}");
    }
    shard.check_invariants();
    assert!(most * 11_000 > 14 * MIB as u64, "{most}");
}

/// Of items that nobody reads, those that are small beside the others stay longer; where all are alike, size changes nothing.
#[test]
fn small_items_outlive_large_ones() {
    let left = |sizes: [usize; 2]| {
        let mut shard = shard(16 * MIB);
        for n in 0..20_000 {
            for (kind, size) in sizes.into_iter().enumerate() {
                store(&mut shard, &format!("kind{kind}:{n}"), &vec![b'x'; size]);
            }
        }
        shard.check_invariants();
        [0, 1].map(|kind| {
            let keys = (0..20_000).map(|n| format!("kind{kind}:{n}").into_bytes());
            keys.filter(|key| shard.find(1, Shard::hash(1, key), key).is_ok())
                .count()
        })
    };
    let [small, large] = left([200, 5000]);
    assert!(small >= 2 * large && large > 1000, "{small} and {large}");
    let [one, other] = left([2600, 2601]);
    assert!(one.abs_diff(other) <= 200, "{one} and {other}");
}
