//! The daemon's synchronisation under a checker that plays many schedules of a few threads (shuttle): shards, cas numbers and memory limits, namespaces,
//! sweeps.
//!
//! The modules are those of the daemon; only what `sync` names is the checker's. Each scenario is played in random schedules and in such as change
//! threads at few, badly chosen moments. A schedule that fails is printed and can be played again. `IBEX_SCHEDULES` sets their number.
#![allow(
    dead_code,
    reason = "the modules are whole, the scenarios use parts of them"
)]

#[path = "../../src/crawl.rs"]
mod crawl;
#[path = "../../src/namespaces.rs"]
mod namespaces;
#[path = "../../src/store.rs"]
mod store;

use ibex_cache_core::{Bands, Bits, NewItem, PIECE_BYTES};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{Config, Runner, thread};
use store::{Store, StoreOptions};

const NOW: u32 = 10;

/// Schedules of each kind.
const SCHEDULES: usize = 300;
/// Stack of a thread of the checker; a shard is made on it.
const STACK_BYTES: usize = 1 << 20;

fn check(scenario: impl Fn() + Sync + Send + Copy + 'static) {
    let wanted = std::env::var("IBEX_SCHEDULES").ok();
    let schedules = wanted.map_or(SCHEDULES, |text| text.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    Runner::new(RandomScheduler::new(schedules), config.clone()).run(scenario);
    Runner::new(PctScheduler::new(3, schedules), config).run(scenario);
}

fn store(limit_bytes: usize) -> Arc<Store> {
    Arc::new(Store::new(StoreOptions {
        limit_bytes,
        item_size_max: 1 << 20,
        threads: 1,
        evicts: true,
        bands: Bands::new(1.25, 48),
        seed: Some(1),
    }))
}

/// Stores as the commands do: a large value in pieces first, then under the lock with a fresh cas number.
fn put(store: &Store, key: &[u8], value: &[u8]) -> u64 {
    let hash = store.hash(key);
    let mut staged = store.stage(NOW, hash, value);
    let mut shard = store.shard(hash);
    let cas = store.next_cas();
    let new = NewItem {
        key,
        value: &[value],
        flags: 0,
        expiry: 0,
        cas,
        bits: Bits::default(),
    };
    assert!(staged.insert(&mut shard, NOW, hash, &new).is_ok());
    cas
}

/// Reads as the commands do.
fn get(store: &Store, key: &[u8]) -> Option<(u64, Vec<u8>)> {
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let found = shard.find(NOW, hash, key).ok()?;
    let cas = shard.view(found).cas();
    let mut value = Vec::new();
    store.copy_out(shard, hash, found, &mut value);
    Some((cas, value))
}

mod shards {
    use super::*;

    /// Three pieces.
    const LARGE: usize = 2 * PIECE_BYTES + 1;

    fn whole(value: &[u8]) -> u8 {
        let letter = value.first().copied().unwrap();
        assert!(
            value.len() == LARGE && value.iter().all(|byte| *byte == letter),
            "torn"
        );
        letter
    }

    #[test]
    fn a_large_value_is_read_whole_while_it_is_replaced() {
        check(|| {
            let store = store(4 << 20);
            put(&store, b"k", &[b'a'; LARGE]);
            let writer = {
                let store = Arc::clone(&store);
                thread::spawn(move || put(&store, b"k", &[b'b'; LARGE]))
            };
            let (first, value) = get(&store, b"k").unwrap();
            assert_eq!(whole(&value), if first == 1 { b'a' } else { b'b' });
            let second = writer.join().unwrap();
            assert_eq!(
                get(&store, b"k").map(|(cas, value)| (cas, whole(&value))),
                Some((second, b'b'))
            );
            store.each(|shard| shard.check_invariants());
        });
    }

    #[test]
    fn a_large_value_is_read_whole_while_everything_goes() {
        check(|| {
            let store = store(4 << 20);
            put(&store, b"k", &[b'a'; LARGE]);
            let flusher = {
                let store = Arc::clone(&store);
                thread::spawn(move || store.each(ibex_cache_core::Shard::flush))
            };
            if let Some((_, value)) = get(&store, b"k") {
                whole(&value);
            }
            flusher.join().unwrap();
            assert_eq!(get(&store, b"k"), None);
            // What was pinned when it was flushed is free by now.
            let stats = store.stats();
            assert_eq!((stats.curr_items, stats.segments), (0, stats.segments_free));
        });
    }

    /// Two writers of one key: the later cas number is what is left, whole.
    #[test]
    fn the_last_of_two_large_stores_stays() {
        check(|| {
            let store = store(4 << 20);
            let other = {
                let store = Arc::clone(&store);
                thread::spawn(move || put(&store, b"k", &[b'b'; LARGE]))
            };
            let mine = put(&store, b"k", &[b'a'; LARGE]);
            let theirs = other.join().unwrap();
            let (cas, value) = get(&store, b"k").unwrap();
            assert_eq!(cas, mine.max(theirs));
            assert_eq!(whole(&value), if cas == mine { b'a' } else { b'b' });
            store.each(|shard| shard.check_invariants());
        });
    }
}

mod limits {
    use super::*;

    /// Whatever the order, the shards end with what limit and charge come to.
    #[test]
    fn a_limit_and_a_charge_at_once_are_both_obeyed() {
        check(|| {
            let store = store(64 << 20);
            let charger = {
                let store = Arc::clone(&store);
                thread::spawn(move || store.charge(NOW, 20 << 20))
            };
            store.set_limit(NOW, 16 << 20);
            charger.join().unwrap();
            assert_eq!(store.limit_bytes(), 16 << 20);
            // At most half may be charged.
            let mut shares = Vec::new();
            store.each(|shard| shares.push(shard.limit_bytes()));
            assert_eq!(shares, vec![(8 << 20) / shares.len(); shares.len()]);
        });
    }

    #[test]
    fn stores_beside_a_lowered_limit_end_under_it() {
        check(|| {
            let store = store(1 << 20);
            for n in 0..30 {
                put(&store, &[n], &[b'v'; 9000]);
            }
            let lowerer = {
                let store = Arc::clone(&store);
                thread::spawn(move || store.set_limit(NOW, 600 << 10))
            };
            put(&store, b"one", &[b'v'; 9000]);
            put(&store, b"more", &[b'v'; 9000]);
            lowerer.join().unwrap();
            store.each(|shard| {
                assert!(shard.memory_bytes() <= shard.limit_bytes());
                shard.check_invariants();
            });
        });
    }
}

mod namespaces_and_stores {
    use super::namespaces::Namespaces;
    use super::*;

    struct Both {
        store: Arc<Store>,
        namespaces: Arc<Namespaces>,
    }

    impl Both {
        fn new() -> Self {
            Self {
                store: store(1 << 20),
                namespaces: Arc::new(Namespaces::new(Some(b':'))),
            }
        }

        fn share(&self) -> Self {
            Self {
                store: Arc::clone(&self.store),
                namespaces: Arc::clone(&self.namespaces),
            }
        }

        /// `ns_invalidate`
        fn invalidate(&self) {
            let last_cas = self.store.cas();
            assert!(self.namespaces.invalidate(b"n", last_cas).is_ok());
        }

        /// The value a reader sees.
        fn see(&self) -> Option<u8> {
            let (cas, value) = get(&self.store, b"n:k")?;
            (!self.namespaces.is_gone(b"n:k", cas)).then(|| value[0])
        }
    }

    /// After its answer nothing stored before is seen, and everything stored later is.
    #[test]
    fn an_invalidation_divides_before_from_after() {
        check(|| {
            let both = Both::new();
            put(&both.store, b"n:k", b"1");
            let writer = {
                let both = both.share();
                thread::spawn(move || put(&both.store, b"n:k", b"2"))
            };
            both.invalidate();
            assert_ne!(both.see(), Some(b'1'), "stored before the invalidation");
            writer.join().unwrap();
            assert_ne!(both.see(), Some(b'1'));
            put(&both.store, b"n:k", b"3");
            assert_eq!(both.see(), Some(b'3'), "stored after it");
        });
    }

    #[test]
    fn two_invalidations_never_bring_anything_back() {
        check(|| {
            let both = Both::new();
            put(&both.store, b"n:k", b"1");
            let other = {
                let both = both.share();
                thread::spawn(move || {
                    put(&both.store, b"n:k", b"2");
                    both.invalidate();
                    assert_eq!(both.see(), None);
                })
            };
            both.invalidate();
            other.join().unwrap();
            assert_eq!(both.see(), None);
        });
    }
}

mod sweeps {
    use super::crawl::Crawl;
    use super::*;

    /// Who asks for a sweep and then sees none running finds that one began after he asked.
    #[test]
    fn a_sweep_that_is_over_began_after_it_was_asked_for() {
        check(|| {
            let crawl = Arc::new(Crawl::new());
            // The state of the items: 1 is an expired one that the next sweep finds.
            let expired = Arc::new(AtomicU64::new(0));
            let upkeep = {
                let (crawl, expired) = (Arc::clone(&crawl), Arc::clone(&expired));
                thread::spawn(move || {
                    for _ in 0..2 {
                        crawl.turn(false, || expired.store(0, Ordering::Release));
                    }
                })
            };
            expired.store(1, Ordering::Release);
            crawl.ask();
            if !crawl.is_running() {
                assert_eq!(expired.load(Ordering::Acquire), 0, "it is said to be over");
            }
            upkeep.join().unwrap();
            crawl.turn(false, || expired.store(0, Ordering::Release));
            assert!(!crawl.is_running());
            assert_eq!(expired.load(Ordering::Acquire), 0);
        });
    }
}
