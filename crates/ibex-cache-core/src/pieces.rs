//! Large values in pieces: read and written over several holds of the shard's lock, so that nobody waits while megabytes are copied.
//!
//! A value that is read stays as it is until it is unpinned, whatever happens to its item: its cells are freed then. Cells may be moved meanwhile, which is no
//! matter because each piece finds them through the table. A value that is written belongs to no item until its last piece is there.

use crate::big::Big;
use crate::memory::CELLS;
use crate::shard::{Found, Full, NewItem, Shard};

/// Bytes copied under one hold, some microseconds; values up to this are copied at once. A multiple of every cell's size.
pub const PIECE_BYTES: usize = 64 << 10;

/// A large value that is being read or written; to be given back to [`Shard::unpin`] or [`Shard::insert_written`] of the same shard.
#[derive(Debug)]
#[must_use]
pub struct Pinned {
    id: u32,
    value_len: usize,
}

impl Pinned {
    /// Length of the value in bytes.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.value_len
    }
}

impl Shard {
    fn cell_bytes(&self) -> usize {
        self.memory.segment_bytes / CELLS as usize
    }

    /// Keeps the item's value for reading in pieces; `None` if it is small enough to be copied at once.
    pub fn pin(&mut self, found: Found) -> Option<Pinned> {
        let raw = self.view(found).raw;
        let (id, value_len) = (raw.big()?, raw.value_len() as usize);
        if value_len <= PIECE_BYTES {
            return None;
        }
        self.bigs.pin(id);
        Some(Pinned { id, value_len })
    }

    /// Appends the value's bytes from `at` on to `out`, one piece of them; the position behind it.
    #[must_use]
    pub fn read_piece(&self, pinned: &Pinned, at: usize, out: &mut Vec<u8>) -> usize {
        let (start, end) = (at, pinned.value_len.min(at + PIECE_BYTES));
        let cell_bytes = self.cell_bytes();
        let cells = self.bigs.by_id(pinned.id).map_or(&[][..], |big| &big.cells);
        let mut at = start;
        for cell in cells.iter().skip(start / cell_bytes) {
            if at >= end {
                break;
            }
            let bytes = cell.bytes(&self.memory.segments);
            let bytes = &bytes[..bytes.len().min(end - at)];
            out.extend_from_slice(bytes);
            at += bytes.len();
        }
        end
    }

    /// Lets go of a value: one that was read, or one that was written and is not wanted.
    #[expect(clippy::needless_pass_by_value, reason = "it must not be used again")]
    pub fn unpin(&mut self, pinned: Pinned) {
        if let Some(big) = self.bigs.unpin(pinned.id) {
            for cell in big.cells {
                self.free_cell(cell);
            }
        }
    }

    /// Begins a value of `value_len` bytes that belongs to no item yet. `None` while too much is held by such values and by those that are being read without
    /// an item: together they may have half of the memory, so that there is always something to evict for others.
    ///
    /// # Errors
    /// [`Full`] if it could never be stored.
    pub fn begin(&mut self, value_len: usize) -> Result<Option<Pinned>, Full> {
        self.check_big(value_len)?;
        let bytes = value_len.next_multiple_of(self.cell_bytes());
        if self.bigs.held_bytes() + bytes > self.config.limit_bytes / 2 {
            return Ok(None);
        }
        let id = self.bigs.insert(Big::unborn(bytes));
        self.bigs.pin(id);
        Ok(Some(Pinned { id, value_len }))
    }

    /// Takes a step towards room for a piece; `true` when there is room, or none can be made.
    pub fn make_room(&mut self, now: u32) -> bool {
        let wanted = PIECE_BYTES / self.cell_bytes();
        let mut free = 0;
        for number in &self.partial {
            free += self.memory.segment(*number).cells_free.count_ones() as usize;
            if free >= wanted {
                return true;
            }
        }
        self.has_spare_segment() || !self.reclaim_step(now)
    }

    /// Appends a piece: [`PIECE_BYTES`], or what is left at the end.
    ///
    /// # Errors
    /// [`Full`] if there is no room; the value is of no use then.
    pub fn write_piece(&mut self, now: u32, pinned: &Pinned, piece: &[u8]) -> Result<(), Full> {
        for bytes in piece.chunks(self.cell_bytes()) {
            let position = self.bigs.by_id(pinned.id).map_or(0, |big| big.cells.len());
            let owner = (pinned.id, u32::try_from(position).map_err(|_| Full)?);
            let cell = self.take_cell(now, owner).ok_or(Full)?;
            self.bigs.push_cell(pinned.id, cell);
            let room = cell.bytes_mut(&mut self.memory.segments);
            room[..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// [`Shard::insert`] of an item whose value was written in pieces; `new.value` is not looked at.
    ///
    /// # Errors
    /// [`Full`] if there is no room for the item; what was under the key is still there.
    pub fn insert_written(
        &mut self,
        now: u32,
        hash: u64,
        new: &NewItem<'_>,
        pinned: Pinned,
    ) -> Result<(), Full> {
        self.bigs.adopt(pinned.id);
        let outcome = self.insert_big(now, hash, new, pinned.value_len, pinned.id);
        self.unpin(pinned);
        outcome
    }
}
