//! The near cache: copies of the hottest items in this process, so that one popular key does not make one server's network card the limit of a site.
//!
//! What is hot the server says: `mg … h l` tells whether the item was read before and how many seconds ago. Of the reads of such items one in so many keeps a
//! copy, so that the busier a key the sooner it is here, and lukewarm keys hardly ever. A copy is used without asking for `age_max`, then it is asked for
//! again by `mg … C<cas>`, whose answer holds the value only if it changed.
//!
//! Own writes drop the copy; writes of other processes are seen after `age_max` at the latest. An answer that was on its way while the key was written here is
//! not kept: each key belongs to one of `STRIPES` counters, which a write moves on. Lock order: none, one lock, held for a look-up or an insertion.

use crate::key::Item;
use ibex_base::rng::Rng;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes counted for a copy besides its key and value: the entry in both maps and the item's header.
const OVERHEAD_BYTES: usize = 256;
/// How old a copy may be when it is used without asking: a page is made in less.
const AGE_MAX: Duration = Duration::from_secs(1);
/// One read of a hot item in so many keeps a copy.
const ONE_IN: u64 = 10;
/// An item read by anybody within this time is hot.
const HOT_FOR: Duration = Duration::from_secs(1);
/// The largest share of the cache that one copy may take.
const SHARE_MAX: usize = 8;
/// Counters of writes. Two keys of one counter only make a copy less likely.
const STRIPES: usize = 256;

/// How the near cache is told what to keep. See [`crate::Config::with_near_cache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearCache {
    bytes_max: usize,
    age_max: Duration,
    hot_for: Duration,
    one_in: u64,
}

impl NearCache {
    /// Of at most `bytes_max` bytes, keys and 256 bytes for each copy included; a value over an eighth of that is not kept.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            age_max: AGE_MAX,
            hot_for: HOT_FOR,
            one_in: ONE_IN,
        }
    }

    /// How old a copy may be when it is used without asking the server: what other processes wrote is seen after this time. Default 1 s.
    #[must_use]
    pub fn with_age_max(self, age_max: Duration) -> Self {
        Self { age_max, ..self }
    }

    /// What counts as hot: items that anybody read within this time (whole seconds), of which one read in `one_in` keeps a copy. Default 1 s, one in 10.
    #[must_use]
    pub fn with_admission(self, hot_for: Duration, one_in: u64) -> Self {
        Self {
            hot_for,
            one_in: one_in.max(1),
            ..self
        }
    }
}

/// What the near cache did since the client was made. From [`crate::Client::near_metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NearMetrics {
    /// Reads answered without asking a server.
    pub hits: u64,
    /// Reads that asked whether the copy is still good, and it was.
    pub confirmed: u64,
    /// Copies kept.
    pub kept: u64,
    /// Copies dropped for room.
    pub evicted: u64,
    /// Copies held now.
    pub items: usize,
    /// Bytes held now, counted as the bound counts them.
    pub bytes: usize,
}

/// What the server said about an item's popularity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heat {
    /// `h1`: it was read before.
    pub(crate) was_read: bool,
    /// `l`: seconds since it was last read or stored.
    pub(crate) idle_seconds: Option<u64>,
    /// `t`: seconds it has left; `None` for ever.
    pub(crate) left_seconds: Option<u64>,
}

/// What is here for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Use it.
    Fresh(Item),
    /// Ask whether it is still good.
    Old(Item),
}

/// The state of a key's counter when a read began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

#[derive(Debug)]
struct Copied {
    item: Item,
    /// Until when it is used without asking.
    fresh_until: Instant,
    /// Its place in the order of leaving.
    number: u64,
}

#[derive(Debug)]
struct Shelf {
    copies: HashMap<Vec<u8>, Copied>,
    /// Keys by the number they got when they were kept: the lowest leaves first.
    order: BTreeMap<u64, Vec<u8>>,
    next_number: u64,
    bytes: usize,
    rng: Rng,
    hits: u64,
    confirmed: u64,
    kept: u64,
    evicted: u64,
}

#[derive(Debug)]
pub(crate) struct Near {
    config: NearCache,
    shelf: Mutex<Shelf>,
    writes: Vec<AtomicU64>,
    hasher: RandomState,
}

fn cost(wire: &[u8], item: &Item) -> usize {
    2 * wire.len() + item.value.len() + OVERHEAD_BYTES
}

impl Shelf {
    fn remove(&mut self, wire: &[u8]) {
        if let Some(copy) = self.copies.remove(wire) {
            self.order.remove(&copy.number);
            self.bytes -= cost(wire, &copy.item);
        }
    }

    fn insert(&mut self, wire: &[u8], item: Item, fresh_until: Instant, bytes_max: usize) {
        self.remove(wire);
        let bytes = cost(wire, &item);
        while self.bytes + bytes > bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.remove(&oldest);
            self.evicted += 1;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += bytes;
        self.order.insert(number, wire.to_vec());
        let copy = Copied {
            item,
            fresh_until,
            number,
        };
        self.copies.insert(wire.to_vec(), copy);
    }
}

impl Near {
    pub(crate) fn new(config: NearCache, seed: u64) -> Self {
        Self {
            config,
            shelf: Mutex::new(Shelf {
                copies: HashMap::new(),
                order: BTreeMap::new(),
                next_number: 0,
                bytes: 0,
                rng: Rng::new(seed),
                hits: 0,
                confirmed: 0,
                kept: 0,
                evicted: 0,
            }),
            writes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes(&self, wire: &[u8]) -> &AtomicU64 {
        let stripe = self.hasher.hash_one(wire) % STRIPES as u64;
        &self.writes[usize::try_from(stripe).unwrap_or(0)]
    }

    /// What is here, and what [`Near::keep`] wants to know about this moment.
    pub(crate) fn look(&self, wire: &[u8]) -> (Found, Since) {
        let since = Since(self.writes(wire).load(Ordering::Acquire));
        let now = Instant::now();
        let mut shelf = self.shelf();
        let found = match shelf.copies.get(wire) {
            Some(copy) if now < copy.fresh_until => Found::Fresh(copy.item.clone()),
            Some(copy) => Found::Old(copy.item.clone()),
            None => Found::Nothing,
        };
        if matches!(found, Found::Fresh(_)) {
            shelf.hits += 1;
        }
        (found, since)
    }

    /// The answer of a server to a read that began at `since`: a copy is kept if the key is hot, or if there was one before. An `item` that was `confirmed`
    /// is the old copy, good for another while.
    pub(crate) fn keep(
        &self,
        wire: &[u8],
        since: Since,
        item: Option<&Item>,
        heat: Heat,
        confirmed: bool,
    ) {
        let now = Instant::now();
        let mut shelf = self.shelf();
        let had_one = shelf.copies.contains_key(wire);
        // Under the lock, so that a write after this look finds the copy and drops it.
        let is_overtaken = self.writes(wire).load(Ordering::Acquire) != since.0;
        let Some(item) = item.filter(|_| !is_overtaken) else {
            shelf.remove(wire);
            return;
        };
        if confirmed {
            shelf.confirmed += 1;
        }
        if !had_one && !self.admits(&mut shelf, heat) {
            return;
        }
        if cost(wire, item) > self.config.bytes_max / SHARE_MAX {
            shelf.remove(wire);
            return;
        }
        let left = heat.left_seconds.map(Duration::from_secs);
        let fresh_for = left.map_or(self.config.age_max, |left| left.min(self.config.age_max));
        shelf.kept += u64::from(!had_one);
        shelf.insert(wire, item.clone(), now + fresh_for, self.config.bytes_max);
    }

    fn admits(&self, shelf: &mut Shelf, heat: Heat) -> bool {
        let is_hot = heat.was_read
            && heat
                .idle_seconds
                .is_some_and(|idle| idle <= self.config.hot_for.as_secs());
        is_hot && shelf.rng.chance(1, self.config.one_in)
    }

    /// The key was written here.
    pub(crate) fn forget(&self, wire: &[u8]) {
        self.writes(wire).fetch_add(1, Ordering::Release);
        self.shelf().remove(wire);
    }

    /// Everything was.
    pub(crate) fn forget_all(&self) {
        for writes in &self.writes {
            writes.fetch_add(1, Ordering::Release);
        }
        let mut shelf = self.shelf();
        shelf.copies.clear();
        shelf.order.clear();
        shelf.bytes = 0;
    }

    pub(crate) fn metrics(&self) -> NearMetrics {
        let shelf = self.shelf();
        NearMetrics {
            hits: shelf.hits,
            confirmed: shelf.confirmed,
            kept: shelf.kept,
            evicted: shelf.evicted,
            items: shelf.copies.len(),
            bytes: shelf.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const HOT: Heat = Heat {
        was_read: true,
        idle_seconds: Some(0),
        left_seconds: None,
    };

    fn near(bytes_max: usize) -> Near {
        let config = NearCache::new(bytes_max)
            .with_age_max(Duration::from_secs(600))
            .with_admission(HOT_FOR, 1);
        Near::new(config, 7)
    }

    fn item(value: &'static str) -> Item {
        Item {
            value: Bytes::from_static(value.as_bytes()),
            flags: 0,
            cas: Some(1.into()),
        }
    }

    fn keep(near: &Near, key: &[u8], value: &'static str) {
        let (_, since) = near.look(key);
        near.keep(key, since, Some(&item(value)), HOT, false);
    }

    #[test]
    fn only_hot_items_are_kept() {
        let near = near(1 << 20);
        let cold = [
            Heat {
                was_read: false,
                ..HOT
            },
            Heat {
                idle_seconds: Some(2),
                ..HOT
            },
            Heat {
                idle_seconds: None,
                ..HOT
            },
        ];
        for heat in cold {
            let (_, since) = near.look(b"k");
            near.keep(b"k", since, Some(&item("v")), heat, false);
            assert_eq!(near.look(b"k").0, Found::Nothing, "{heat:?}");
        }
        keep(&near, b"k", "v");
        assert_eq!(near.look(b"k").0, Found::Fresh(item("v")));
    }

    #[test]
    fn one_read_in_so_many_is_kept() {
        let config = NearCache::new(64 << 20).with_admission(HOT_FOR, 10);
        let near = Near::new(config, 3);
        for n in 0..10_000 {
            keep(&near, format!("key{n}").as_bytes(), "v");
        }
        let kept = near.metrics().items;
        assert!((800..1200).contains(&kept), "{kept}");
    }

    #[test]
    fn a_read_that_a_write_overtook_is_not_kept() {
        let near = near(1 << 20);
        let (_, since) = near.look(b"k");
        near.forget(b"k");
        near.keep(b"k", since, Some(&item("old")), HOT, false);
        assert_eq!(near.look(b"k").0, Found::Nothing);
        keep(&near, b"k", "new");
        near.forget_all();
        assert_eq!(near.look(b"k").0, Found::Nothing);
        assert_eq!(near.metrics().bytes, 0);
    }

    #[test]
    fn a_copy_is_asked_for_again_when_it_is_old_or_its_item_ends() {
        let config = NearCache::new(1 << 20).with_admission(HOT_FOR, 1);
        let near = Near::new(config.with_age_max(Duration::ZERO), 1);
        keep(&near, b"k", "v");
        assert_eq!(near.look(b"k").0, Found::Old(item("v")));
        let (_, since) = near.look(b"k");
        near.keep(b"k", since, None, Heat::default(), false);
        assert_eq!(near.look(b"k").0, Found::Nothing);

        let near = Near::new(config.with_age_max(Duration::from_secs(600)), 1);
        let (_, since) = near.look(b"k");
        let ends = Heat {
            left_seconds: Some(0),
            ..HOT
        };
        near.keep(b"k", since, Some(&item("v")), ends, false);
        assert_eq!(near.look(b"k").0, Found::Old(item("v")));
    }

    #[test]
    fn a_value_over_an_eighth_is_not_kept() {
        let at_most = 8 * cost(b"k", &item("v"));
        let near = |bytes_max| {
            let near = near(bytes_max);
            keep(&near, b"k", "v");
            near.metrics().items
        };
        assert_eq!(
            [near(at_most - 1), near(at_most), near(at_most + 8)],
            [0, 1, 1]
        );
    }

    proptest! {
        #[test]
        fn its_bound_holds_and_its_books_are_true(steps in proptest::collection::vec((0_u8..60, 0_u8..5), 1..300)) {
            let near = near(8000);
            for (key, step) in steps {
                let key = [key];
                match step {
                    0 => near.forget(&key),
                    1 => keep(&near, &key, "a longer value than the others have, of about seventy bytes, they say"),
                    _ => keep(&near, &key, "v"),
                }
                let shelf = near.shelf();
                let bytes: usize = shelf.copies.iter().map(|(key, copy)| cost(key, &copy.item)).sum();
                prop_assert_eq!(bytes, shelf.bytes);
                prop_assert_eq!(shelf.order.len(), shelf.copies.len());
                prop_assert!(shelf.bytes <= 8000);
            }
        }
    }
}
