//! One shard: the calls a server makes, and the bookkeeping that keeps index, segments and numbers in step.
//!
//! A [`Found`] names an item until the next call that may move items (`insert`, `remove`, `sweep`, `flush`, `set_limit`). What to evict is decided in
//! [`crate::evict`].

use crate::bands::{BAND_COUNT_MAX, Band, Bands};
use crate::big::{Big, BigTable};
use crate::evict::Evacuation;
use crate::ghost::Ghost;
use crate::index::{FREQUENCY_MAX, Index, Position};
use crate::item::{self, Bits, ItemView, Parts, Raw, classic_size};
use crate::memory::{CELLS, Cell, Memory, Use};
use crate::stats::Stats;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Upper ends of the life-time classes in seconds; class 0 has no end, the last one takes the rest.
const TTL_ENDS: [u32; 7] = [10, 60, 600, 3_600, 21_600, 86_400, 604_800];
/// Life-time classes at most.
pub(crate) const TTL_CLASSES_MAX: usize = TTL_ENDS.len() + 2;
/// Items above this share of a segment are kept in cells: at most an eighth is lost at a segment's end.
const INLINE_SHARE: usize = 8;
/// Segments a shard must be able to hold, however small its limit: open ones, two that are moved to, one in reserve, one to evict.
const SEGMENTS_MIN: usize = 8;

/// What a shard is made for.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Memory for everything, in bytes.
    pub limit_bytes: usize,
    /// Bytes of a segment, a power of two from 4096.
    pub segment_bytes: usize,
    /// Whether live items may be dropped for room.
    pub evicts: bool,
    /// Seed of the hash, secret and the same for all shards of a store.
    pub seed: u64,
    /// Size bands to keep account of.
    pub bands: Bands,
}

impl ShardConfig {
    /// A segment size for a store of `limit_bytes` in all: a thousandth, between 64 and 256 KiB, and small enough for eight per shard.
    #[must_use]
    pub fn segment_bytes_for(limit_bytes: usize) -> usize {
        let wanted = (limit_bytes / 1024).clamp(64 << 10, 256 << 10);
        let wanted = if wanted.is_power_of_two() {
            wanted
        } else {
            wanted.next_power_of_two() / 2
        };
        let most = (limit_bytes / (2 * SEGMENTS_MIN)).max(4096);
        let most = if most.is_power_of_two() {
            most
        } else {
            most.next_power_of_two() / 2
        };
        wanted.min(most)
    }
}

/// There is no room, and nothing may be dropped to make some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Why a key has no item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is not there.
    Unknown,
    /// It was there and had expired; it is gone now.
    Expired,
    /// It was there and was flushed. Told once of an item, and not for ever.
    Flushed,
}

/// A live item's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub(crate) location: u32,
    position: Position,
    hash: u64,
}

/// An item to store.
#[derive(Debug, Clone, Copy)]
pub struct NewItem<'a> {
    /// The key, at most 255 bytes.
    pub key: &'a [u8],
    /// The value in pieces.
    pub value: &'a [&'a [u8]],
    /// The client's flags.
    pub flags: u32,
    /// Second at which it ends, 0 for never.
    pub expiry: u32,
    /// Its cas number.
    pub cas: u64,
    /// Of [`Bits`]: binary key, stale, token sent.
    pub bits: Bits,
}

/// A live item that was dropped for room, as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// Its key.
    pub key: Vec<u8>,
    /// Second at which it would have ended, 0 for never.
    pub expiry: u32,
    /// Second of the last access.
    pub last_access: u32,
    /// Read since it was stored.
    pub is_fetched: bool,
    /// Its size in the original's reckoning.
    pub classic_bytes: usize,
    /// Length of its value.
    pub value_bytes: usize,
}

/// Evicted items a shard remembers until they are taken; later ones are not remembered.
pub(crate) const EVICTED_MAX: usize = 1024;

/// One part of the store.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) index: Index,
    pub(crate) memory: Memory,
    pub(crate) bigs: BigTable,
    /// Sealed segments and big values by age.
    pub(crate) by_age: BTreeMap<u64, Aged>,
    pub(crate) open: [Option<u32>; TTL_CLASSES_MAX],
    pub(crate) survivors: Option<u32>,
    pub(crate) compacted: Option<u32>,
    /// Cell segments with free cells.
    pub(crate) partial: Vec<u32>,
    sequence: u64,
    pub(crate) stats: Stats,
    pub(crate) bands: [Band; BAND_COUNT_MAX],
    /// The segment that is being freed.
    pub(crate) evacuation: Option<Evacuation>,
    pub(crate) sweep_at: usize,
    pub(crate) scan_at: usize,
    flush_at: Option<u32>,
    /// What the last flush left behind.
    pub(crate) ghost: Option<Ghost>,
    /// Evicted items, while somebody wants to know them.
    pub(crate) evicted: Option<Vec<Evicted>>,
}

/// What may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aged {
    Segment(u32),
    Big(u32),
}

impl Shard {
    /// An empty shard. Memory is taken as it is needed, up to the limit.
    #[must_use]
    pub fn new(mut config: ShardConfig) -> Self {
        config.limit_bytes = config.limit_bytes.max(SEGMENTS_MIN * config.segment_bytes);
        Self {
            index: Index::new(),
            memory: Memory::new(config.segment_bytes),
            bigs: BigTable::default(),
            by_age: BTreeMap::new(),
            open: [None; TTL_CLASSES_MAX],
            survivors: None,
            compacted: None,
            partial: Vec::new(),
            sequence: 0,
            stats: Stats::default(),
            bands: [Band::default(); BAND_COUNT_MAX],
            evacuation: None,
            sweep_at: 0,
            scan_at: 0,
            flush_at: None,
            ghost: None,
            evicted: None,
            config,
        }
    }

    /// The hash of a key under `seed`; its low bits place it in a shard's index, its top bits are free for choosing the shard.
    #[must_use]
    pub fn hash(seed: u64, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, seed)
    }

    pub(crate) fn hash_of(&self, key: &[u8]) -> u64 {
        Self::hash(self.config.seed, key)
    }

    /// The memory limit in force, in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.config.limit_bytes
    }

    /// Memory in use, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let ghost = self.ghost.as_ref().map_or(0, Ghost::bytes);
        self.memory.bytes() + self.index.bytes() + self.bigs.bytes() + ghost
    }

    /// Gauges and counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            index_bytes: self.index.bytes() as u64,
            index_buckets: u64::from(self.index.bucket_count()),
            segment_bytes: self.memory.bytes() as u64,
            segments: (self.memory.bytes() / self.memory.segment_bytes) as u64,
            segments_free: self.memory.free.len() as u64,
            ..self.stats
        }
    }

    /// Zeroes the counters, not the gauges.
    pub fn reset_stats(&mut self) {
        let Stats {
            curr_items,
            bytes,
            items_max,
            ..
        } = self.stats;
        self.stats = Stats {
            curr_items,
            bytes,
            items_max,
            ..Stats::default()
        };
        for band in &mut self.bands {
            *band = Band {
                items: band.items,
                bytes: band.bytes,
                ..Band::default()
            };
        }
    }

    /// Whether evicted items are remembered for [`Shard::take_evicted`].
    pub fn remember_evicted(&mut self, wanted: bool) {
        self.evicted = wanted.then(Vec::new);
    }

    /// Items evicted since the last call, if they are remembered: the first thousand.
    pub fn take_evicted(&mut self) -> Vec<Evicted> {
        self.evicted
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The size bands' numbers, by band.
    #[must_use]
    pub fn bands(&self) -> &[Band] {
        &self.bands
    }

    pub(crate) fn next_order(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The live item under `key`.
    ///
    /// # Errors
    /// [`Absent`] if there is none; an expired one is freed on the way.
    #[inline]
    pub fn find(&mut self, now: u32, hash: u64, key: &[u8]) -> Result<Found, Absent> {
        self.flush_if_due(now);
        let memory = &self.memory;
        let found = self
            .index
            .find(hash, |location| Raw(memory.tail(location)).key() == key);
        let Some((position, location)) = found else {
            return Err(self.absent(hash, key));
        };
        let found = Found {
            location,
            position,
            hash,
        };
        if Raw(self.memory.tail(location)).is_expired(now) {
            self.count_expired(location, Met::ByReader);
            self.remove(found);
            return Err(Absent::Expired);
        }
        Ok(found)
    }

    fn absent(&mut self, hash: u64, key: &[u8]) -> Absent {
        if self.was_flushed(hash, key) {
            Absent::Flushed
        } else {
            Absent::Unknown
        }
    }

    fn was_flushed(&mut self, hash: u64, key: &[u8]) -> bool {
        let ghost = self.ghost.as_mut();
        ghost.is_some_and(|ghost| ghost.take(&self.memory, hash, key))
    }

    /// The item.
    #[must_use]
    pub fn view(&self, found: Found) -> ItemView<'_> {
        self.view_at(found.location)
    }

    pub(crate) fn view_at(&self, location: u32) -> ItemView<'_> {
        let raw = Raw(self.memory.tail(location));
        ItemView {
            raw,
            segments: &self.memory.segments,
            big: raw.big().and_then(|id| self.bigs.by_id(id)),
        }
    }

    /// Notes that the item was read: recency, last access, fetched.
    #[inline]
    pub fn accessed(&mut self, now: u32, found: Found) {
        let frequency = self.index.frequency(found.position);
        if frequency < FREQUENCY_MAX {
            self.index.set_frequency(found.position, frequency + 1);
        }
        let raw = Raw(self.memory.tail(found.location));
        if !raw.has(Bits::FETCHED) || raw.last_access() != now {
            let item = self.memory.tail_mut(found.location);
            item::set_bits(item, Bits::FETCHED, 0);
            item::set_last_access(item, now);
        }
    }

    /// Bumps the recency without marking the item as read.
    pub fn bumped(&mut self, found: Found) {
        let frequency = self.index.frequency(found.position);
        self.index
            .set_frequency(found.position, frequency.saturating_add(1));
    }

    /// Gives the item another end.
    pub fn set_expiry(&mut self, found: Found, expiry: u32) {
        item::set_expiry(self.memory.tail_mut(found.location), expiry);
        let (segment, _) = self.memory.place(found.location);
        let segment = self.memory.segment_mut(segment);
        if expiry != 0 {
            segment.next_expiry = segment.next_expiry.min(expiry);
        }
    }

    /// Sets and clears bits: stale, token sent.
    pub fn set_bits(&mut self, found: Found, set: Bits, clear: Bits) {
        item::set_bits(
            self.memory.tail_mut(found.location),
            set.given(),
            clear.given(),
        );
    }

    /// Gives the item another cas number. `false` if it is too large for the room the item has; store the item anew then.
    pub fn try_set_cas(&mut self, found: Found, cas: u64) -> bool {
        item::try_set_cas(self.memory.tail_mut(found.location), cas)
    }

    /// Stores an item in place of whatever is under its key.
    ///
    /// # Errors
    /// [`Full`] if there is no room; what was under the key is still there.
    pub fn insert(&mut self, now: u32, hash: u64, new: &NewItem<'_>) -> Result<(), Full> {
        self.flush_if_due(now);
        // The place of a flushed item is taken again; asked before its bytes may be written over.
        self.stats.reclaimed += u64::from(self.was_flushed(hash, new.key));
        let value_len: usize = new.value.iter().map(|part| part.len()).sum();
        let parts = Parts {
            key: new.key,
            value_len: u32::try_from(value_len).map_err(|_| Full)?,
            flags: new.flags,
            cas: new.cas,
            expiry: new.expiry,
            last_access: now,
            bits: new.bits.given(),
            big: None,
        };
        if parts.footprint() <= self.memory.segment_bytes / INLINE_SHARE
            && self.overwrite(hash, &parts, new.value).is_some()
        {
            return Ok(());
        }
        let frequency = self.head_start(parts.footprint());
        self.place(now, hash, parts, new.value, frequency)
    }

    /// Stores an item whose value is in the table already.
    pub(crate) fn insert_big(
        &mut self,
        now: u32,
        hash: u64,
        new: &NewItem<'_>,
        value_len: usize,
        id: u32,
    ) -> Result<(), Full> {
        self.flush_if_due(now);
        self.stats.reclaimed += u64::from(self.was_flushed(hash, new.key));
        let parts = Parts {
            key: new.key,
            value_len: u32::try_from(value_len).map_err(|_| Full)?,
            flags: new.flags,
            cas: new.cas,
            expiry: new.expiry,
            last_access: now,
            bits: new.bits.given(),
            big: Some(id),
        };
        self.place(now, hash, parts, &[], 0)
    }

    /// Writes an item to where new ones go and points the index at it.
    pub(crate) fn place(
        &mut self,
        now: u32,
        hash: u64,
        mut parts: Parts<'_>,
        value: &[&[u8]],
        frequency: u8,
    ) -> Result<(), Full> {
        if parts.big.is_none() && parts.footprint() > self.memory.segment_bytes / INLINE_SHARE {
            parts.big = Some(self.store_big(now, parts.value_len as usize, value)?);
        }
        let written = parts.footprint();
        let location = match self.write(now, &parts, value) {
            Ok(location) => location,
            Err(full) => {
                self.drop_big(parts.big);
                return Err(full);
            }
        };
        self.link(hash, parts.key, location, frequency);
        if let Some(id) = parts.big {
            let order = self.next_order();
            self.by_age.insert(order, Aged::Big(id));
            if let Some(big) = self.bigs.by_id_mut(id) {
                (big.stub, big.order) = (location, order);
            }
        }
        self.keep_pace(now, written);
        self.enforce_some(now, self.passes_per_insert());
        Ok(())
    }

    /// Writes over an item of the same layout and footprint: counters and values that change often leave no dead bytes.
    fn overwrite(&mut self, hash: u64, parts: &Parts<'_>, value: &[&[u8]]) -> Option<()> {
        let memory = &self.memory;
        let (position, location) = self.index.find(hash, |location| {
            Raw(memory.tail(location)).key() == parts.key
        })?;
        let raw = Raw(memory.tail(location));
        let is_same_class = self.class(raw.expiry(), raw.last_access())
            == self.class(parts.expiry, parts.last_access);
        if raw.big().is_some() || raw.footprint() != parts.footprint() || !is_same_class {
            return None;
        }
        let (old_classic, footprint) = (
            classic_size(parts.key.len(), raw.value_len() as usize, raw.flags()),
            raw.footprint(),
        );
        let item = self.memory.tail_mut(location);
        let mut at = parts.write(item);
        for part in value {
            item[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let new_classic = classic_size(parts.key.len(), parts.value_len as usize, parts.flags);
        self.count_items(old_classic, footprint, Change::Gone);
        self.count_items(new_classic, footprint, Change::Come);
        self.stats.total_items += 1;
        let found = Found {
            location,
            position,
            hash,
        };
        self.set_expiry(found, parts.expiry);
        self.index
            .set_frequency(position, self.index.frequency(position).max(1));
        Some(())
    }

    /// Writes the item into the open segment of its class.
    fn write(&mut self, now: u32, parts: &Parts<'_>, value: &[&[u8]]) -> Result<u32, Full> {
        let footprint = parts.footprint();
        let class = self.class(parts.expiry, now);
        let (number, offset) = self.reserve(now, class, footprint)?;
        let segment = self.memory.segment_mut(number);
        let room = &mut segment.buf[offset..offset + footprint];
        let mut at = parts.write(room);
        if parts.big.is_none() {
            for part in value {
                room[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        }
        if parts.expiry != 0 {
            segment.next_expiry = segment.next_expiry.min(parts.expiry);
        }
        let footprint_u32 = u32::try_from(footprint).map_err(|_| Full)?;
        segment.used += footprint_u32;
        segment.live_bytes += footprint_u32;
        segment.live_items += 1;
        Ok(self.memory.location(number, offset))
    }

    /// Points the index at a new item and buries the old one.
    fn link(&mut self, hash: u64, key: &[u8], location: u32, frequency: u8) {
        let memory = &self.memory;
        let old = self
            .index
            .find(hash, |location| Raw(memory.tail(location)).key() == key);
        let view = self.view_at(location);
        let (classic, footprint) = (view.classic_size(), self.whole_footprint(location));
        self.count_items(classic, footprint, Change::Come);
        self.stats.total_items += 1;
        if let Some((position, old_location)) = old {
            self.index.set_location(position, location);
            let frequency = self.index.frequency(position);
            self.index.set_frequency(position, frequency.min(1));
            self.bury(old_location);
            return;
        }
        let (memory, seed) = (&self.memory, self.config.seed);
        self.index.insert(hash, location, frequency, |location| {
            Self::hash(seed, Raw(memory.tail(location)).key())
        });
        self.stats.items_max = self.stats.items_max.max(self.stats.curr_items);
    }

    /// Room for `bytes` in the open segment of `class`.
    fn reserve(&mut self, now: u32, class: usize, bytes: usize) -> Result<(u32, usize), Full> {
        if let Some(number) = self.open[class] {
            let used = self.memory.segment(number).used as usize;
            if used + bytes <= self.memory.segment_bytes {
                return Ok((number, used));
            }
            self.open[class] = None;
            self.seal(number);
        }
        let number = self.take_segment(now)?;
        let born = self.next_order();
        let segment = self.memory.segment_mut(number);
        segment.usage = Use::Open;
        segment.born = born;
        self.open[class] = Some(number);
        Ok((number, 0))
    }

    /// Puts a full segment in the order of eviction.
    pub(crate) fn seal(&mut self, number: u32) {
        let segment = self.memory.segment_mut(number);
        if segment.live_items == 0 {
            self.memory.release(number);
            return;
        }
        segment.usage = Use::Sealed(segment.born);
        self.by_age.insert(segment.born, Aged::Segment(number));
    }

    /// The life-time class of an item, merged where segments are few so that open ones stay a small part.
    fn class(&self, expiry: u32, now: u32) -> usize {
        let classes =
            (self.config.limit_bytes / self.memory.segment_bytes / 64).clamp(1, TTL_CLASSES_MAX);
        if expiry == 0 || classes == 1 {
            return 0;
        }
        let ttl = expiry.saturating_sub(now);
        let fine = TTL_ENDS.partition_point(|end| *end < ttl);
        1 + fine * (classes - 1) / (TTL_ENDS.len() + 1)
    }

    /// Removes the item.
    pub fn remove(&mut self, found: Found) {
        self.index.remove(found.hash, found.position);
        self.bury(found.location);
    }

    /// Bytes an item takes, cells included.
    pub(crate) fn whole_footprint(&self, location: u32) -> usize {
        let raw = Raw(self.memory.tail(location));
        let cells = raw
            .big()
            .and_then(|id| self.bigs.by_id(id))
            .map_or(0, |big| big.cells.len());
        raw.footprint() + cells * (self.memory.segment_bytes / CELLS as usize)
    }

    /// Takes an item, already out of the index, out of its segment and out of the numbers.
    pub(crate) fn bury(&mut self, location: u32) {
        let view = self.view_at(location);
        let (classic, footprint, big) = (view.classic_size(), view.raw.footprint(), view.raw.big());
        let whole = self.whole_footprint(location);
        self.count_items(classic, whole, Change::Gone);
        self.drop_big(big);
        item::set_bits(self.memory.tail_mut(location), Bits::DEAD, 0);
        let (number, _) = self.memory.place(location);
        let segment = self.memory.segment_mut(number);
        segment.live_bytes -= u32::try_from(footprint).unwrap_or(u32::MAX);
        segment.live_items -= 1;
        if segment.live_items > 0 {
            return;
        }
        match segment.usage {
            Use::Sealed(order) => {
                self.by_age.remove(&order);
                self.memory.release(number);
            }
            Use::Open => {
                segment.used = 0;
                segment.next_expiry = u32::MAX;
            }
            Use::Free | Use::Evacuating | Use::Cells => {}
        }
    }

    pub(crate) fn count_items(&mut self, classic: usize, footprint: usize, change: Change) {
        let band = &mut self.bands[self.config.bands.of(classic)];
        match change {
            Change::Come => {
                self.stats.curr_items += 1;
                self.stats.bytes += footprint as u64;
                band.items += 1;
                band.bytes += classic as u64;
            }
            Change::Gone => {
                self.stats.curr_items -= 1;
                self.stats.bytes -= footprint as u64;
                band.items -= 1;
                band.bytes -= classic as u64;
            }
        }
    }

    pub(crate) fn count_expired(&mut self, location: u32, met: Met) {
        let view = self.view_at(location);
        let (is_fetched, band) = (
            view.has(Bits::FETCHED),
            self.config.bands.of(view.classic_size()),
        );
        let band = &mut self.bands[band];
        match met {
            Met::ByReader => {
                self.stats.reclaimed += 1;
                band.reclaimed += 1;
            }
            Met::BySweep => {
                self.stats.sweep_reclaimed += 1;
                band.sweep_reclaimed += 1;
            }
        }
        band.expired_unfetched += u64::from(!is_fetched);
        self.stats.expired_unfetched += u64::from(!is_fetched);
    }

    /// Copies a value into cells; returns its number in the table.
    fn store_big(&mut self, now: u32, value_len: usize, value: &[&[u8]]) -> Result<u32, Full> {
        self.check_big(value_len)?;
        let cell_bytes = self.memory.segment_bytes / CELLS as usize;
        let wanted = value_len.div_ceil(cell_bytes);
        let id = self.bigs.insert(Big::unborn(0));
        self.bigs.adopt(id);
        for position in 0..wanted {
            let Some(cell) = self.take_cell(now, (id, u32::try_from(position).map_err(|_| Full)?))
            else {
                self.drop_big(Some(id));
                return Err(Full);
            };
            self.bigs.push_cell(id, cell);
        }
        let cells = self.bigs.by_id(id).map_or(&[][..], |big| &big.cells);
        let mut room = cells.iter();
        let (mut cell, mut at) = (room.next().copied(), 0);
        for part in value {
            let mut part = *part;
            while let (Some(into), false) = (cell, part.is_empty()) {
                let bytes = &mut into.bytes_mut(&mut self.memory.segments)[at..];
                let (now, later) = part.split_at(part.len().min(bytes.len()));
                bytes[..now.len()].copy_from_slice(now);
                at += now.len();
                part = later;
                if at == cell_bytes {
                    (cell, at) = (room.next().copied(), 0);
                }
            }
        }
        Ok(id)
    }

    /// Whether a value could be stored at all: half of the memory is the most one may take.
    pub(crate) fn check_big(&self, value_len: usize) -> Result<(), Full> {
        let cell_bytes = self.memory.segment_bytes / CELLS as usize;
        if value_len.next_multiple_of(cell_bytes) > self.config.limit_bytes / 2 {
            return Err(Full);
        }
        Ok(())
    }

    /// A free cell, now owned by `owner`.
    pub(crate) fn take_cell(&mut self, now: u32, owner: (u32, u32)) -> Option<Cell> {
        let mut passes_left = self.passes_max();
        while self.partial.is_empty() {
            if let Some(number) = self.spare_segment() {
                let segment = self.memory.segment_mut(number);
                segment.usage = Use::Cells;
                segment.cells_free = u64::MAX;
                segment.owners = vec![(u32::MAX, 0); CELLS as usize];
                self.partial.push(number);
                continue;
            }
            // One big value dropped for another of its size frees the cells that are needed: no whole segment has to come free.
            passes_left -= 1;
            if passes_left == 0 || !self.reclaim(now) {
                return None;
            }
            self.stats.direct_reclaims += 1;
        }
        let number = *self.partial.last()?;
        let segment = self.memory.segment_mut(number);
        let slot = segment.cells_free.trailing_zeros();
        segment.cells_free &= segment.cells_free - 1;
        segment.owners[slot as usize] = owner;
        if segment.cells_free == 0 {
            self.partial.pop();
        }
        Some(Cell::new(number, slot))
    }

    pub(crate) fn free_cell(&mut self, cell: Cell) {
        let number = cell.segment();
        let segment = self.memory.segment_mut(number);
        if segment.cells_free == 0 {
            self.partial.push(number);
        }
        segment.cells_free |= 1 << cell.slot();
        if segment.cells_free == u64::MAX {
            self.partial.retain(|partial| *partial != number);
            self.memory.release(number);
        }
    }

    /// Takes a big value from its item and out of the order of eviction; its cells are free when nobody reads it.
    pub(crate) fn drop_big(&mut self, id: Option<u32>) {
        let Some(id) = id else { return };
        if let Some(big) = self.bigs.by_id(id) {
            self.by_age.remove(&big.order);
        }
        let cell_bytes = self.memory.segment_bytes / CELLS as usize;
        if let Some(big) = self.bigs.detach(id, cell_bytes) {
            for cell in big.cells {
                self.free_cell(cell);
            }
        }
    }

    /// Makes everything stored until now invisible.
    pub fn flush(&mut self) {
        self.flush_at = None;
        self.evacuation = None;
        let index = std::mem::replace(&mut self.index, Index::new());
        self.ghost = Ghost::new(index);
        let has_pinned = self.bigs.has_pinned();
        if has_pinned {
            // Cells of values that are being read or written stay.
            for id in self.bigs.ids() {
                self.drop_big(Some(id));
            }
        } else {
            self.bigs = BigTable::default();
            self.partial.clear();
        }
        self.by_age.clear();
        self.open = [None; TTL_CLASSES_MAX];
        (self.survivors, self.compacted) = (None, None);
        for number in 0..self.memory.segments.len() {
            let usage = self.memory.segments[number].usage;
            if usage != Use::Free && !(has_pinned && usage == Use::Cells) {
                self.memory
                    .release_flushed(u32::try_from(number).expect("segment numbers are 32 bits"));
            }
        }
        (self.stats.curr_items, self.stats.bytes) = (0, 0);
        for band in &mut self.bands {
            (band.items, band.bytes) = (0, 0);
        }
    }

    /// Flushes when second `at` comes; a later call replaces the appointment.
    pub fn flush_later(&mut self, at: Option<u32>) {
        self.flush_at = at;
    }

    /// The second of a flush that is still to come.
    #[must_use]
    pub fn flush_at(&self) -> Option<u32> {
        self.flush_at
    }

    /// Carries out a flush that is due.
    #[inline]
    pub fn flush_if_due(&mut self, now: u32) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
    }

    /// Changes the memory limit; shrinking evicts at once.
    pub fn set_limit(&mut self, now: u32, limit_bytes: usize) {
        self.note_limit(limit_bytes);
        self.enforce(now);
    }

    /// Changes the memory limit, to be enforced by [`Shard::enforce_step`] and by what is stored from now on.
    pub fn note_limit(&mut self, limit_bytes: usize) {
        self.config.limit_bytes = limit_bytes.max(SEGMENTS_MIN * self.memory.segment_bytes);
    }

    /// Visits the items of up to `buckets` index buckets from `cursor`; the next cursor, or `None` at the end. Items that stay all the time are seen at
    /// least once, whatever is stored between the calls.
    pub fn scan(
        &self,
        cursor: u32,
        buckets: u32,
        mut visit: impl FnMut(ItemView<'_>),
    ) -> Option<u32> {
        let end = cursor
            .saturating_add(buckets)
            .min(self.index.bucket_count());
        for bucket in cursor..end {
            for location in self.index.chain(bucket) {
                visit(self.view_at(location));
            }
        }
        (end < self.index.bucket_count()).then_some(end)
    }
}

/// Whether an item comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Come,
    Gone,
}

/// Who met an expired item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    ByReader,
    BySweep,
}
