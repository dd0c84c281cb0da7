//! The item store of the cache: memory, index, eviction, expiry, CAS.
//!
//! A store is cut into [`Shard`]s by the hash of the key; each is a plain value with plain calls (`find`, `insert`, `remove`), which the shell puts behind one
//! short lock. Nothing here knows protocols, clocks, threads or sockets: time is a number of seconds given with each call.
//!
//! ```text
//!   key ──hash──▶ Index (linear hashing, 64-byte buckets of 10 slots: 13-bit tag, 2-bit frequency, 32-bit location)
//!                   │ location = segment number and offset
//!                   ▼
//!   segments   [ item item item … ]  open: one per life-time class, written front to back
//!              [ item dead item … ]  sealed: in order of age; the oldest is evacuated when room is needed
//!              [ cell cell cell … ]  values too large for a segment live in cells, 64 to a segment
//! ```
//! Items lie behind one another without size classes, so a changed mix of sizes costs nothing. Deleted and overwritten items leave dead bytes;
//! a segment that is half dead is compacted before anything alive is evicted. Evicting means walking the oldest segment: items that were read since they came
//! there are copied to a fresh segment, the others are dropped (second chance, in the manner of CLOCK and SIEVE). Items that are small beside the others
//! are spared once or twice without having been read.
//!
//! The walk is spread over the writes: each does a few times its own bytes of it, so the next segment is free before the open one is full and no write pays for
//! a whole one.
//! Values over 64 KiB can be read and written in pieces over several calls, see [`Pinned`].
//!
//! Invariants, checked by `Shard::check_invariants` in tests:
//! - segments, index and big-value table together never exceed the limit given, but for one step of the index and while a lower limit is being enforced;
//! - every slot of the index names a live item of its key, and every live item has exactly one slot;
//! - a segment's live counts equal what a walk over it finds; a cell belongs to one live big value or to none.
#![forbid(unsafe_code)]

mod bands;
mod big;
mod carry;
mod evict;
mod ghost;
mod index;
mod item;
mod memory;
mod pieces;
mod shard;
mod stats;

pub use bands::{BAND_COUNT_MAX, Band, Bands};
pub use carry::Carried;
pub use item::{Bits, ItemView, ValueParts, classic_size};
pub use pieces::{PIECE_BYTES, Pinned};
pub use shard::{Absent, Evicted, Found, Full, NewItem, Shard, ShardConfig};
pub use stats::Stats;
