//! `stats sizes`: how many items there are of each size, counted when it is asked for, a few index buckets per step.

use super::Cx;
use ibex_memcached_proto::texts;
use std::collections::BTreeMap;

/// Sizes are told in multiples of this, the original's.
const STEP_BYTES: usize = 32;
/// Index buckets under one hold of a lock.
const BUCKETS_PER_HOLD: u32 = 64;
/// Holds of one step: some thousand items, well under a millisecond.
const HOLDS_PER_STEP: usize = 4;

/// A count under way.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    counts: BTreeMap<usize, u64>,
    shard: usize,
    cursor: u32,
}

impl Sizes {
    /// Counts on; `true` when all were counted and told.
    pub(crate) fn step(&mut self, cx: &Cx<'_>, out: &mut Vec<u8>) -> bool {
        for _ in 0..HOLDS_PER_STEP {
            let Some(shard) = cx.shared.store.by_number(self.shard) else {
                for (size, count) in &self.counts {
                    out.extend_from_slice(format!("STAT {size} {count}\r\n").as_bytes());
                }
                out.extend_from_slice(texts::END);
                return true;
            };
            let next = shard.scan(self.cursor, BUCKETS_PER_HOLD, |item| {
                let size = item.classic_size().next_multiple_of(STEP_BYTES);
                *self.counts.entry(size).or_default() += 1;
            });
            self.cursor = next.unwrap_or(0);
            self.shard += usize::from(next.is_none());
        }
        false
    }
}
