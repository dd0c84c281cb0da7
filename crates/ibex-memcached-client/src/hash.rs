//! The hash functions other memcached clients use to spread keys over servers.
//!
//! They must agree bit for bit with libmemcached and Cache::Memcached, or two programs sharing a pool would not find each
//! other's items. In C a `char` is signed: all but md5 and crc extend the sign of bytes from 0x80.

use md5::{Digest, Md5};

/// Which function turns a key into a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hash {
    /// Jenkins' one-at-a-time, libmemcached's default.
    #[default]
    OneAtATime,
    /// First four bytes of MD5, little endian.
    Md5,
    /// Bits 16 to 30 of CRC-32.
    Crc,
    /// FNV-1, 32 bits.
    Fnv1_32,
    /// FNV-1a, 32 bits.
    Fnv1a32,
    /// FNV-1, 64 bits, of which the low half is used.
    Fnv1_64,
    /// What libmemcached calls FNV-1a 64: 32-bit arithmetic with the constants' low words.
    Fnv1a64,
}

impl Hash {
    /// The number of `key`.
    pub fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::OneAtATime => one_at_a_time(key),
            Self::Md5 => md5_point(&md5(key), 0),
            Self::Crc => u32::from(crc(key)),
            Self::Fnv1_32 => key.iter().fold(FNV_OFFSET_32, |hash, byte| {
                hash.wrapping_mul(FNV_PRIME_32) ^ signed(*byte)
            }),
            Self::Fnv1a32 => key.iter().fold(FNV_OFFSET_32, |hash, byte| {
                (hash ^ signed(*byte)).wrapping_mul(FNV_PRIME_32)
            }),
            Self::Fnv1_64 => fnv1_64_low(key),
            Self::Fnv1a64 => key.iter().fold(FNV_OFFSET_64_LOW, |hash, byte| {
                (hash ^ signed(*byte)).wrapping_mul(FNV_PRIME_64_LOW)
            }),
        }
    }
}

const FNV_OFFSET_32: u32 = 2_166_136_261;
const FNV_PRIME_32: u32 = 16_777_619;
const FNV_OFFSET_64_LOW: u32 = 0x8422_2325;
const FNV_PRIME_64_LOW: u32 = 0x1b3;

/// A byte as a C `signed char` widened to 32 bits.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

/// Jenkins' one-at-a-time.
fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = 0_u32;
    for byte in key {
        hash = hash.wrapping_add(signed(*byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// Low 32 bits of 64-bit FNV-1. They depend on low bits only, so 32-bit arithmetic gives them.
fn fnv1_64_low(key: &[u8]) -> u32 {
    key.iter().fold(FNV_OFFSET_64_LOW, |hash, byte| {
        hash.wrapping_mul(FNV_PRIME_64_LOW) ^ signed(*byte)
    })
}

/// MD5 of `bytes`.
pub(crate) fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// The `index`-th (0 to 3) little-endian word of a digest.
pub(crate) fn md5_point(digest: &[u8; 16], index: usize) -> u32 {
    let mut word = [0_u8; 4];
    for (to, from) in word.iter_mut().zip(digest.iter().skip(index * 4)) {
        *to = *from;
    }
    u32::from_le_bytes(word)
}

/// Cache::Memcached's hash: 15 bits out of CRC-32 (IEEE).
pub(crate) fn crc(key: &[u8]) -> u16 {
    let crc = key.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ CRC_TABLE.get(usize::from(low ^ byte)).unwrap_or(&0)
    });
    let [high, low, ..] = (!crc).to_be_bytes();
    u16::from_be_bytes([high & 0x7f, low])
}

/// What one byte does to a CRC-32, for each byte.
const CRC_TABLE: [u32; 256] = crc_table();

#[expect(
    clippy::indexing_slicing,
    reason = "runs while compiling, where a wrong index is an error"
)]
const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let (mut index, mut byte) = (0, 0_u32);
    while index < table.len() {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[index] = crc;
        index += 1;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // CRC-32 of "123456789" is cbf43926.
        assert_eq!(crc(b"123456789"), 0x4bf4);
        // MD5 of the empty string begins d41d8cd9.
        assert_eq!(Hash::Md5.of(b""), 0xd98c_1dd4);
        // FNV-1a 32 of "a" is e40c292c, FNV-1 32 is 050c5d7e, FNV-1 64 is af63bd4c8601b7be.
        assert_eq!(Hash::Fnv1a32.of(b"a"), 0xe40c_292c);
        assert_eq!(Hash::Fnv1_32.of(b"a"), 0x050c_5d7e);
        assert_eq!(Hash::Fnv1_64.of(b"a"), 0x8601_b7be);
        // Jenkins' one-at-a-time of "a" is ca2e9442.
        assert_eq!(Hash::OneAtATime.of(b"a"), 0xca2e_9442);
    }
}
