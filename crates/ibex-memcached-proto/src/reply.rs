//! Client side: bytes to replies.
//!
//! [`parse`] reads one reply at a time from the front of a buffer; which request it answers is the caller's knowledge (replies
//! come in order). Values are borrowed.

use crate::line::Words;
use ibex_base::ascii::parse_u64;
use memchr::memchr;

/// Longest reply line in bytes. A `VALUE` line is at most key, two numbers and a cas number; `VERSION` and `STAT` lines are short too.
/// Policy: beyond it the peer is no memcached and [`Malformed`] is returned.
pub const REPLY_LINE_BYTES_MAX: usize = 8192;

/// The peer answered with something that is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed reply")]
pub struct Malformed;

/// What the front of a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Not a whole reply; at least this many bytes are missing.
    Need(usize),
    /// A reply that used `consumed` bytes.
    Frame {
        /// The reply.
        reply: Reply<'a>,
        /// Bytes it used.
        consumed: usize,
    },
}

/// A stored value as `VALUE` or `VA` carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Client flags.
    pub flags: u32,
    /// The cas number of `gets`.
    pub cas: Option<u64>,
    /// The data.
    pub data: &'a [u8],
}

/// The two letters of a meta reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Hit or success without value.
    Hd,
    /// Hit with value.
    Va,
    /// Miss.
    En,
    /// Not found.
    Nf,
    /// Not stored.
    Ns,
    /// The cas number differs.
    Ex,
    /// Answer of `mn`.
    Mn,
}

/// Flags behind a meta reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyFlags<'a> {
    text: &'a [u8],
}

impl<'a> ReplyFlags<'a> {
    /// The token of `letter`, empty for flags without one; `None` if it is absent.
    pub fn token(&self, letter: u8) -> Option<&'a [u8]> {
        Words::new(self.text).find_map(|word| {
            word.split_first()
                .filter(|(first, _)| **first == letter)
                .map(|(_, token)| token)
        })
    }

    /// Whether `letter` is there.
    pub fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// The number of `letter`.
    pub fn number(&self, letter: u8) -> Option<u64> {
        self.token(letter).and_then(parse_u64)
    }
}

/// One reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `STORED`
    Stored,
    /// `NOT_STORED`
    NotStored,
    /// `EXISTS`
    Exists,
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// `TOUCHED`
    Touched,
    /// `OK`, `RESET`
    Ok,
    /// `END`
    End,
    /// The new number of incr and decr.
    Number(u64),
    /// `VALUE …`
    Value(Value<'a>),
    /// `VERSION …`
    Version(&'a [u8]),
    /// `STAT name value`
    Stat {
        /// Its name.
        name: &'a [u8],
        /// Its value, blanks included.
        value: &'a [u8],
    },
    /// A meta reply.
    Meta {
        /// Its code.
        code: Code,
        /// Its flags.
        flags: ReplyFlags<'a>,
        /// The data of `VA`.
        data: &'a [u8],
    },
    /// `ERROR`, `CLIENT_ERROR …`: the request was wrong.
    ClientError(&'a [u8]),
    /// `SERVER_ERROR …`: the server could not.
    ServerError(&'a [u8]),
}

/// Reads one reply off `buf`.
///
/// # Errors
/// [`Malformed`] if the bytes are no reply; the connection is of no further use.
pub fn parse(buf: &[u8]) -> Result<Step<'_>, Malformed> {
    let Some(end) = memchr(b'\n', buf) else {
        return if buf.len() > REPLY_LINE_BYTES_MAX {
            Err(Malformed)
        } else {
            Ok(Step::Need(1))
        };
    };
    let line = buf.get(..end).ok_or(Malformed)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let consumed = end + 1;
    let mut words = Words::new(line);
    let reply = match words.next().unwrap_or_default() {
        b"VALUE" => return value(words, buf, consumed),
        b"VA" => return meta_value(words, buf, consumed),
        b"STORED" => Reply::Stored,
        b"NOT_STORED" => Reply::NotStored,
        b"EXISTS" => Reply::Exists,
        b"NOT_FOUND" => Reply::NotFound,
        b"DELETED" => Reply::Deleted,
        b"TOUCHED" => Reply::Touched,
        b"OK" | b"RESET" => Reply::Ok,
        b"END" => Reply::End,
        b"HD" => meta(Code::Hd, &words),
        b"EN" => meta(Code::En, &words),
        b"NF" => meta(Code::Nf, &words),
        b"NS" => meta(Code::Ns, &words),
        b"EX" => meta(Code::Ex, &words),
        b"MN" => meta(Code::Mn, &words),
        b"VERSION" => Reply::Version(rest_of(&words)),
        b"STAT" => Reply::Stat {
            name: words.next().ok_or(Malformed)?,
            value: rest_of(&words),
        },
        b"ERROR" | b"CLIENT_ERROR" => Reply::ClientError(line),
        b"SERVER_ERROR" | b"SERVER_ERROR:" => Reply::ServerError(line),
        word => Reply::Number(parse_u64(word).ok_or(Malformed)?),
    };
    Ok(Step::Frame { reply, consumed })
}

fn rest_of<'a>(words: &Words<'a>) -> &'a [u8] {
    let rest = words.rest();
    rest.strip_prefix(b" ").unwrap_or(rest)
}

fn meta<'a>(code: Code, words: &Words<'a>) -> Reply<'a> {
    Reply::Meta {
        code,
        flags: ReplyFlags { text: words.rest() },
        data: b"",
    }
}

/// Cuts the data block that begins at `start`; `Err` holds how many bytes are missing.
fn block(buf: &[u8], start: usize, bytes: u64) -> Result<Result<(&[u8], usize), usize>, Malformed> {
    let bytes = usize::try_from(bytes).map_err(|_| Malformed)?;
    let end = start
        .checked_add(bytes)
        .and_then(|end| end.checked_add(2))
        .ok_or(Malformed)?;
    let Some(block) = buf.get(start..end) else {
        return Ok(Err(end - buf.len()));
    };
    let data = block.strip_suffix(b"\r\n").ok_or(Malformed)?;
    Ok(Ok((data, end)))
}

fn value<'a>(mut words: Words<'a>, buf: &'a [u8], start: usize) -> Result<Step<'a>, Malformed> {
    let key = words.next().ok_or(Malformed)?;
    let flags = words
        .next()
        .and_then(parse_u64)
        .and_then(|flags| u32::try_from(flags).ok())
        .ok_or(Malformed)?;
    let bytes = words.next().and_then(parse_u64).ok_or(Malformed)?;
    let cas = words
        .next()
        .map(|cas| parse_u64(cas).ok_or(Malformed))
        .transpose()?;
    Ok(match block(buf, start, bytes)? {
        Err(missing) => Step::Need(missing),
        Ok((data, consumed)) => Step::Frame {
            reply: Reply::Value(Value {
                key,
                flags,
                cas,
                data,
            }),
            consumed,
        },
    })
}

fn meta_value<'a>(
    mut words: Words<'a>,
    buf: &'a [u8],
    start: usize,
) -> Result<Step<'a>, Malformed> {
    let bytes = words.next().and_then(parse_u64).ok_or(Malformed)?;
    let flags = ReplyFlags { text: words.rest() };
    Ok(match block(buf, start, bytes)? {
        Err(missing) => Step::Need(missing),
        Ok((data, consumed)) => Step::Frame {
            reply: Reply::Meta {
                code: Code::Va,
                flags,
                data,
            },
            consumed,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts;
    use proptest::prelude::*;

    fn one(bytes: &[u8]) -> Reply<'_> {
        match parse(bytes) {
            Ok(Step::Frame { reply, consumed }) => {
                assert_eq!(consumed, bytes.len());
                reply
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_error_text_of_the_server_is_a_reply() {
        for text in texts::ALL.iter().filter(|text| {
            text.starts_with(b"ERROR")
                || text.starts_with(b"CLIENT_")
                || text.starts_with(b"SERVER_")
        }) {
            assert!(matches!(
                one(text),
                Reply::ClientError(_) | Reply::ServerError(_)
            ));
        }
    }

    #[test]
    fn values_and_flags() {
        let Reply::Value(value) = one(b"VALUE k 3 2 9\r\nhi\r\n") else {
            panic!("a value")
        };
        assert_eq!(
            (value.key, value.flags, value.cas, value.data),
            (&b"k"[..], 3, Some(9), &b"hi"[..])
        );
        let Reply::Meta { code, flags, data } = one(b"VA 2 c7 W\r\nhi\r\n") else {
            panic!("a meta value")
        };
        assert_eq!(
            (
                code,
                flags.number(b'c'),
                flags.has(b'W'),
                flags.has(b'Z'),
                data
            ),
            (Code::Va, Some(7), true, false, &b"hi"[..])
        );
    }

    #[test]
    fn every_prefix_needs_more() {
        let whole = b"VALUE key 1 5 77\r\nhello\r\n";
        for cut in 0..whole.len() {
            assert!(matches!(parse(&whole[..cut]), Ok(Step::Need(_))), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Step::Frame { consumed, .. }) = parse(&bytes) { prop_assert!(consumed <= bytes.len()); }
        }
    }
}
