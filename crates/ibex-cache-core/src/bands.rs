//! Size bands: the slab classes of the original, kept as bookkeeping only, because tools read them.
//!
//! Band ids, chunk sizes and the growth factor are the original's; no memory is arranged by them.

/// Most bands, as the original's class ids 1 to 63.
pub const BAND_COUNT_MAX: usize = 63;
/// The original's page.
const PAGE_BYTES: usize = 1 << 20;
/// The original's largest chunk: larger items are chained.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// What one band holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Band {
    /// Live items.
    pub items: u64,
    /// Their size in the original's reckoning.
    pub bytes: u64,
    /// Items dropped for room.
    pub evicted: u64,
    /// Of those, items that would have expired some day.
    pub evicted_nonzero: u64,
    /// Of those, items never read.
    pub evicted_unfetched: u64,
    /// Of those, items read lately.
    pub evicted_active: u64,
    /// Seconds since the last access of the item evicted last, as it was evicted; of several shards the longest.
    pub evicted_idle: u64,
    /// Expired items that were never read.
    pub expired_unfetched: u64,
    /// Expired items freed.
    pub reclaimed: u64,
    /// Expired items freed by the sweep.
    pub sweep_reclaimed: u64,
}

impl Band {
    /// Adds another band's numbers.
    pub fn merge(&mut self, other: &Self) {
        self.items += other.items;
        self.bytes += other.bytes;
        self.evicted += other.evicted;
        self.evicted_nonzero += other.evicted_nonzero;
        self.evicted_unfetched += other.evicted_unfetched;
        self.evicted_active += other.evicted_active;
        self.evicted_idle = self.evicted_idle.max(other.evicted_idle);
        self.expired_unfetched += other.expired_unfetched;
        self.reclaimed += other.reclaimed;
        self.sweep_reclaimed += other.sweep_reclaimed;
    }
}

/// The table of chunk sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bands {
    chunks: Vec<usize>,
}

impl Bands {
    /// The original's table for a growth factor (`-f`) and smallest value (`-n`).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the original computes chunk sizes in floating point, sizes are below 2^52"
    )]
    pub fn new(factor: f64, chunk_bytes: usize) -> Self {
        let mut chunks = Vec::new();
        let mut size = 48 + chunk_bytes;
        while chunks.len() < BAND_COUNT_MAX - 1 && (size as f64) < CHUNK_BYTES_MAX as f64 / factor {
            size = size.next_multiple_of(8);
            chunks.push(size);
            size = (size as f64 * factor) as usize;
        }
        chunks.push(CHUNK_BYTES_MAX);
        Self { chunks }
    }

    /// The band of an item, 0-based; the class id is one more.
    #[must_use]
    pub fn of(&self, classic_size: usize) -> usize {
        self.chunks
            .partition_point(|chunk| *chunk < classic_size)
            .min(self.chunks.len() - 1)
    }

    /// Chunk size of a band.
    #[must_use]
    pub fn chunk_bytes(&self, band: usize) -> usize {
        self.chunks.get(band).copied().unwrap_or(CHUNK_BYTES_MAX)
    }

    /// Chunks the original would put on a page.
    #[must_use]
    pub fn chunks_per_page(&self, band: usize) -> usize {
        PAGE_BYTES / self.chunk_bytes(band)
    }

    /// Number of bands.
    #[must_use]
    pub fn count(&self) -> usize {
        self.chunks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_originals() {
        let bands = Bands::new(1.25, 48);
        assert_eq!(
            (0..5)
                .map(|band| bands.chunk_bytes(band))
                .collect::<Vec<_>>(),
            [96, 120, 152, 192, 240]
        );
        assert_eq!(bands.of(96), 0);
        assert_eq!(bands.of(97), 1);
        assert_eq!(bands.of(10 << 20), bands.count() - 1);
    }
}
