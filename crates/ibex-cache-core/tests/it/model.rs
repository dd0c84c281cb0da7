//! What the store should hold, as a plain map; and the operations both are given.

use ibex_cache_core::{
    Absent, Bands, Bits, Full, NewItem, PIECE_BYTES, Pinned, Shard, ShardConfig,
};
use std::collections::BTreeMap;

/// What the model knows of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelItem {
    pub(crate) value: Vec<u8>,
    pub(crate) flags: u32,
    pub(crate) expiry: u32,
    pub(crate) cas: u64,
}

/// A shard and its model, driven together. Every hit must equal the model; a miss of a live key is allowed only where something was evicted.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) shard: Shard,
    pub(crate) model: BTreeMap<Vec<u8>, ModelItem>,
    pub(crate) now: u32,
    cas: u64,
    seed: u64,
}

impl Pair {
    pub(crate) fn new(limit_bytes: usize, segment_bytes: usize, evicts: bool, seed: u64) -> Self {
        let shard = Shard::new(ShardConfig {
            limit_bytes,
            segment_bytes,
            evicts,
            seed,
            bands: Bands::new(1.25, 48),
        });
        Self {
            shard,
            model: BTreeMap::new(),
            now: 1,
            cas: 0,
            seed,
        }
    }

    fn live(&self, key: &[u8]) -> Option<&ModelItem> {
        self.model
            .get(key)
            .filter(|item| item.expiry == 0 || item.expiry > self.now)
    }

    pub(crate) fn read(&mut self, key: &[u8]) {
        let hash = Shard::hash(self.seed, key);
        match self.shard.find(self.now, hash, key) {
            Ok(found) => {
                self.shard.accessed(self.now, found);
                let view = self.shard.view(found);
                let value: Vec<u8> = view.value().flatten().copied().collect();
                let stored = ModelItem {
                    value,
                    flags: view.flags(),
                    expiry: view.expiry(),
                    cas: view.cas(),
                };
                assert_eq!(
                    Some(&stored),
                    self.live(key),
                    "a hit is what was stored last"
                );
                assert_eq!(
                    (view.key(), view.last_access(), view.has(Bits::FETCHED)),
                    (key, self.now, true)
                );
            }
            Err(absent) => {
                let evictions = self.shard.stats().evictions;
                assert!(
                    self.live(key).is_none() || evictions > 0,
                    "nothing is lost without eviction"
                );
                if absent != Absent::Unknown {
                    assert!(
                        self.live(key).is_none(),
                        "what is said to be expired or flushed is"
                    );
                }
                self.model.remove(key);
            }
        }
    }

    /// Begins to read a large value in pieces, if it is one.
    pub(crate) fn pin(&mut self, key: &[u8]) -> Option<(Pinned, Vec<u8>)> {
        let hash = Shard::hash(self.seed, key);
        let found = self.shard.find(self.now, hash, key).ok()?;
        let value = self.shard.view(found).value().flatten().copied().collect();
        Some((self.shard.pin(found)?, value))
    }

    /// Stores a large value in pieces; between them others act.
    pub(crate) fn write_pieces(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        mut between: impl FnMut(&mut Self),
    ) -> Result<(), Full> {
        let pinned = self.shard.begin(value.len())?.ok_or(Full)?;
        for piece in value.chunks(PIECE_BYTES) {
            while !self.shard.make_room(self.now) {}
            if self.shard.write_piece(self.now, &pinned, piece).is_err() {
                self.shard.unpin(pinned);
                return Err(Full);
            }
            between(self);
        }
        self.cas += 1;
        let new = NewItem {
            key,
            value: &[],
            flags: 0,
            expiry: 0,
            cas: self.cas,
            bits: Bits::default(),
        };
        let hash = Shard::hash(self.seed, key);
        self.shard.insert_written(self.now, hash, &new, pinned)?;
        let item = ModelItem {
            value,
            flags: 0,
            expiry: 0,
            cas: self.cas,
        };
        self.model.insert(key.to_vec(), item);
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        flags: u32,
        ttl: u32,
        wide_cas: bool,
    ) -> Result<(), Full> {
        self.cas += 1;
        let cas = if wide_cas {
            self.cas | 1 << 60
        } else {
            self.cas
        };
        let expiry = if ttl == 0 { 0 } else { self.now + ttl };
        let (head, tail) = value.split_at(value.len() / 3);
        let new = NewItem {
            key,
            value: &[head, tail],
            flags,
            expiry,
            cas,
            bits: Bits::default(),
        };
        let hash = Shard::hash(self.seed, key);
        self.shard.insert(self.now, hash, &new)?;
        self.model.insert(
            key.to_vec(),
            ModelItem {
                value,
                flags,
                expiry,
                cas,
            },
        );
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        let hash = Shard::hash(self.seed, key);
        if let Ok(found) = self.shard.find(self.now, hash, key) {
            self.shard.remove(found);
        }
        self.model.remove(key);
    }

    pub(crate) fn touch(&mut self, key: &[u8], ttl: u32) {
        let hash = Shard::hash(self.seed, key);
        let expiry = if ttl == 0 { 0 } else { self.now + ttl };
        if let Ok(found) = self.shard.find(self.now, hash, key) {
            self.shard.set_expiry(found, expiry);
            self.model.get_mut(key).unwrap().expiry = expiry;
        }
    }

    pub(crate) fn flush(&mut self) {
        self.shard.flush();
        self.model.clear();
    }

    /// Without eviction the shard holds exactly what the model holds.
    pub(crate) fn check_whole(&mut self) {
        // The first round may begin in the middle.
        for _ in 0..2 {
            while !self.shard.sweep(self.now, 16) {}
        }
        self.shard.check_invariants();
        if self.shard.stats().evictions == 0 {
            let now = self.now;
            self.model
                .retain(|_, item| item.expiry == 0 || item.expiry > now);
            assert_eq!(self.shard.stats().curr_items, self.model.len() as u64);
        }
        let (mut cursor, mut seen) = (Some(0), 0);
        while let Some(at) = cursor {
            cursor = self.shard.scan(at, 7, |view| {
                seen += 1;
                assert_eq!(
                    self.model.get(view.key()).map(|item| item.cas),
                    Some(view.cas()),
                    "a dump shows what is there"
                );
            });
        }
        assert_eq!(seen, self.shard.stats().curr_items);
    }
}

mod properties {
    use super::Pair;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Read(u8),
        Write {
            key: u8,
            size: usize,
            flags: u32,
            ttl: u32,
            wide_cas: bool,
        },
        Delete(u8),
        Touch(u8, u32),
        Wait(u32),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![6 => 0_usize..100, 2 => 400_usize..700, 1 => 4000_usize..9000];
        let ttl = prop_oneof![3 => Just(0_u32), 1 => 1_u32..20, 1 => 50_u32..2000];
        prop_oneof![
            8 => any::<u8>().prop_map(Step::Read),
            8 => (any::<u8>(), size, prop_oneof![Just(0_u32), any::<u32>()], ttl.clone(), any::<bool>())
                .prop_map(|(key, size, flags, ttl, wide_cas)| Step::Write { key, size, flags, ttl, wide_cas }),
            3 => any::<u8>().prop_map(Step::Delete),
            2 => (any::<u8>(), ttl).prop_map(|(key, ttl)| Step::Touch(key, ttl)),
            2 => (0_u32..15).prop_map(Step::Wait),
            1 => Just(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn the_shard_behaves_like_a_map(steps in proptest::collection::vec(step(), 1..300), limit in prop_oneof![Just(64_usize << 20), Just(128_usize << 10)]) {
            let mut pair = Pair::new(limit, 4096, true, 7);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Read(key) => pair.read(&[key]),
                    Step::Write { key, size, flags, ttl, wide_cas } => {
                        let value = (0..size).map(|at| (at + number) as u8).collect();
                        prop_assert!(pair.write(&[key], value, flags, ttl, wide_cas).is_ok());
                    }
                    Step::Delete(key) => pair.delete(&[key]),
                    Step::Touch(key, ttl) => pair.touch(&[key], ttl),
                    Step::Wait(seconds) => pair.now += seconds,
                    Step::Flush => pair.flush(),
                }
                pair.shard.check_invariants();
            }
            pair.check_whole();
        }
    }
}

/// A shard's items carried to one of another size.
mod carried {
    use super::Pair;
    use ibex_base::rng::Rng;
    use ibex_cache_core::{Carried, Shard};

    impl Pair {
        /// Carries everything to a new shard, through bytes.
        pub(crate) fn carry(&mut self, limit_bytes: usize, segment_bytes: usize) {
            let fresh = Self::new(limit_bytes, segment_bytes, true, self.seed + 1);
            let old = std::mem::replace(&mut self.shard, fresh.shard);
            self.seed += 1;
            let mut bytes = Vec::new();
            let outcome: Result<(), std::convert::Infallible> = old.give_all(
                self.now,
                |_, _| true,
                |write| {
                    write(&mut bytes);
                    Ok(())
                },
            );
            assert!(outcome.is_ok());
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (item, behind) = Carried::read(rest).unwrap();
                rest = behind;
                let hash = Shard::hash(self.seed, item.key);
                assert!(self.shard.take_up(self.now, hash, &item).is_ok());
            }
        }
    }

    #[test]
    fn nothing_is_lost_and_nothing_comes_back() {
        for seed in 0..8 {
            let mut rng = Rng::new(seed);
            let mut pair = Pair::new(8 << 20, 4096, true, seed);
            for round in 0..4 {
                for _ in 0..400 {
                    let key = format!("k{}", rng.below(300)).into_bytes();
                    match rng.below(8) {
                        0 => pair.delete(&key),
                        1 => pair.touch(&key, [0, 5, 50][rng.index(3)]),
                        2 => pair.read(&key),
                        _ => {
                            let size = [0, 30, 500, 3000, 30_000][rng.index(5)];
                            let value = vec![rng.below(256) as u8; size];
                            pair.write(
                                &key,
                                value,
                                rng.below(2) as u32,
                                [0, 9, 90][rng.index(3)],
                                round % 2 == 0,
                            )
                            .unwrap();
                        }
                    }
                }
                pair.now += rng.below(10) as u32;
                let segment_bytes = [4096, 16 << 10, 64 << 10][rng.index(3)];
                pair.carry(16 << 20, segment_bytes);
                pair.check_whole();
                for n in 0..300 {
                    pair.read(format!("k{n}").as_bytes());
                }
            }
        }
    }
}

/// What a flush leaves behind.
mod flushed {
    use ibex_cache_core::{Absent, Bands, Bits, NewItem, Shard, ShardConfig};

    fn shard() -> Shard {
        Shard::new(ShardConfig {
            limit_bytes: 256 << 10,
            segment_bytes: 4096,
            evicts: true,
            seed: 1,
            bands: Bands::new(1.25, 48),
        })
    }

    fn store(shard: &mut Shard, key: &str, bytes: usize) {
        let new = NewItem {
            key: key.as_bytes(),
            value: &[&vec![b'v'; bytes]],
            flags: 0,
            expiry: 0,
            cas: 1,
            bits: Bits::default(),
        };
        let hash = Shard::hash(1, key.as_bytes());
        assert!(shard.insert(1, hash, &new).is_ok());
    }

    fn absent(shard: &mut Shard, key: &str) -> Option<Absent> {
        shard
            .find(1, Shard::hash(1, key.as_bytes()), key.as_bytes())
            .err()
    }

    #[test]
    fn is_told_once_of_each_item() {
        let mut shard = shard();
        for (key, bytes) in [("a", 10), ("b", 10), ("c", 10), ("large", 3000)] {
            store(&mut shard, key, bytes);
        }
        shard.flush();
        assert_eq!(absent(&mut shard, "never"), Some(Absent::Unknown));
        assert_eq!(absent(&mut shard, "a"), Some(Absent::Flushed));
        assert_eq!(absent(&mut shard, "a"), Some(Absent::Unknown));
        assert_eq!(absent(&mut shard, "large"), Some(Absent::Flushed));
        // A place that is taken again counts as reclaimed.
        let before = shard.stats().reclaimed;
        store(&mut shard, "b", 10);
        assert_eq!(shard.stats().reclaimed, before + 1);
        assert_eq!(absent(&mut shard, "b"), None);
        shard.check_invariants();
        shard.flush();
        assert_eq!(absent(&mut shard, "b"), Some(Absent::Flushed));
        assert_eq!(
            absent(&mut shard, "c"),
            Some(Absent::Unknown),
            "two flushes ago"
        );
    }

    #[test]
    fn goes_when_memory_is_needed_and_with_time() {
        let mut shard = shard();
        let fill = |shard: &mut Shard| {
            for n in 0..200 {
                store(shard, &format!("new{n}"), 900);
            }
        };
        store(&mut shard, "old", 10);
        shard.flush();
        fill(&mut shard);
        assert_eq!(absent(&mut shard, "old"), Some(Absent::Unknown));
        shard.check_invariants();
        shard.flush();
        for _ in 0..70 {
            while !shard.sweep(1, 1000) {}
        }
        assert_eq!(absent(&mut shard, "new199"), Some(Absent::Unknown));
    }

    /// A large value makes room for another of its size: one goes for one that comes.
    #[test]
    fn one_large_value_goes_for_one_that_comes() {
        let mut shard = shard();
        for n in 0..400 {
            store(&mut shard, &format!("k{n}"), 700);
        }
        let before = shard.stats().evictions;
        for n in 400..800 {
            store(&mut shard, &format!("k{n}"), 700);
        }
        let evicted = shard.stats().evictions - before;
        assert!((395..=405).contains(&evicted), "{evicted}");
        shard.check_invariants();
    }
}

/// Large values read and written in pieces, with everything happening in between.
mod pieces {
    use super::Pair;
    use ibex_base::rng::Rng;
    use ibex_cache_core::Pinned;

    /// A value under way to a reader: what it was when it was pinned, and how much has been read.
    struct Reading {
        pinned: Pinned,
        value: Vec<u8>,
        read: Vec<u8>,
    }

    fn act(pair: &mut Pair, rng: &mut Rng) {
        let key = format!("k{}", rng.below(40)).into_bytes();
        match rng.below(40) {
            0 => pair.flush(),
            1 => {
                let limit = (1 << 20) + rng.index(2 << 20);
                pair.shard.set_limit(pair.now, limit);
            }
            2..6 => pair.delete(&key),
            6..16 => pair.read(&key),
            _ => {
                let size = [20, 300, 3000, 20_000, 90_000, 200_000][rng.index(6)];
                let value = vec![b'a' + (rng.below(26) as u8); size];
                assert!(pair.write(&key, value, 0, 0, false).is_ok());
            }
        }
    }

    fn read_on(pair: &Pair, reading: &mut Reading) -> bool {
        let at = reading.read.len();
        let end = pair
            .shard
            .read_piece(&reading.pinned, at, &mut reading.read);
        assert_eq!(end, reading.read.len());
        end == reading.pinned.value_len()
    }

    #[test]
    fn stay_as_they_were_whatever_happens() {
        let (mut whole, mut written) = (0, 0);
        for seed in 0..6 {
            let mut rng = Rng::new(seed);
            let mut pair = Pair::new(3 << 20, 4096, true, seed);
            let mut readings: Vec<Reading> = Vec::new();
            for _ in 0..300 {
                act(&mut pair, &mut rng);
                let key = format!("k{}", rng.below(40)).into_bytes();
                if readings.len() < 4
                    && let Some((pinned, value)) = pair.pin(&key)
                {
                    let read = Vec::new();
                    readings.push(Reading {
                        pinned,
                        value,
                        read,
                    });
                }
                if rng.chance(1, 2) && !readings.is_empty() {
                    let number = rng.index(readings.len());
                    if read_on(&pair, &mut readings[number]) {
                        let done = readings.swap_remove(number);
                        assert!(done.read == done.value, "seed {seed}: a torn value");
                        pair.shard.unpin(done.pinned);
                        whole += 1;
                    }
                }
                if rng.chance(1, 8) {
                    let value = vec![b'A' + (rng.below(26) as u8); 70_000 + rng.index(150_000)];
                    let mut inner = Rng::new(rng.next_u64());
                    let outcome = pair.write_pieces(&key, value, |pair| act(pair, &mut inner));
                    written += u64::from(outcome.is_ok());
                }
            }
            for reading in readings {
                pair.shard.unpin(reading.pinned);
            }
            // Nothing is left behind: what was pinned is free again.
            pair.shard.set_limit(pair.now, 3 << 20);
            pair.check_whole();
            pair.flush();
            pair.shard.check_invariants();
            let stats = pair.shard.stats();
            assert_eq!(stats.segments, stats.segments_free, "seed {seed}");
        }
        assert!(whole > 120 && written > 120, "{whole} {written}");
    }
}
