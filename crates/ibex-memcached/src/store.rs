//! The store: shards of the cache core behind locks, and the numbers they share.
//!
//! Decides how many shards there are and how memory is divided; what an item is and who goes is the core's business.

use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, yield_now};
use ibex_cache_core::{
    BAND_COUNT_MAX, Band, Bands, Carried, Found, Full, NewItem, PIECE_BYTES, Pinned, Shard,
    ShardConfig, Stats,
};
use std::hash::{BuildHasher, RandomState};

/// Memory a shard should have at least, so that skew between shards stays small.
const SHARD_BYTES_MIN: usize = 16 << 20;
/// Memory a shard can address: 32-bit locations in units of 4 bytes, with a margin.
const SHARD_BYTES_MAX: usize = 12 << 30;
/// A shard must hold at least this many items of the largest size.
const LARGEST_ITEMS_PER_SHARD: usize = 4;

/// Segments of a shard that is not used any more.
const SEGMENT_BYTES_LEAST: usize = 4096;

/// Room for what follows a value in a reply.
const LINE_END_BYTES: usize = 16;

/// Steps towards room for one piece of a large value. Others may take what was freed, so there is an end to it.
const ROOM_STEPS_MAX: usize = 10_000;

/// Tries for a large value while others hold the room; each gives way to other threads.
const STAGE_TRIES_MAX: usize = 100_000;

/// What became of a value before its item is stored.
#[derive(Debug)]
pub(crate) enum Staged {
    /// It is small: it is copied with its item.
    No,
    /// It is in the shard, without an item yet.
    Written(Pinned),
    /// There was no room.
    NoRoom,
}

/// What came of taking up carried items.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Restored {
    /// Items taken up.
    pub(crate) items: u64,
    /// Items for which there was no room at all.
    pub(crate) lost: u64,
}

/// Carried items and their hashes.
type Hashed<'a> = Vec<(u64, Carried<'a, &'a [u8]>)>;

/// A shard on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slot(Mutex<Shard>);

/// All items.
#[derive(Debug)]
pub(crate) struct Store {
    shards: Box<[Slot]>,
    seed: u64,
    cas: AtomicU64,
    limit_bytes: AtomicUsize,
    /// Memory outside the shards that counts against the limit.
    charged_bytes: AtomicUsize,
    /// Whether live items may be dropped for room.
    evicts: bool,
    /// Held by who waits for room for a large value.
    staging: Mutex<()>,
    /// Held while the shares are told: of two changes at once the later one's must be the last that each shard hears.
    dividing: Mutex<()>,
    pub(crate) bands: Bands,
}

/// How a store is made.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    pub(crate) limit_bytes: usize,
    pub(crate) item_size_max: usize,
    pub(crate) threads: usize,
    pub(crate) evicts: bool,
    pub(crate) bands: Bands,
    /// Of the hash; another process's when its items are to be found in the same shards again.
    pub(crate) seed: Option<u64>,
}

fn shard_count(options: &StoreOptions) -> usize {
    let by_threads = 4 * options.threads;
    let by_memory =
        options.limit_bytes / SHARD_BYTES_MIN.max(LARGEST_ITEMS_PER_SHARD * options.item_size_max);
    let wanted = by_threads.min(by_memory).max(1);
    let wanted = if wanted.is_power_of_two() {
        wanted
    } else {
        wanted.next_power_of_two() / 2
    };
    wanted.max(
        options
            .limit_bytes
            .div_ceil(SHARD_BYTES_MAX)
            .next_power_of_two(),
    )
}

impl Store {
    pub(crate) fn new(options: StoreOptions) -> Self {
        let count = shard_count(&options);
        let fresh = || RandomState::new().hash_one(0_u8);
        let seed = options.seed.unwrap_or_else(fresh);
        let config = ShardConfig {
            limit_bytes: options.limit_bytes / count,
            segment_bytes: ShardConfig::segment_bytes_for(options.limit_bytes),
            evicts: options.evicts,
            seed,
            bands: options.bands.clone(),
        };
        Self {
            shards: (0..count)
                .map(|_| Slot(Mutex::new(Shard::new(config.clone()))))
                .collect(),
            seed,
            cas: AtomicU64::new(0),
            limit_bytes: AtomicUsize::new(options.limit_bytes),
            charged_bytes: AtomicUsize::new(0),
            evicts: options.evicts,
            staging: Mutex::new(()),
            dividing: Mutex::new(()),
            bands: options.bands,
        }
    }

    /// Seed of the hash.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        Shard::hash(self.seed, key)
    }

    /// The shard of a hash. It is chosen by bits the shard's own index does not use.
    #[inline]
    pub(crate) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[self.number(hash)]
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn number(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    /// Appends an item's value to `out`; a large one in pieces, between which others have the shard.
    pub(crate) fn copy_out(
        &self,
        mut shard: MutexGuard<'_, Shard>,
        hash: u64,
        found: Found,
        out: &mut Vec<u8>,
    ) {
        // The line's end fits too, or the buffer would grow once more behind the value.
        out.reserve(shard.view(found).value_len() + LINE_END_BYTES);
        let Some(pinned) = shard.pin(found) else {
            return shard
                .view(found)
                .value()
                .for_each(|part| out.extend_from_slice(part));
        };
        drop(shard);
        let mut at = 0;
        while at < pinned.value_len() {
            at = self.shard(hash).read_piece(&pinned, at, out);
        }
        self.shard(hash).unpin(pinned);
    }

    /// Puts a large value into the shard, in pieces, before it is known whether its item will be stored.
    pub(crate) fn stage(&self, now: u32, hash: u64, value: &[u8]) -> Staged {
        if value.len() <= PIECE_BYTES {
            return Staged::No;
        }
        let first = self.try_stage(now, hash, value);
        if let Some(staged) = first {
            return staged;
        }
        // Others hold what can be had in this way. One at a time waits until they are through, which takes milliseconds.
        let turn = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..STAGE_TRIES_MAX {
            if let Some(staged) = self.try_stage(now, hash, value) {
                return staged;
            }
            yield_now();
        }
        drop(turn);
        Staged::NoRoom
    }

    /// One try; `None` if it may go better when others are through.
    fn try_stage(&self, now: u32, hash: u64, value: &[u8]) -> Option<Staged> {
        let pinned = match self.shard(hash).begin(value.len()) {
            Ok(pinned) => pinned?,
            Err(Full) => return Some(Staged::NoRoom),
        };
        for piece in value.chunks(PIECE_BYTES) {
            for _ in 0..ROOM_STEPS_MAX {
                if self.shard(hash).make_room(now) {
                    break;
                }
            }
            let mut shard = self.shard(hash);
            if shard.write_piece(now, &pinned, piece).is_err() {
                shard.unpin(pinned);
                return if self.evicts {
                    None
                } else {
                    Some(Staged::NoRoom)
                };
            }
        }
        Some(Staged::Written(pinned))
    }

    pub(crate) fn count(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn by_number(&self, number: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards
            .get(number)
            .map(|slot| slot.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn each(&self, mut act: impl FnMut(&mut Shard)) {
        for slot in &self.shards {
            act(&mut slot.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The next cas number.
    #[inline]
    pub(crate) fn next_cas(&self) -> u64 {
        self.cas.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last cas number given.
    pub(crate) fn cas(&self) -> u64 {
        self.cas.load(Ordering::Relaxed)
    }

    /// Goes on behind another process's cas numbers.
    pub(crate) fn resume_cas(&self, last: u64) {
        self.cas.fetch_max(last, Ordering::Relaxed);
    }

    /// Takes a shard out, leaving an empty one.
    pub(crate) fn take(&self, number: usize) -> Option<Shard> {
        let config = ShardConfig {
            limit_bytes: 0,
            segment_bytes: SEGMENT_BYTES_LEAST,
            evicts: true,
            seed: self.seed,
            bands: self.bands.clone(),
        };
        let mut shard = self.by_number(number)?;
        Some(std::mem::replace(&mut shard, Shard::new(config)))
    }

    /// Prepares for a file of carried items; in a smaller memory not all of them will stay.
    pub(crate) fn expect(&self, items: u64, bytes: u64) {
        let limit = self.limit_bytes() as u64;
        let fitting = u128::from(items) * u128::from(limit) / u128::from(bytes.max(limit));
        let share = usize::try_from(fitting).unwrap_or(usize::MAX) / self.shards.len();
        self.each(|shard| shard.expect_items(share));
    }

    /// Takes up a block of carried items, each lock once. `None` if the block does not consist of whole items.
    pub(crate) fn take_up(&self, now: u32, block: &[u8]) -> Option<Restored> {
        let mut by_shard: Vec<Hashed<'_>> = vec![Vec::new(); self.shards.len()];
        let mut rest = block;
        while !rest.is_empty() {
            let (item, behind) = Carried::read(rest)?;
            rest = behind;
            let hash = self.hash(item.key);
            by_shard[self.number(hash)].push((hash, item));
        }
        let mut restored = Restored::default();
        for (number, items) in by_shard.into_iter().enumerate() {
            let mut shard = self.by_number(number)?;
            let lost = shard.take_up_all(now, &items) as u64;
            restored.items += items.len() as u64 - lost;
            restored.lost += lost;
        }
        Some(restored)
    }

    pub(crate) fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Changes the limit of all memory.
    pub(crate) fn set_limit(&self, now: u32, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        self.divide(now);
    }

    /// Charges memory used elsewhere for clients (buffers) against the limit; shards shrink accordingly.
    pub(crate) fn charge(&self, now: u32, bytes: usize) {
        if self.charged_bytes.swap(bytes, Ordering::Relaxed) != bytes {
            self.divide(now);
        }
    }

    fn divide(&self, now: u32) {
        let turn = self.dividing.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.limit_bytes();
        // COMPAT(memcached): the original keeps buffers outside -m. Half of the limit is the most they may take from the items.
        let charged = self.charged_bytes.load(Ordering::Relaxed).min(limit / 2);
        let share = (limit - charged) / self.shards.len();
        self.each(|shard| shard.note_limit(share));
        drop(turn);
        for slot in &self.shards {
            // Another call may have changed the limit meanwhile; then both work towards the later one.
            let is_done = || {
                let mut shard = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
                shard.enforce_step(now)
            };
            while !is_done() {}
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.each(|shard| sum.merge(&shard.stats()));
        sum
    }

    pub(crate) fn band_stats(&self) -> [Band; BAND_COUNT_MAX] {
        let mut sum = [Band::default(); BAND_COUNT_MAX];
        self.each(|shard| {
            for (sum, band) in sum.iter_mut().zip(shard.bands()) {
                sum.merge(band);
            }
        });
        sum
    }
}

impl Staged {
    /// Stores an item, whose value is taken from here if it was staged.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub(crate) fn insert(
        &mut self,
        shard: &mut Shard,
        now: u32,
        hash: u64,
        new: &NewItem<'_>,
    ) -> Result<(), Full> {
        match std::mem::replace(self, Self::No) {
            Self::No => shard.insert(now, hash, new),
            Self::Written(pinned) => shard.insert_written(now, hash, new, pinned),
            Self::NoRoom => Err(Full),
        }
    }

    /// Gives back what was staged and not stored.
    pub(crate) fn drop_in(self, shard: &mut Shard) {
        if let Self::Written(pinned) = self {
            shard.unpin(pinned);
        }
    }
}
