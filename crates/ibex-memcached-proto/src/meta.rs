//! The meta commands: flags of one letter each, read into typed requests.
//!
//! Flags are processed and answered in the order they were written, so a request keeps that order beside the values.
//! `P` and `L` are hints for proxies and mean nothing here. See `doc/protocol.txt`, "Meta Commands".

use crate::KEY_BYTES_MAX;
use crate::line::Words;
use crate::request::{BLOCK_BYTES_MAX, Refusal};
use crate::texts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ibex_base::ascii::{parse_i64, parse_u64};

/// Most words of a meta line, command and key included; the original's token array.
const WORDS_MAX: usize = 20;
/// Longest opaque in bytes. The original counts its letter and takes 31; policy: refuse.
pub const OPAQUE_BYTES_MAX: usize = 32;
/// Bytes a base64 key of full length decodes to, rounded up to what the decoder wants.
pub const DECODED_KEY_BYTES_MAX: usize = KEY_BYTES_MAX / 4 * 3 + 3;
/// Letters some meta command knows.
const KNOWN_LETTERS: &[u8] = b"bcCDEfFhIJklLMNOPqRstTuvx";

/// A key as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaKey<'a> {
    /// The word on the line: the key itself, or its base64 text.
    pub wire: &'a [u8],
    /// Whether `wire` is base64 (flag `b`).
    pub binary: bool,
}

impl<'a> MetaKey<'a> {
    /// The key's bytes; base64 is decoded into `scratch`. `None` if it is not base64 (the parsers have checked that it is).
    pub fn bytes<'s>(&self, scratch: &'s mut [u8; DECODED_KEY_BYTES_MAX]) -> Option<&'s [u8]>
    where
        'a: 's,
    {
        if !self.binary {
            return Some(self.wire);
        }
        let len = STANDARD.decode_slice(self.wire, scratch).ok()?;
        scratch.get(..len).filter(|key| !key.is_empty())
    }
}

/// The flags of one meta request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags<'a> {
    letters: u64,
    order: [u8; WORDS_MAX],
    count: usize,
    /// `O`: echoed back.
    pub opaque: Option<&'a [u8]>,
    /// `C`: compare with the item's cas number.
    pub compare: Option<u64>,
    /// `E`: the cas number to give.
    pub cas_new: Option<u64>,
    /// `F`: client flags.
    pub client_flags: u32,
    /// `T`: expiry as written.
    pub ttl: Option<i64>,
    /// `N`: create on a miss, with this expiry.
    pub vivify: Option<i64>,
    /// `R`: refresh when less than this is left, in seconds.
    pub recache: Option<i64>,
    /// `D`: delta of arithmetic.
    pub delta: Option<u64>,
    /// `J`: initial value of arithmetic.
    pub initial: Option<u64>,
    /// `M`: the mode's letter; an empty or longer mode is kept as 0.
    pub mode: Option<u8>,
}

impl Flags<'_> {
    /// Whether `letter` was given.
    pub fn has(&self, letter: u8) -> bool {
        bit(letter).is_some_and(|bit| self.letters & bit != 0)
    }

    /// The letters in the order they were written.
    pub fn order(&self) -> &[u8] {
        self.order.get(..self.count).unwrap_or_default()
    }

    /// `q`: leave out the uninteresting answer.
    pub fn is_quiet(&self) -> bool {
        self.has(b'q')
    }
}

fn bit(letter: u8) -> Option<u64> {
    letter
        .checked_sub(b'A')
        .and_then(|at| 1_u64.checked_shl(u32::from(at)))
}

/// `mg`.
#[derive(Debug, Clone, Copy)]
pub struct MetaGet<'a> {
    /// The key.
    pub key: MetaKey<'a>,
    /// Its flags.
    pub flags: Flags<'a>,
}

/// What `ms` does with an item that is or is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// `S` or none.
    Set,
    /// `E`.
    Add,
    /// `A`.
    Append,
    /// `P`.
    Prepend,
    /// `R`.
    Replace,
}

/// `ms`; a data block of `value_bytes` and CRLF follows.
#[derive(Debug, Clone, Copy)]
pub struct MetaStore<'a> {
    /// The key.
    pub key: MetaKey<'a>,
    /// Its flags.
    pub flags: Flags<'a>,
    /// What to do.
    pub mode: StoreMode,
    /// Length of the data block without CRLF.
    pub value_bytes: usize,
}

/// `md`.
#[derive(Debug, Clone, Copy)]
pub struct MetaDelete<'a> {
    /// The key.
    pub key: MetaKey<'a>,
    /// Its flags.
    pub flags: Flags<'a>,
}

/// `ma`.
#[derive(Debug, Clone, Copy)]
pub struct MetaArithmetic<'a> {
    /// The key.
    pub key: MetaKey<'a>,
    /// Its flags.
    pub flags: Flags<'a>,
    /// Up or down.
    pub direction: crate::request::Direction,
}

/// `me`.
#[derive(Debug, Clone, Copy)]
pub struct MetaDebug<'a> {
    /// The key.
    pub key: MetaKey<'a>,
}

pub(crate) fn parse_get<'a>(mut words: Words<'a>) -> Result<MetaGet<'a>, Refusal> {
    let wire = key_word(&mut words)?;
    let flags = flags(words, 2)?;
    Ok(MetaGet {
        key: checked_key(wire, &flags)?,
        flags,
    })
}

pub(crate) fn parse_store<'a>(mut words: Words<'a>) -> Result<MetaStore<'a>, Refusal> {
    let refusal = Refusal::text(texts::BAD_FORMAT);
    let wire = words.next().ok_or(refusal)?;
    let value_bytes = words
        .next()
        .and_then(parse_u64)
        .filter(|bytes| *bytes <= BLOCK_BYTES_MAX)
        .ok_or(refusal)?;
    let value_bytes = usize::try_from(value_bytes).map_err(|_| refusal)?;
    if wire.len() > KEY_BYTES_MAX {
        return Err(refusal.swallowing(value_bytes));
    }
    let swallow = |refusal: Refusal| refusal.swallowing(value_bytes);
    let flags = flags(words, 3).map_err(swallow)?;
    let key = checked_key(wire, &flags).map_err(swallow)?;
    let mode = match flags.mode {
        None | Some(b'S') => StoreMode::Set,
        Some(b'E') => StoreMode::Add,
        Some(b'A') => StoreMode::Append,
        Some(b'P') => StoreMode::Prepend,
        Some(b'R') => StoreMode::Replace,
        Some(_) => return Err(swallow(Refusal::text(texts::META_STORE_MODE))),
    };
    Ok(MetaStore {
        key,
        flags,
        mode,
        value_bytes,
    })
}

pub(crate) fn parse_delete<'a>(mut words: Words<'a>) -> Result<MetaDelete<'a>, Refusal> {
    let wire = key_word(&mut words)?;
    let flags = flags(words, 2)?;
    Ok(MetaDelete {
        key: checked_key(wire, &flags)?,
        flags,
    })
}

pub(crate) fn parse_arithmetic<'a>(mut words: Words<'a>) -> Result<MetaArithmetic<'a>, Refusal> {
    use crate::request::Direction;
    let wire = key_word(&mut words)?;
    // COMPAT(memcached): `ma` names every wrong flag with one text (proto_text.c, process_marithmetic_command).
    let flags = flags(words, 2).map_err(|_| Refusal::text(texts::META_ARITHMETIC_FLAG))?;
    let key = checked_key(wire, &flags)?;
    let direction = match flags.mode {
        None | Some(b'I' | b'i' | b'+') => Direction::Incr,
        Some(b'D' | b'd' | b'-') => Direction::Decr,
        Some(_) => return Err(Refusal::text(texts::META_ARITHMETIC_MODE)),
    };
    Ok(MetaArithmetic {
        key,
        flags,
        direction,
    })
}

pub(crate) fn parse_debug<'a>(mut words: Words<'a>) -> Result<MetaDebug<'a>, Refusal> {
    let wire = key_word(&mut words)?;
    let binary = words.any(|word| word == b"b");
    let key = MetaKey { wire, binary };
    check_base64(&key)?;
    Ok(MetaDebug { key })
}

fn key_word<'a>(words: &mut Words<'a>) -> Result<&'a [u8], Refusal> {
    words
        .next()
        .filter(|key| key.len() <= KEY_BYTES_MAX)
        .ok_or(Refusal::text(texts::BAD_FORMAT))
}

fn checked_key<'a>(wire: &'a [u8], flags: &Flags<'_>) -> Result<MetaKey<'a>, Refusal> {
    let key = MetaKey {
        wire,
        binary: flags.has(b'b'),
    };
    check_base64(&key)?;
    Ok(key)
}

fn check_base64(key: &MetaKey<'_>) -> Result<(), Refusal> {
    if !key.binary {
        return Ok(());
    }
    let mut scratch = [0_u8; DECODED_KEY_BYTES_MAX];
    key.bytes(&mut scratch)
        .map(|_| ())
        .ok_or(Refusal::text(texts::META_BAD_KEY))
}

/// Reads flags; `words_before` words of the line stand before them.
fn flags<'a>(words: Words<'a>, words_before: usize) -> Result<Flags<'a>, Refusal> {
    let mut flags = Flags::default();
    for word in words {
        let Some((&letter, token)) = word.split_first() else {
            continue;
        };
        if flags.count + words_before >= WORDS_MAX {
            return Err(Refusal::text(texts::META_TOO_MANY));
        }
        let bit = bit(letter)
            .filter(|_| KNOWN_LETTERS.contains(&letter))
            .ok_or(Refusal::text(texts::META_INVALID_FLAG))?;
        if flags.letters & bit != 0 {
            return Err(Refusal::text(texts::META_DUPLICATE_FLAG));
        }
        flags.letters |= bit;
        if let Some(slot) = flags.order.get_mut(flags.count) {
            *slot = letter;
        }
        flags.count += 1;
        value_of(&mut flags, letter, token)?;
    }
    Ok(flags)
}

fn value_of<'a>(flags: &mut Flags<'a>, letter: u8, token: &'a [u8]) -> Result<(), Refusal> {
    let bad = Refusal::text(texts::META_BAD_TOKEN);
    match letter {
        b'O' if token.len() > OPAQUE_BYTES_MAX => {
            return Err(Refusal::text(texts::META_OPAQUE_TOO_LONG));
        }
        b'O' => flags.opaque = Some(token),
        b'C' => flags.compare = Some(parse_u64(token).ok_or(bad)?),
        b'E' => flags.cas_new = Some(parse_u64(token).ok_or(bad)?),
        b'F' => {
            let value = parse_u64(token).and_then(|value| u32::try_from(value).ok());
            flags.client_flags = value.ok_or(Refusal::text(texts::BAD_FORMAT))?;
        }
        b'T' => flags.ttl = Some(parse_i64(token).ok_or(bad)?),
        b'N' => flags.vivify = Some(parse_i64(token).ok_or(bad)?),
        b'R' => flags.recache = Some(parse_i64(token).ok_or(bad)?),
        b'D' => flags.delta = Some(parse_u64(token).ok_or(bad)?),
        b'J' => flags.initial = Some(parse_u64(token).ok_or(bad)?),
        b'M' => flags.mode = Some(if let [mode] = token { *mode } else { 0 }),
        _ => {}
    }
    Ok(())
}

/// Appends `key` as base64.
pub fn write_base64(out: &mut bytes::BytesMut, key: &[u8]) {
    out.extend_from_slice(STANDARD.encode(key).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Request, parse};

    fn text(line: &[u8]) -> &'static [u8] {
        match parse(line) {
            Err(refusal) => refusal.text,
            Ok(request) => panic!("{request:?} should be refused"),
        }
    }

    #[test]
    fn order_and_values_are_kept() {
        let Ok(Request::MetaGet(get)) = parse(b"mg foo t v T30 Oabc C7") else {
            panic!("a meta get")
        };
        assert_eq!(get.flags.order(), b"tvTOC");
        assert_eq!(
            (get.flags.ttl, get.flags.compare, get.flags.opaque),
            (Some(30), Some(7), Some(&b"abc"[..]))
        );
        assert!(get.flags.has(b'v') && !get.flags.has(b'k'));
    }

    #[test]
    fn errors_have_their_own_texts() {
        for (line, expected) in [
            (&b"mg foo v v"[..], texts::META_DUPLICATE_FLAG),
            (b"mg foo Z", texts::META_INVALID_FLAG),
            (b"mg foo !", texts::META_INVALID_FLAG),
            (b"mg foo Tx", texts::META_BAD_TOKEN),
            (b"mg", texts::BAD_FORMAT),
            (b"mg fo_ b", texts::META_BAD_KEY),
            (b"ms foo -1", texts::BAD_FORMAT),
            (b"ms foo 2 Mx", texts::META_STORE_MODE),
            (b"ms foo 2 Fx", texts::BAD_FORMAT),
            (b"ma foo v v", texts::META_ARITHMETIC_FLAG),
            (b"ma foo MZ", texts::META_ARITHMETIC_MODE),
        ] {
            assert_eq!(text(line), expected, "{line:?}");
        }
    }

    #[test]
    fn opaque_limit_at_zero_and_plus_one() {
        let mut line = b"mg foo O".to_vec();
        line.resize(line.len() + OPAQUE_BYTES_MAX, b'x');
        assert!(parse(&line).is_ok());
        line.push(b'x');
        assert_eq!(text(&line), texts::META_OPAQUE_TOO_LONG);
    }

    #[test]
    fn word_limit_at_zero_and_plus_one() {
        let eighteen = b"mg foo b c C1 D1 E1 f F1 h I J1 k l L M O P q R1".to_vec();
        assert_eq!(eighteen.split(|b| *b == b' ').count(), 20);
        assert_ne!(
            parse(&eighteen).err().map(|r| r.text),
            Some(texts::META_TOO_MANY)
        );
        let mut more = eighteen;
        more.extend_from_slice(b" s");
        assert_eq!(text(&more), texts::META_TOO_MANY);
    }

    #[test]
    fn binary_keys_decode() {
        let Ok(Request::MetaGet(get)) = parse(b"mg Zm9v b") else {
            panic!("a meta get")
        };
        let mut scratch = [0; DECODED_KEY_BYTES_MAX];
        assert_eq!(get.key.bytes(&mut scratch), Some(&b"foo"[..]));
    }
}
