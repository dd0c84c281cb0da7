//! Numbers a shard keeps about itself.

/// Gauges and counters of one shard; [`Stats::merge`] makes the store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live items.
    pub curr_items: u64,
    /// Items stored since the start.
    pub total_items: u64,
    /// Bytes live items take, headers included.
    pub bytes: u64,
    /// Live items dropped for room.
    pub evictions: u64,
    /// Of those, items never read.
    pub evicted_unfetched: u64,
    /// Of those, items read lately.
    pub evicted_active: u64,
    /// Expired items freed while room was needed or when they were met.
    pub reclaimed: u64,
    /// Expired items freed by the sweep.
    pub sweep_reclaimed: u64,
    /// Of both, items never read.
    pub expired_unfetched: u64,
    /// Items looked at by the sweep.
    pub sweep_checked: u64,
    /// Items copied because they were used lately.
    pub moved_survivors: u64,
    /// Items copied to squeeze dead bytes out.
    pub moved_compacted: u64,
    /// Evictions of whole segments that a store had to do itself.
    pub direct_reclaims: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Buckets of the index.
    pub index_buckets: u64,
    /// Bytes of segments.
    pub segment_bytes: u64,
    /// Segments with memory.
    pub segments: u64,
    /// Segments without content.
    pub segments_free: u64,
    /// Most items ever held.
    pub items_max: u64,
}

impl Stats {
    /// Adds another shard's numbers.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            curr_items,
            total_items,
            bytes,
            evictions,
            evicted_unfetched,
            evicted_active,
            reclaimed,
            sweep_reclaimed,
            expired_unfetched,
            sweep_checked,
            moved_survivors,
            moved_compacted,
            direct_reclaims,
            index_bytes,
            index_buckets,
            segment_bytes,
            segments,
            segments_free,
            items_max,
        } = other;
        self.curr_items += curr_items;
        self.total_items += total_items;
        self.bytes += bytes;
        self.evictions += evictions;
        self.evicted_unfetched += evicted_unfetched;
        self.evicted_active += evicted_active;
        self.reclaimed += reclaimed;
        self.sweep_reclaimed += sweep_reclaimed;
        self.expired_unfetched += expired_unfetched;
        self.sweep_checked += sweep_checked;
        self.moved_survivors += moved_survivors;
        self.moved_compacted += moved_compacted;
        self.direct_reclaims += direct_reclaims;
        self.index_bytes += index_bytes;
        self.index_buckets += index_buckets;
        self.segment_bytes += segment_bytes;
        self.segments += segments;
        self.segments_free += segments_free;
        self.items_max += items_max;
    }
}
