//! How an item lies in memory, and a read-only view of one.
//!
//! ```text
//! 0      4        5     6      12      16           20
//! value  key len  bits  cas    expiry  last access  [client flags 4] [wide cas 8] key value
//! u32    u8       u8    u48    u32     u32
//! ```
//! Little endian, footprint rounded up to 4 bytes. A big value leaves its table number (u32) in place of the value. Does not know where items are.

use crate::big::Big;
use crate::memory::Segment;

/// Bytes before the optional fields.
pub(crate) const HEADER_BYTES: usize = 20;
/// Footprints are multiples of this, so that a location fits 32 bits.
pub(crate) const ALIGN_BYTES: usize = 4;
/// Largest cas number the short field holds.
const CAS_SHORT_MAX: u64 = (1 << 48) - 1;
/// Bytes of a big value's number.
const BIG_ID_BYTES: usize = 4;

/// State of an item, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bits(u8);

impl Bits {
    pub(crate) const HAS_FLAGS: u8 = 1;
    /// The key was given in base64 and may hold any byte.
    pub const BINARY_KEY: u8 = 2;
    /// Outdated, but still shown to those who accept it.
    pub const STALE: u8 = 4;
    /// Somebody was told to compute a new value.
    pub const TOKEN_SENT: u8 = 8;
    /// Read since it was stored.
    pub const FETCHED: u8 = 16;
    pub(crate) const DEAD: u8 = 32;
    pub(crate) const BIG: u8 = 64;
    pub(crate) const WIDE_CAS: u8 = 128;
    /// The bits a caller may give with a new item.
    const GIVEN: u8 = Self::BINARY_KEY | Self::STALE | Self::TOKEN_SENT;

    /// A set of bits.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether `bit` is set.
    #[must_use]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// With `bit` set.
    #[must_use]
    pub const fn with(self, bit: u8) -> Self {
        Self(self.0 | bit)
    }

    pub(crate) const fn given(self) -> u8 {
        self.0 & Self::GIVEN
    }
}

/// The original's size of an item, by which its item size limit and its classes are reckoned.
#[must_use]
pub const fn classic_size(key_bytes: usize, value_bytes: usize, flags: u32) -> usize {
    // COMPAT(memcached): 48 bytes of header, 8 of cas, a NUL behind the key, CRLF behind the value, flags only if there are any (items.c, item_make_header).
    59 + key_bytes + value_bytes + if flags == 0 { 0 } else { 4 }
}

/// What an item is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value_len: u32,
    pub(crate) flags: u32,
    pub(crate) cas: u64,
    pub(crate) expiry: u32,
    pub(crate) last_access: u32,
    pub(crate) bits: u8,
    /// The number of the big value, if it is one.
    pub(crate) big: Option<u32>,
}

fn word(buf: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&buf[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn put_word(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

const fn optional_bytes(bits: u8) -> usize {
    let flags = if bits & Bits::HAS_FLAGS != 0 { 4 } else { 0 };
    flags + if bits & Bits::WIDE_CAS != 0 { 8 } else { 0 }
}

/// Rounds a footprint up.
pub(crate) const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN_BYTES)
}

impl Parts<'_> {
    fn all_bits(&self) -> u8 {
        let mut bits = self.bits;
        if self.flags != 0 {
            bits |= Bits::HAS_FLAGS;
        }
        if self.cas > CAS_SHORT_MAX {
            bits |= Bits::WIDE_CAS;
        }
        if self.big.is_some() {
            bits |= Bits::BIG;
        }
        bits
    }

    /// Bytes the item takes in a segment.
    pub(crate) fn footprint(&self) -> usize {
        let payload = if self.big.is_some() {
            BIG_ID_BYTES
        } else {
            self.value_len as usize
        };
        aligned(HEADER_BYTES + optional_bytes(self.all_bits()) + self.key.len() + payload)
    }

    /// Writes header, key and, for a big value, its number; returns where in `buf` the value goes.
    pub(crate) fn write(&self, buf: &mut [u8]) -> usize {
        let bits = self.all_bits();
        put_word(buf, 0, self.value_len);
        buf[4] = u8::try_from(self.key.len()).unwrap_or(u8::MAX);
        buf[5] = bits;
        buf[6..12].copy_from_slice(&self.cas.to_le_bytes()[..6]);
        put_word(buf, 12, self.expiry);
        put_word(buf, 16, self.last_access);
        let mut at = HEADER_BYTES;
        if bits & Bits::HAS_FLAGS != 0 {
            put_word(buf, at, self.flags);
            at += 4;
        }
        if bits & Bits::WIDE_CAS != 0 {
            buf[at..at + 8].copy_from_slice(&self.cas.to_le_bytes());
            at += 8;
        }
        buf[at..at + self.key.len()].copy_from_slice(self.key);
        at += self.key.len();
        if let Some(id) = self.big {
            put_word(buf, at, id);
        }
        at
    }
}

/// An item's bytes, beginning with its header and reaching at least to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl<'a> Raw<'a> {
    pub(crate) fn value_len(self) -> u32 {
        word(self.0, 0)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0[5]
    }

    pub(crate) fn has(self, bit: u8) -> bool {
        self.bits() & bit != 0
    }

    pub(crate) fn expiry(self) -> u32 {
        word(self.0, 12)
    }

    pub(crate) fn last_access(self) -> u32 {
        word(self.0, 16)
    }

    pub(crate) fn flags(self) -> u32 {
        if self.has(Bits::HAS_FLAGS) {
            word(self.0, HEADER_BYTES)
        } else {
            0
        }
    }

    pub(crate) fn cas(self) -> u64 {
        let mut bytes = [0; 8];
        if self.has(Bits::WIDE_CAS) {
            let at = HEADER_BYTES + optional_bytes(self.bits()) - 8;
            bytes.copy_from_slice(&self.0[at..at + 8]);
        } else {
            bytes[..6].copy_from_slice(&self.0[6..12]);
        }
        u64::from_le_bytes(bytes)
    }

    fn key_at(self) -> usize {
        HEADER_BYTES + optional_bytes(self.bits())
    }

    pub(crate) fn key(self) -> &'a [u8] {
        let at = self.key_at();
        &self.0[at..at + usize::from(self.0[4])]
    }

    pub(crate) fn value_at(self) -> usize {
        self.key_at() + usize::from(self.0[4])
    }

    pub(crate) fn big(self) -> Option<u32> {
        self.has(Bits::BIG).then(|| word(self.0, self.value_at()))
    }

    pub(crate) fn footprint(self) -> usize {
        let payload = if self.has(Bits::BIG) {
            BIG_ID_BYTES
        } else {
            self.value_len() as usize
        };
        aligned(self.value_at() + payload)
    }

    pub(crate) fn is_expired(self, now: u32) -> bool {
        let expiry = self.expiry();
        expiry != 0 && expiry <= now
    }
}

/// Changes of an item in place.
pub(crate) fn set_bits(buf: &mut [u8], set: u8, clear: u8) {
    buf[5] = (buf[5] | set) & !clear;
}

pub(crate) fn set_expiry(buf: &mut [u8], expiry: u32) {
    put_word(buf, 12, expiry);
}

pub(crate) fn set_last_access(buf: &mut [u8], last_access: u32) {
    put_word(buf, 16, last_access);
}

/// Changes the cas number if it fits the room the item has for it.
pub(crate) fn try_set_cas(buf: &mut [u8], cas: u64) -> bool {
    let bits = buf[5];
    if bits & Bits::WIDE_CAS != 0 {
        let at = HEADER_BYTES + optional_bytes(bits) - 8;
        buf[at..at + 8].copy_from_slice(&cas.to_le_bytes());
        return true;
    }
    if cas > CAS_SHORT_MAX {
        return false;
    }
    buf[6..12].copy_from_slice(&cas.to_le_bytes()[..6]);
    true
}

/// A live item, borrowed from its shard.
#[derive(Debug, Clone, Copy)]
pub struct ItemView<'a> {
    pub(crate) raw: Raw<'a>,
    pub(crate) segments: &'a [Segment],
    pub(crate) big: Option<&'a Big>,
}

impl<'a> ItemView<'a> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.raw.key()
    }

    /// Length of the value in bytes.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.raw.value_len() as usize
    }

    /// The client's flags.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.raw.flags()
    }

    /// The cas number.
    #[must_use]
    pub fn cas(&self) -> u64 {
        self.raw.cas()
    }

    /// Second at which it ends, 0 for never.
    #[must_use]
    pub fn expiry(&self) -> u32 {
        self.raw.expiry()
    }

    /// Second of the last access.
    #[must_use]
    pub fn last_access(&self) -> u32 {
        self.raw.last_access()
    }

    /// Whether one of the public bits of [`Bits`] is set.
    #[must_use]
    pub fn has(&self, bit: u8) -> bool {
        self.raw.has(bit)
    }

    /// The bits a changed copy of this item keeps.
    #[must_use]
    pub fn bits(&self) -> Bits {
        Bits(self.raw.bits() & Bits::GIVEN)
    }

    /// Size of the item in the original's reckoning.
    #[must_use]
    pub fn classic_size(&self) -> usize {
        classic_size(self.key().len(), self.value_len(), self.flags())
    }

    /// The value, as one slice or several.
    #[must_use]
    pub fn value(&self) -> ValueParts<'a> {
        let rest = self.value_len();
        match self.big {
            Some(big) => ValueParts {
                rest,
                source: Source::Cells {
                    big,
                    next: 0,
                    segments: self.segments,
                },
            },
            None => {
                let at = self.raw.value_at();
                ValueParts {
                    rest,
                    source: Source::Inline(&self.raw.0[at..at + rest]),
                }
            }
        }
    }

    /// The value as one slice, if it lies in one piece.
    #[must_use]
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        match self.value().source {
            Source::Inline(value) => Some(value),
            Source::Cells { .. } => None,
        }
    }
}

/// The pieces of a value in order.
#[derive(Debug, Clone)]
pub struct ValueParts<'a> {
    rest: usize,
    source: Source<'a>,
}

#[derive(Debug, Clone)]
enum Source<'a> {
    Inline(&'a [u8]),
    Cells {
        big: &'a Big,
        next: usize,
        segments: &'a [Segment],
    },
}

impl<'a> Iterator for ValueParts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest == 0 {
            return None;
        }
        let part = match &mut self.source {
            Source::Inline(value) => value,
            Source::Cells {
                big,
                next,
                segments,
            } => {
                let cell = *big.cells.get(*next)?;
                *next += 1;
                let bytes = cell.bytes(segments);
                &bytes[..bytes.len().min(self.rest)]
            }
        };
        self.rest -= part.len();
        Some(part)
    }
}
