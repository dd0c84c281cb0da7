//! Making room: what is moved, what is dropped, in which order.
//!
//! 1. free cells that fill a segment are gathered; 2. a segment that is half dead is compacted; 3. the oldest segment or big value is evicted,
//!    sparing what was read since it came there, and what is small beside the others for more rounds. Also the sweep for expired items, which needs no reader
//!    to meet them.

use crate::ghost::Ghost;
use crate::index::{FREQUENCY_MAX, Position};
use crate::item::{self, Bits, Raw};
use crate::memory::{CELLS, Cell, Use};
use crate::shard::{Aged, EVICTED_MAX, Evicted, Full, Met, Shard};
use xxhash_rust::xxh3::xxh3_64;

/// Free segments kept back so that evacuation always has somewhere to move items to.
const RESERVE: usize = 1;
/// Segments looked at for compaction in one go: keeps the search under some microseconds in a large shard.
const COMPACTION_LOOKS_MAX: usize = 1024;
/// Largest share of a segment that survives eviction, in quarters. Without a bound a shard in which everything is read often would copy for ever.
const SURVIVORS_QUARTERS_MAX: usize = 3;

/// Bytes of a segment that are evacuated in one step: some dozens of small items, ten to twenty microseconds.
const STEP_BYTES: usize = 8 << 10;
/// Bytes evacuated for each byte written. At least a quarter of a segment comes free with it, so four would do.
const PACE: usize = 5;

/// Steps towards the limit after each insert, at least.
const PASSES_PER_INSERT_LEAST: usize = 4;
/// Bytes by which the index grows.
const INDEX_BLOCK_BYTES: usize = 16 << 10;

/// An item this many times smaller than the mean is spared once without having been read.
const SMALL: u64 = 2;
/// An item this many times smaller than the mean is spared twice.
const VERY_SMALL: u64 = 4;

/// Which items of a segment are moved rather than dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    Read,
}

/// A segment being freed. Between two steps its items are found, changed and removed like any others; those that moved are dead here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evacuation {
    number: u32,
    /// Its place in the order of eviction.
    order: u64,
    keep: Keep,
    /// Where the next item begins.
    offset: usize,
    /// Bytes that moved because they were read.
    kept: usize,
}

impl Shard {
    /// Passes of reclaiming that suffice if anything can be freed: each frees at least a quarter of a segment, moves stubs behind the big values or ages one.
    pub(crate) fn passes_max(&self) -> usize {
        4 * (self.memory.segments.len() + self.by_age.len()) + 16
    }

    /// A free segment, if there is one to spare or the limit leaves room for it.
    pub(crate) fn spare_segment(&mut self) -> Option<u32> {
        loop {
            if self.memory.free.len() > RESERVE {
                return self.memory.take_free();
            }
            let has_room =
                self.memory_bytes() + self.memory.segment_bytes <= self.config.limit_bytes;
            if !(has_room && self.memory.grow()) {
                return None;
            }
        }
    }

    /// A segment to write to.
    pub(crate) fn take_segment(&mut self, now: u32) -> Result<u32, Full> {
        let mut passes_left = self.passes_max();
        loop {
            if let Some(number) = self.spare_segment() {
                return Ok(number);
            }
            passes_left -= 1;
            if passes_left == 0 || !self.reclaim(now) {
                return Err(Full);
            }
            self.stats.direct_reclaims += 1;
        }
    }

    /// Whether [`Shard::spare_segment`] has one.
    pub(crate) fn has_spare_segment(&self) -> bool {
        self.memory.free.len() > RESERVE
            || self.memory_bytes() + self.memory.segment_bytes <= self.config.limit_bytes
    }

    /// Brings memory under the limit.
    pub(crate) fn enforce(&mut self, now: u32) {
        self.enforce_some(now, self.passes_max());
    }

    /// Passes after an insert that make up for what it may have added: a block of the index and one of its overflow.
    pub(crate) fn passes_per_insert(&self) -> usize {
        PASSES_PER_INSERT_LEAST + 8 * INDEX_BLOCK_BYTES / self.memory.segment_bytes
    }

    /// Brings memory under the limit in up to `passes` passes, each about the work for one segment.
    pub(crate) fn enforce_some(&mut self, now: u32, passes: usize) {
        for _ in 0..passes {
            if self.enforce_step(now) {
                return;
            }
            self.evacuate_some(now, usize::MAX);
        }
    }

    /// One small step towards the limit; `true` when memory is under it, or nothing more can be freed.
    pub fn enforce_step(&mut self, now: u32) -> bool {
        if self.memory_bytes() <= self.config.limit_bytes {
            return true;
        }
        let can_shrink = self.memory.free.len() > RESERVE && self.memory.shrink();
        !can_shrink && !self.reclaim_step(now)
    }

    /// Reads a new item is credited with, which is how often it is spared. A byte of a small item is hit more often than one of a large item, and sparing it
    /// costs little: what is so spared is a minority of the bytes, since the mean is of all items.
    pub(crate) fn head_start(&self, footprint: usize) -> u8 {
        match self.mean_footprint() / (footprint as u64).max(1) {
            ..SMALL => 0,
            SMALL..VERY_SMALL => 1,
            VERY_SMALL.. => FREQUENCY_MAX,
        }
    }

    /// Frees something; `false` if there is nothing that may be freed.
    pub(crate) fn reclaim(&mut self, now: u32) -> bool {
        let has_freed = self.reclaim_step(now);
        self.evacuate_some(now, usize::MAX);
        has_freed
    }

    /// A small part of [`Shard::reclaim`]: a step of an evacuation, which goes on with the next call.
    pub(crate) fn reclaim_step(&mut self, now: u32) -> bool {
        if self.ghost.take().is_some() {
            return true;
        }
        if self.evacuation.is_none() {
            if self.gather_cells() {
                return true;
            }
            if !self.begin_freeing(now) {
                return false;
            }
        }
        self.evacuate_some(now, STEP_BYTES);
        true
    }

    /// Chooses what goes next: an evacuation begins, a big value is evicted or an open segment sealed. `false` if there is nothing that may go.
    fn begin_freeing(&mut self, now: u32) -> bool {
        let threshold = if self.config.evicts {
            self.memory.segment_bytes / 2
        } else {
            self.memory.segment_bytes * 7 / 8
        };
        if let Some(number) = self.emptiest(threshold) {
            self.begin_evacuation(number, Keep::All);
            return true;
        }
        if !self.config.evicts {
            return false;
        }
        let Some((order, oldest)) = self
            .by_age
            .first_key_value()
            .map(|(order, oldest)| (*order, *oldest))
        else {
            return self.seal_oldest_open();
        };
        match oldest {
            Aged::Segment(number) => self.begin_evacuation(number, Keep::Read),
            Aged::Big(id) => self.evict_big(now, order, id),
        }
        true
    }

    /// After a write of `written` bytes: does the part of the work for the next segment that is due by then, so that no single write has to do all of it.
    pub(crate) fn keep_pace(&mut self, now: u32, written: usize) {
        if self.evacuation.is_none() {
            let oldest = self.by_age.first_key_value().map(|(_, oldest)| *oldest);
            let is_due = self.config.evicts && !self.has_spare_segment() && self.ghost.is_none();
            if !(is_due && matches!(oldest, Some(Aged::Segment(_))) && self.begin_freeing(now)) {
                return;
            }
        }
        self.evacuate_some(now, written * PACE);
    }

    /// Empties the cell segment with the fewest cells in use into the free cells of others, if those suffice.
    fn gather_cells(&mut self) -> bool {
        let free: u32 = self
            .partial
            .iter()
            .map(|number| self.memory.segment(*number).cells_free.count_ones())
            .sum();
        if free < CELLS {
            return false;
        }
        let Some(emptiest) = self
            .partial
            .iter()
            .copied()
            .min_by_key(|number| self.memory.segment(*number).cells_used())
        else {
            return false;
        };
        let used = self.memory.segment(emptiest).cells_used();
        if free - (CELLS - used) < used {
            return false;
        }
        let mut others: Vec<u32> = self
            .partial
            .iter()
            .copied()
            .filter(|number| *number != emptiest)
            .collect();
        for slot in 0..CELLS {
            if self.memory.segment(emptiest).cells_free & (1 << slot) != 0 {
                continue;
            }
            let (id, position) = self.memory.segment(emptiest).owners[slot as usize];
            while others
                .last()
                .is_some_and(|number| self.memory.segment(*number).cells_free == 0)
            {
                others.pop();
            }
            let Some(&into) = others.last() else {
                return false;
            };
            self.move_cell(Cell::new(emptiest, slot), into, (id, position));
        }
        self.partial.retain(|number| {
            *number != emptiest && self.memory.segments[*number as usize].cells_free != 0
        });
        self.memory.release(emptiest);
        true
    }

    fn move_cell(&mut self, from: Cell, into: u32, (id, position): (u32, u32)) {
        let target = self.memory.segment_mut(into);
        let slot = target.cells_free.trailing_zeros();
        target.cells_free &= target.cells_free - 1;
        target.owners[slot as usize] = (id, position);
        let to = Cell::new(into, slot);
        let bytes = from.bytes(&self.memory.segments).to_vec();
        to.bytes_mut(&mut self.memory.segments)
            .copy_from_slice(&bytes);
        if let Some(cell) = self
            .bigs
            .by_id_mut(id)
            .and_then(|big| big.cells.get_mut(position as usize))
        {
            *cell = to;
        }
    }

    /// The sealed segment with the fewest live bytes, among some, if they are at most `threshold`.
    fn emptiest(&mut self, threshold: usize) -> Option<u32> {
        let count = self.memory.segments.len();
        let looks = count.min(COMPACTION_LOOKS_MAX);
        let start = self.scan_at;
        self.scan_at = (start + looks) % count.max(1);
        let candidates = (start..start + looks).map(|at| at % count);
        let sealed =
            candidates.filter(|at| matches!(self.memory.segments[*at].usage, Use::Sealed(_)));
        let emptiest = sealed.min_by_key(|at| self.memory.segments[*at].live_bytes)?;
        let is_worth_it = self.memory.segments[emptiest].live_bytes as usize <= threshold;
        if is_worth_it {
            u32::try_from(emptiest).ok()
        } else {
            None
        }
    }

    /// With everything in open segments, seals the oldest so that it can be evicted.
    fn seal_oldest_open(&mut self) -> bool {
        let open = self
            .open
            .iter_mut()
            .chain([&mut self.survivors, &mut self.compacted]);
        let oldest = open.filter(|slot| slot.is_some()).min_by_key(|slot| {
            slot.map_or(u64::MAX, |number| {
                self.memory.segments[number as usize].born
            })
        });
        let Some(number) = oldest.and_then(Option::take) else {
            return false;
        };
        self.seal(number);
        true
    }

    /// A big value that was read gets a second chance, another is dropped.
    fn evict_big(&mut self, now: u32, order: u64, id: u32) {
        let Some(big) = self.bigs.by_id(id) else {
            self.by_age.remove(&order);
            return;
        };
        let stub = big.stub;
        let hash = self.hash_of(Raw(self.memory.tail(stub)).key());
        let Some((position, _)) = self.index.find(hash, |location| location == stub) else {
            return;
        };
        let frequency = self.index.frequency(position);
        if frequency == 0 {
            self.count_evicted(now, stub, frequency);
            self.index.remove(hash, position);
            self.bury(stub);
            return;
        }
        self.wear(position, self.whole_footprint(stub), hash ^ order);
        self.by_age.remove(&order);
        let order = self.next_order();
        self.by_age.insert(order, Aged::Big(id));
        if let Some(big) = self.bigs.by_id_mut(id) {
            big.order = order;
        }
    }

    fn count_evicted(&mut self, now: u32, location: u32, frequency: u8) {
        let view = self.view_at(location);
        let (is_fetched, band) = (
            view.has(Bits::FETCHED),
            self.config.bands.of(view.classic_size()),
        );
        let (expiry, idle) = (view.expiry(), now.saturating_sub(view.last_access()));
        let evicted = self
            .evicted
            .as_ref()
            .filter(|list| list.len() < EVICTED_MAX);
        let evicted = evicted.map(|_| Evicted {
            key: view.key().to_vec(),
            expiry: view.expiry(),
            last_access: view.last_access(),
            is_fetched,
            classic_bytes: view.classic_size(),
            value_bytes: view.value_len(),
        });
        if let (Some(list), Some(evicted)) = (&mut self.evicted, evicted) {
            list.push(evicted);
        }
        self.stats.evictions += 1;
        self.stats.evicted_unfetched += u64::from(!is_fetched);
        self.stats.evicted_active += u64::from(frequency > 0);
        let band = &mut self.bands[band];
        band.evicted += 1;
        band.evicted_nonzero += u64::from(expiry != 0);
        band.evicted_unfetched += u64::from(!is_fetched);
        band.evicted_active += u64::from(frequency > 0);
        band.evicted_idle = u64::from(idle);
    }

    /// A sealed segment is to be freed: what is kept moves out, the rest is dropped.
    fn begin_evacuation(&mut self, number: u32, keep: Keep) {
        let segment = self.memory.segment_mut(number);
        let Use::Sealed(order) = segment.usage else {
            return;
        };
        segment.usage = Use::Evacuating;
        self.by_age.remove(&order);
        self.evacuation = Some(Evacuation {
            number,
            order,
            keep,
            offset: 0,
            kept: 0,
        });
    }

    /// Goes on with the evacuation under way, if there is one, over about `bytes` of its segment.
    fn evacuate_some(&mut self, now: u32, bytes: usize) {
        let Some(evacuation) = self.evacuation.take() else {
            return;
        };
        let Evacuation {
            number,
            order,
            keep,
            mut offset,
            mut kept,
        } = evacuation;
        let used = self.memory.segment(number).used as usize;
        let kept_max = match keep {
            Keep::All => usize::MAX,
            Keep::Read => self.memory.segment_bytes / 4 * SURVIVORS_QUARTERS_MAX,
        };
        let end = offset.saturating_add(bytes);
        while offset < used {
            if offset >= end {
                self.evacuation = Some(Evacuation {
                    offset,
                    kept,
                    ..evacuation
                });
                return;
            }
            let location = self.memory.location(number, offset);
            let raw = Raw(self.memory.tail(location));
            let footprint = raw.footprint();
            offset += footprint;
            if raw.has(Bits::DEAD) {
                continue;
            }
            let (is_expired, hash) = (raw.is_expired(now), self.hash_of(raw.key()));
            let Some((position, _)) = self.index.find(hash, |found| found == location) else {
                continue;
            };
            let frequency = self.index.frequency(position);
            // A big value has its own place in the order of eviction: its stub stays until then, or thousands of large values would go with one segment.
            let is_stub = raw.big().is_some();
            let is_spared = frequency > 0 && kept + footprint <= kept_max;
            if !is_expired && (keep == Keep::All || is_stub || is_spared) {
                kept += if is_stub { 0 } else { footprint };
                self.relocate(location, footprint, (position, hash), keep, order);
                continue;
            }
            if is_expired {
                self.count_expired(location, Met::ByReader);
            } else {
                self.count_evicted(now, location, frequency);
            }
            self.index.remove(hash, position);
            self.bury(location);
        }
        self.memory.release(number);
    }

    fn relocate(
        &mut self,
        location: u32,
        footprint: usize,
        (position, hash): (Position, u64),
        keep: Keep,
        order: u64,
    ) {
        let into = self.destination(keep, footprint, order);
        let (from, from_offset) = self.memory.place(location);
        let offset = self.memory.segment(into).used as usize;
        let new_location = self.memory.location(into, offset);
        // Taken out so that two segments can be borrowed at once; no other code runs meanwhile.
        let source = std::mem::take(&mut self.memory.segment_mut(from).buf);
        let item = &source[from_offset..from_offset + footprint];
        let (expiry, big) = (Raw(item).expiry(), Raw(item).big());
        let target = self.memory.segment_mut(into);
        target.buf[offset..offset + footprint].copy_from_slice(item);
        self.memory.segment_mut(from).buf = source;
        item::set_bits(self.memory.tail_mut(location), Bits::DEAD, 0);
        let footprint = u32::try_from(footprint).unwrap_or(u32::MAX);
        let left = self.memory.segment_mut(from);
        left.live_bytes -= footprint;
        left.live_items -= 1;
        let target = self.memory.segment_mut(into);
        target.used += footprint;
        target.live_bytes += footprint;
        target.live_items += 1;
        if expiry != 0 {
            target.next_expiry = target.next_expiry.min(expiry);
        }
        self.index.set_location(position, new_location);
        if let Some(big) = big.and_then(|id| self.bigs.by_id_mut(id)) {
            big.stub = new_location;
        }
        match keep {
            Keep::All => self.stats.moved_compacted += 1,
            Keep::Read if big.is_some() => self.stats.moved_survivors += 1,
            Keep::Read => {
                self.stats.moved_survivors += 1;
                self.wear(position, footprint as usize, hash ^ order);
            }
        }
    }

    /// Halves the counter of an item that was spared: always if it is as large as the mean, else as likely as it is smaller. So a small item that nobody reads
    /// stays longer, but occupies no more bytes times rounds than a large one. `salt` is another each time.
    fn wear(&mut self, position: Position, footprint: usize, salt: u64) {
        let mean = self.mean_footprint();
        if footprint as u64 >= mean || xxh3_64(&salt.to_le_bytes()) % mean < footprint as u64 {
            let frequency = self.index.frequency(position);
            self.index.set_frequency(position, frequency / 2);
        }
    }

    fn mean_footprint(&self) -> u64 {
        self.stats.bytes / self.stats.curr_items.max(1)
    }

    /// The segment items are moved to, with room for `bytes`. Compacted items keep the age of the segment they came from.
    fn destination(&mut self, keep: Keep, bytes: usize, order: u64) -> u32 {
        let current = match keep {
            Keep::All => self.compacted,
            Keep::Read => self.survivors,
        };
        if let Some(number) = current {
            if self.memory.segment(number).used as usize + bytes <= self.memory.segment_bytes {
                return number;
            }
            self.seal(number);
        }
        if self.memory.free.is_empty() {
            // The reserve covers one segment per evacuation; a second one within it would be a mistake in that reckoning.
            debug_assert!(false, "evacuation ran out of its reserve");
            self.memory.grow();
        }
        let number = self
            .memory
            .take_free()
            .expect("the reserve is never used for anything else");
        let born = match keep {
            Keep::All => order,
            Keep::Read => self.next_order(),
        };
        let segment = self.memory.segment_mut(number);
        segment.usage = Use::Open;
        segment.born = born;
        match keep {
            Keep::All => self.compacted = Some(number),
            Keep::Read => self.survivors = Some(number),
        }
        number
    }

    /// Frees expired items in up to `segments` segments, going round; returns whether it came to the end.
    pub fn sweep(&mut self, now: u32, segments: usize) -> bool {
        self.flush_if_due(now);
        for _ in 0..segments {
            let Some(segment) = self.memory.segments.get(self.sweep_at) else {
                self.sweep_at = 0;
                if self.ghost.as_mut().is_some_and(Ghost::is_old) {
                    self.ghost = None;
                }
                return true;
            };
            let has_items = matches!(segment.usage, Use::Open | Use::Sealed(_) | Use::Evacuating);
            if has_items && segment.next_expiry <= now {
                self.sweep_segment(now, self.sweep_at);
            }
            self.sweep_at += 1;
        }
        false
    }

    fn sweep_segment(&mut self, now: u32, at: usize) {
        let Ok(number) = u32::try_from(at) else {
            return;
        };
        let (mut offset, mut next_expiry) = (0, u32::MAX);
        // The segment ends under our feet when its last item goes.
        while offset < self.memory.segment(number).used as usize {
            let location = self.memory.location(number, offset);
            let raw = Raw(self.memory.tail(location));
            offset += raw.footprint();
            if raw.has(Bits::DEAD) {
                continue;
            }
            self.stats.sweep_checked += 1;
            let raw = Raw(self.memory.tail(location));
            if raw.is_expired(now) {
                let hash = self.hash_of(raw.key());
                if let Some((position, _)) = self.index.find(hash, |found| found == location) {
                    self.count_expired(location, Met::BySweep);
                    self.index.remove(hash, position);
                    self.bury(location);
                }
            } else if raw.expiry() != 0 {
                next_expiry = next_expiry.min(raw.expiry());
            }
        }
        let segment = self.memory.segment_mut(number);
        if matches!(segment.usage, Use::Open | Use::Sealed(_)) {
            segment.next_expiry = next_expiry;
        }
    }

    /// Counts everything anew and compares. For tests.
    ///
    /// # Panics
    /// If the bookkeeping is wrong.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let (mut items, mut bytes, mut sealed) = (0_usize, 0_usize, 0_usize);
        for (number, segment) in (0_u32..).zip(&self.memory.segments) {
            let (mut live_items, mut live_bytes, mut offset) = (0, 0, 0);
            while offset < segment.used as usize {
                let location = self.memory.location(number, offset);
                let raw = Raw(self.memory.tail(location));
                offset += raw.footprint();
                if !raw.has(Bits::DEAD) {
                    let hash = self.hash_of(raw.key());
                    assert!(
                        self.index.find(hash, |found| found == location).is_some(),
                        "a live item is in the index"
                    );
                    assert!(
                        raw.expiry() == 0 || segment.next_expiry <= raw.expiry(),
                        "no item ends before its segment says"
                    );
                    live_items += 1;
                    live_bytes += raw.footprint();
                    bytes += self.whole_footprint(location);
                }
            }
            assert_eq!(
                (segment.live_items as usize, segment.live_bytes as usize),
                (live_items, live_bytes),
                "live counts of a segment"
            );
            items += live_items;
            if let Use::Sealed(order) = segment.usage {
                assert_eq!(self.by_age.get(&order), Some(&Aged::Segment(number)));
                sealed += 1;
            }
            if segment.usage == Use::Cells {
                assert_eq!(
                    segment.cells_free != 0,
                    self.partial.contains(&number),
                    "cell segments with free cells are listed"
                );
            }
        }
        let bigs = self
            .by_age
            .values()
            .filter(|aged| matches!(aged, Aged::Big(_)))
            .count();
        assert_eq!(self.by_age.len(), sealed + bigs);
        assert_eq!(
            (items, items as u64, bytes as u64),
            (self.index.count(), self.stats.curr_items, self.stats.bytes),
            "items and bytes"
        );
        let slack = 2 * 16 * 1024;
        assert!(
            self.memory_bytes()
                <= self.config.limit_bytes.max(8 * self.memory.segment_bytes) + slack,
            "memory is under its limit"
        );
        let band_items: u64 = self.bands.iter().map(|band| band.items).sum();
        assert_eq!(band_items, self.stats.curr_items);
    }
}
