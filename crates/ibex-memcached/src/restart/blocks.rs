//! The items' file: blocks of whole items, written and read by several threads.
//!
//! ```text
//! 0         4      8        16    20
//! payload   items  digest   rank  0      then the payload (little endian)
//! u32       u32    u64      u32   u32
//! ```
//! The rank tells how far its shard's items had come, oldest first, when the block was written, in parts of 2^16. Blocks are read in its order, so that a
//! smaller memory loses the oldest items of all shards rather than all items of some.

use super::meta::Meta;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// A block is written when it has come to this.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes before a payload.
const HEADER_BYTES: usize = 24;
/// The rank of a shard's end.
const RANK_END: u64 = 1 << 16;

/// What was written in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) items: u64,
    pub(super) digest: u64,
}

/// The part of a block that makes the digest of the file; blocks come in any order.
fn share(header: &[u8; HEADER_BYTES], offset: u64) -> u64 {
    xxh3_64(header) ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes blocks, from several threads.
#[derive(Debug)]
pub(super) struct Writer<'f> {
    file: &'f File,
    offset: AtomicU64,
    blocks: AtomicU64,
    items: AtomicU64,
    digest: AtomicU64,
}

impl<'f> Writer<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self {
            file,
            offset: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            items: AtomicU64::new(0),
            digest: AtomicU64::new(0),
        }
    }

    /// The blocks of one shard with about `items_in_all` items.
    pub(super) fn shard(&self, items_in_all: u64) -> ShardBlocks<'_> {
        ShardBlocks {
            writer: self,
            payload: Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8),
            items: 0,
            given: 0,
            items_in_all: items_in_all.max(1),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            bytes: self.offset.load(Ordering::Relaxed),
            blocks: self.blocks.load(Ordering::Relaxed),
            items: self.items.load(Ordering::Relaxed),
            digest: self.digest.load(Ordering::Relaxed),
        }
    }

    fn write(&self, payload: &[u8], items: u32, rank: u32) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let bytes = u32::try_from(payload.len()).map_err(too_long)?;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&bytes.to_le_bytes());
        header[4..8].copy_from_slice(&items.to_le_bytes());
        header[8..16].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        header[16..20].copy_from_slice(&rank.to_le_bytes());
        let whole = HEADER_BYTES as u64 + u64::from(bytes);
        let offset = self.offset.fetch_add(whole, Ordering::Relaxed);
        self.file.write_all_at(&header, offset)?;
        self.file
            .write_all_at(payload, offset + HEADER_BYTES as u64)?;
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.items.fetch_add(u64::from(items), Ordering::Relaxed);
        self.digest
            .fetch_add(share(&header, offset), Ordering::Relaxed);
        Ok(())
    }
}

/// The blocks of one shard.
#[derive(Debug)]
pub(super) struct ShardBlocks<'w> {
    writer: &'w Writer<'w>,
    payload: Vec<u8>,
    items: u32,
    given: u64,
    items_in_all: u64,
}

impl ShardBlocks<'_> {
    pub(super) fn item(&mut self, write: &dyn Fn(&mut Vec<u8>)) -> io::Result<()> {
        write(&mut self.payload);
        self.items += 1;
        if self.payload.len() >= BLOCK_BYTES {
            self.finish()?;
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.items == 0 {
            return Ok(());
        }
        let rank = (self.given * RANK_END / self.items_in_all).min(RANK_END);
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        self.given += u64::from(self.items);
        self.writer.write(&self.payload, self.items, rank)?;
        self.payload.clear();
        self.items = 0;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    bytes: u32,
    items: u32,
    digest: u64,
    rank: u32,
}

/// Reads blocks, from several threads.
#[derive(Debug)]
pub(super) struct Reader<'f> {
    file: &'f File,
    blocks: Vec<Block>,
    totals: Totals,
}

impl<'f> Reader<'f> {
    /// Finds all blocks of a file of `bytes`.
    pub(super) fn new(file: &'f File, bytes: u64) -> Result<Self, String> {
        let mut reader = Self {
            file,
            blocks: Vec::new(),
            totals: Totals::default(),
        };
        let mut offset = 0;
        while offset < bytes {
            let mut header = [0; HEADER_BYTES];
            let read = file.read_exact_at(&mut header, offset);
            read.map_err(|error| format!("cannot be read at {offset}: {error}"))?;
            let word = |at: usize| {
                let mut word = [0; 4];
                word.copy_from_slice(&header[at..at + 4]);
                u32::from_le_bytes(word)
            };
            let block = Block {
                offset: offset + HEADER_BYTES as u64,
                bytes: word(0),
                items: word(4),
                digest: u64::from(word(8)) | u64::from(word(12)) << 32,
                rank: word(16),
            };
            let totals = &mut reader.totals;
            totals.blocks += 1;
            totals.items += u64::from(block.items);
            totals.digest = totals.digest.wrapping_add(share(&header, offset));
            offset = block.offset + u64::from(block.bytes);
            reader.blocks.push(block);
        }
        reader.totals.bytes = offset;
        reader.blocks.sort_by_key(|block| block.rank);
        Ok(reader)
    }

    /// Whether these are the blocks that were written.
    pub(super) fn check(&self, meta: &Meta) -> Result<(), String> {
        let written = Totals {
            bytes: meta.bytes,
            blocks: meta.blocks,
            items: meta.items,
            digest: meta.digest,
        };
        if self.totals == written {
            Ok(())
        } else {
            Err("its blocks are not those that were written".to_owned())
        }
    }

    /// Items in a block.
    pub(super) fn items(&self, number: usize) -> u64 {
        self.blocks
            .get(number)
            .map_or(0, |block| u64::from(block.items))
    }

    /// Reads a block and gives its room in the file back, so that a file in memory does not take the memory twice. `None` behind the last.
    pub(super) fn load<'b>(
        &self,
        number: usize,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<&'b [u8]>, String> {
        let Some(block) = self.blocks.get(number) else {
            return Ok(None);
        };
        buffer.resize(block.bytes as usize, 0);
        let read = self.file.read_exact_at(buffer, block.offset);
        read.map_err(|error| format!("cannot be read at {}: {error}", block.offset))?;
        if xxh3_64(buffer) != block.digest {
            return Err(format!(
                "was changed: the block at {} does not fit its digest",
                block.offset
            ));
        }
        let room = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A file system without holes keeps the room until the end.
        let _given =
            rustix::fs::fallocate(self.file, room, block.offset, u64::from(block.bytes)).is_ok();
        Ok(Some(buffer))
    }
}
