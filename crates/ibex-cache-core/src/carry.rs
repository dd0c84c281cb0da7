//! Items on their way from one process to the next: a shard gives all it has, oldest first, and another takes them up.
//!
//! What is carried is the item with everything clients can see and its standing with eviction; where it lay is not, so the next shard may have another
//! size. Does not know files: the caller keeps what it is shown, see `Item::write` for a form in bytes.

use crate::item::{Bits, ItemView, Parts, Raw};
use crate::memory::Use;
use crate::shard::{Aged, Full, Shard};

/// Bytes of a carried item before key and value.
const HEADER_BYTES: usize = 32;
/// An item takes at least this, index included: header, a short key, a slot.
const BYTES_PER_ITEM_LEAST: usize = 40;
/// Index entries that are read ahead.
const TOUCHED_TOGETHER: usize = 16;
/// The bits that are carried.
const CARRIED: u8 = Bits::BINARY_KEY | Bits::STALE | Bits::TOKEN_SENT | Bits::FETCHED;

/// An item that is carried, its value in `V`: pieces of a shard, or one slice.
#[derive(Debug, Clone, Copy)]
pub struct Carried<'a, V> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: V,
    /// The client's flags.
    pub flags: u32,
    /// Second at which it ends, 0 for never.
    pub expiry: u32,
    /// Second of the last access.
    pub last_access: u32,
    /// Its cas number.
    pub cas: u64,
    /// Binary key, stale, token sent, fetched.
    pub bits: u8,
    /// How often it was used lately, 0 to 3.
    pub frequency: u8,
}

impl<'a> Carried<'a, &'a [u8]> {
    /// Reads an item from the front of `bytes`; what is behind it too. `None` if there is no whole one.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let (key, rest) = rest.split_at_checked(usize::from(header[4]))?;
        let (value, rest) = rest.split_at_checked(word(0) as usize)?;
        let item = Self {
            key,
            value,
            flags: word(8),
            expiry: word(12),
            last_access: word(16),
            cas: u64::from(word(24)) | u64::from(word(28)) << 32,
            bits: header[5] & CARRIED,
            frequency: header[6],
        };
        Some((item, rest))
    }
}

impl<'a, V: Iterator<Item = &'a [u8]>> Carried<'_, V> {
    /// Writes the item to the end of `out`.
    pub fn write(self, value_bytes: u32, out: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&value_bytes.to_le_bytes());
        header[4] = u8::try_from(self.key.len()).unwrap_or(u8::MAX);
        (header[5], header[6]) = (self.bits & CARRIED, self.frequency);
        header[8..12].copy_from_slice(&self.flags.to_le_bytes());
        header[12..16].copy_from_slice(&self.expiry.to_le_bytes());
        header[16..20].copy_from_slice(&self.last_access.to_le_bytes());
        header[24..].copy_from_slice(&self.cas.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.key);
        for part in self.value {
            out.extend_from_slice(part);
        }
    }
}

impl Shard {
    /// Shows every live item that `keeps` accepts by key and cas number to `visit` in its carried form, oldest first, giving memory back on the way.
    /// An error of `visit` ends it.
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn give_all<E>(
        mut self,
        now: u32,
        keeps: impl Fn(&[u8], u64) -> bool,
        mut visit: impl FnMut(&dyn Fn(&mut Vec<u8>)) -> Result<(), E>,
    ) -> Result<(), E> {
        self.flush_if_due(now);
        let wants =
            |item: &ItemView<'_>| !item.raw.is_expired(now) && keeps(item.key(), item.cas());
        let mut aged: Vec<(u64, Aged)> =
            self.by_age.iter().map(|(at, aged)| (*at, *aged)).collect();
        for (number, segment) in (0_u32..).zip(&self.memory.segments) {
            if matches!(segment.usage, Use::Open | Use::Evacuating) {
                aged.push((segment.born, Aged::Segment(number)));
            }
        }
        aged.sort_by_key(|(at, _)| *at);
        for (_, aged) in aged {
            match aged {
                Aged::Segment(number) => self.give_segment(&wants, number, &mut visit)?,
                Aged::Big(id) => {
                    if let Some(stub) = self.bigs.by_id(id).map(|big| big.stub) {
                        self.give(&wants, stub, &mut visit)?;
                    }
                    self.drop_big(Some(id));
                    while self.memory.shrink() {}
                }
            }
        }
        Ok(())
    }

    fn give_segment<E>(
        &mut self,
        wants: &impl Fn(&ItemView<'_>) -> bool,
        number: u32,
        visit: &mut impl FnMut(&dyn Fn(&mut Vec<u8>)) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut offset, mut has_stubs) = (0, false);
        while offset < self.memory.segment(number).used as usize {
            let location = self.memory.location(number, offset);
            let raw = Raw(self.memory.tail(location));
            offset += raw.footprint();
            if raw.has(Bits::DEAD) {
                continue;
            }
            if raw.big().is_some() {
                has_stubs = true;
                continue;
            }
            self.give(wants, location, visit)?;
        }
        // Stubs are needed until their big values have their turn.
        if !has_stubs {
            self.memory.release(number);
            while self.memory.shrink() {}
        }
        Ok(())
    }

    fn give<E>(
        &self,
        wants: &impl Fn(&ItemView<'_>) -> bool,
        location: u32,
        visit: &mut impl FnMut(&dyn Fn(&mut Vec<u8>)) -> Result<(), E>,
    ) -> Result<(), E> {
        let view = self.view_at(location);
        if !wants(&view) {
            return Ok(());
        }
        let hash = self.hash_of(view.key());
        let found = self.index.find(hash, |found| found == location);
        let frequency = found.map_or(0, |(position, _)| self.index.frequency(position));
        visit(&|out| {
            let item = Carried {
                key: view.key(),
                value: view.value(),
                flags: view.flags(),
                expiry: view.expiry(),
                last_access: view.last_access(),
                cas: view.cas(),
                bits: view.raw.bits(),
                frequency,
            };
            item.write(view.raw.value_len(), out);
        })
    }

    /// Prepares an empty shard for about so many items to be taken up.
    pub fn expect_items(&mut self, items: usize) {
        let most = self.config.limit_bytes / BYTES_PER_ITEM_LEAST;
        self.index.reserve(items.min(most));
    }

    /// Takes up items as [`Shard::take_up`] does; how many there was no room for.
    pub fn take_up_all(&mut self, now: u32, items: &[(u64, Carried<'_, &[u8]>)]) -> usize {
        let mut lost = 0;
        for items in items.chunks(TOUCHED_TOGETHER) {
            // Independent reads wait for memory together; the inserts behind them would wait one by one.
            let touched = items.iter().map(|(hash, _)| self.index.touch(*hash));
            std::hint::black_box(touched.fold(0, |all, tag| all | tag));
            for (hash, item) in items {
                lost += usize::from(self.take_up(now, *hash, item).is_err());
            }
        }
        lost
    }

    /// Takes up an item as it was. The key must not be there yet: what is carried has each key once.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub fn take_up(&mut self, now: u32, hash: u64, item: &Carried<'_, &[u8]>) -> Result<(), Full> {
        let parts = Parts {
            key: item.key,
            value_len: u32::try_from(item.value.len()).map_err(|_| Full)?,
            flags: item.flags,
            cas: item.cas,
            expiry: item.expiry,
            last_access: item.last_access.min(now),
            bits: item.bits & CARRIED,
            big: None,
        };
        self.place(now, hash, parts, &[item.value], item.frequency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_they_were_written() {
        let parts: [&[u8]; 2] = [b"ab", b"c"];
        let item = Carried {
            key: b"key",
            value: parts.into_iter(),
            flags: 7,
            expiry: 100,
            last_access: 90,
            cas: 1 << 60,
            bits: Bits::STALE | Bits::FETCHED,
            frequency: 2,
        };
        let mut bytes = Vec::new();
        item.write(3, &mut bytes);
        bytes.push(b'!');
        let (read, rest) = Carried::read(&bytes).unwrap();
        assert_eq!(
            (read.key, read.value, rest),
            (&b"key"[..], &b"abc"[..], &b"!"[..])
        );
        assert_eq!(
            (
                read.flags,
                read.expiry,
                read.last_access,
                read.cas,
                read.bits,
                read.frequency
            ),
            (7, 100, 90, 1 << 60, Bits::STALE | Bits::FETCHED, 2)
        );
        for short in 0..bytes.len() - 1 {
            assert!(Carried::read(&bytes[..short]).is_none(), "{short}");
        }
    }
}
