//! Client side: requests to bytes.
//!
//! Each function appends one whole request. Keys must have passed [`check_key`]; the writers do not check again.

use crate::KEY_BYTES_MAX;
use bytes::{BufMut, BytesMut};
use ibex_base::ascii::{write_i64, write_u64};

/// Whether a key may stand on a text line: 1 to 250 bytes without blanks and control characters.
///
/// Stricter than the server, which lets control bytes pass: a client that accepts them would let its callers write commands.
pub fn check_key(key: &[u8]) -> bool {
    !key.is_empty()
        && key.len() <= KEY_BYTES_MAX
        && key.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

/// `<verb> <key>…` in one line, for get, gets, delete, version.
pub fn words<'k>(out: &mut BytesMut, verb: &[u8], keys: impl IntoIterator<Item = &'k [u8]>) {
    out.put_slice(verb);
    for key in keys {
        out.put_u8(b' ');
        out.put_slice(key);
    }
    out.put_slice(b"\r\n");
}

/// What a classic storage request carries besides its verb.
#[derive(Debug, Clone, Copy)]
pub struct Store<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Client flags.
    pub flags: u32,
    /// Expiry as the protocol writes it.
    pub exptime: i64,
    /// The cas number, for the verb `cas`.
    pub cas: Option<u64>,
    /// The data block.
    pub value: &'a [u8],
}

/// `<verb> key flags exptime bytes [cas]` and the data block.
pub fn store(out: &mut BytesMut, verb: &[u8], store: &Store<'_>) {
    out.reserve(verb.len() + store.key.len() + store.value.len() + 64);
    out.put_slice(verb);
    out.put_u8(b' ');
    out.put_slice(store.key);
    out.put_u8(b' ');
    write_u64(out, u64::from(store.flags));
    out.put_u8(b' ');
    write_i64(out, store.exptime);
    out.put_u8(b' ');
    write_u64(out, store.value.len() as u64);
    if let Some(cas) = store.cas {
        out.put_u8(b' ');
        write_u64(out, cas);
    }
    out.put_slice(b"\r\n");
    out.put_slice(store.value);
    out.put_slice(b"\r\n");
}

/// `<verb> key number`, for incr, decr, touch.
pub fn key_and_number(out: &mut BytesMut, verb: &[u8], key: &[u8], number: i128) {
    out.put_slice(verb);
    out.put_u8(b' ');
    out.put_slice(key);
    out.put_u8(b' ');
    if number < 0 {
        out.put_u8(b'-');
    }
    write_u64(
        out,
        u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX),
    );
    out.put_slice(b"\r\n");
}

/// A meta request under construction: `mg key` and flags, finished by [`Meta::end`] or [`Meta::end_with`].
#[derive(Debug)]
pub struct Meta<'o> {
    out: &'o mut BytesMut,
}

impl<'o> Meta<'o> {
    /// Begins `<verb> <key>`.
    pub fn new(out: &'o mut BytesMut, verb: &[u8; 2], key: &[u8]) -> Self {
        out.put_slice(verb);
        out.put_u8(b' ');
        out.put_slice(key);
        Self { out }
    }

    /// Begins `ms <key> <bytes>`.
    pub fn store(out: &'o mut BytesMut, key: &[u8], value_bytes: usize) -> Self {
        let meta = Self::new(out, b"ms", key);
        meta.out.put_u8(b' ');
        write_u64(meta.out, value_bytes as u64);
        meta
    }

    /// Adds flags without a number, each a letter: `b"vcf"` adds ` v c f`.
    #[must_use]
    pub fn flags(self, letters: &[u8]) -> Self {
        for letter in letters {
            self.out.put_u8(b' ');
            self.out.put_u8(*letter);
        }
        self
    }

    /// Adds a flag with an unsigned number.
    #[must_use]
    pub fn number(self, letter: u8, number: u64) -> Self {
        self.out.put_u8(b' ');
        self.out.put_u8(letter);
        write_u64(self.out, number);
        self
    }

    /// Adds a flag with a signed number.
    #[must_use]
    pub fn signed(self, letter: u8, number: i64) -> Self {
        self.out.put_u8(b' ');
        self.out.put_u8(letter);
        write_i64(self.out, number);
        self
    }

    /// Ends the line.
    pub fn end(self) {
        self.out.put_slice(b"\r\n");
    }

    /// Ends the line and adds the data block.
    pub fn end_with(self, value: &[u8]) {
        self.out.reserve(value.len() + 4);
        self.out.put_slice(b"\r\n");
        self.out.put_slice(value);
        self.out.put_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::{Step, split};
    use crate::request::{Request, StoreVerb, parse};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_written_store_reads_back(
            key in "[!-~]{1,250}", flags: u32, exptime: i64, cas: u64, value in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut out = BytesMut::new();
            store(&mut out, b"cas", &Store { key: key.as_bytes(), flags, exptime, cas: Some(cas), value: &value });
            let Step::Line { line, consumed } = split(&out, 0) else { panic!("a whole line") };
            let Ok(Request::Store(read)) = parse(line) else { panic!("a store") };
            prop_assert_eq!(read.verb, StoreVerb::Cas(cas));
            prop_assert_eq!((read.key, read.flags, read.exptime), (key.as_bytes(), flags, exptime));
            prop_assert_eq!(&out[consumed..consumed + read.value_bytes], &value[..]);
            prop_assert_eq!(&out[consumed + read.value_bytes..], b"\r\n");
        }
    }

    #[test]
    fn keys_that_would_write_commands_are_refused() {
        assert!(check_key(b"a:b"));
        for key in [
            &b""[..],
            b"a b",
            b"a\r\nflush_all",
            b"\x7f",
            &[b'k'; KEY_BYTES_MAX + 1],
        ] {
            assert!(!check_key(key));
        }
    }
}
