//! The twelve-byte header and the NUL-separated arguments: the part both directions share.
//!
//! Knows sizes and separators, not what a type means.

use bytes::BufMut;

/// Bytes of a packet's header.
pub const HEADER_BYTES: usize = 12;

/// Magic of packets towards the server.
pub(crate) const REQ: [u8; 4] = *b"\0REQ";
/// Magic of packets from the server.
pub(crate) const RES: [u8; 4] = *b"\0RES";

/// What a look at the buffered bytes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// No whole message yet: call again once the buffer holds at least this many bytes in all. Always more than it holds now.
    Need(usize),
    /// One message and the number of buffered bytes it took.
    Frame {
        /// The message.
        message: T,
        /// Bytes to drop from the front of the buffer.
        consumed: usize,
    },
}

/// A header that was read, its fields as they stand on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 4],
    pub(crate) kind: u32,
    pub(crate) payload_bytes: u32,
}

impl Header {
    /// The header at the front of `buf`, if its twelve bytes are there.
    pub(crate) fn parse(buf: &[u8]) -> Option<Self> {
        let (magic, rest) = buf.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (payload, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            magic: *magic,
            kind: u32::from_be_bytes(*kind),
            payload_bytes: u32::from_be_bytes(*payload),
        })
    }
}

/// Splits a payload into exactly `N` arguments: `N − 1` ended by a NUL, the last one the rest. `None` when the payload has fewer separators.
pub(crate) fn arguments<const N: usize>(payload: &[u8]) -> Option<[&[u8]; N]> {
    let mut found = [&payload[..0]; N];
    let mut rest = payload;
    let (last, head) = found.split_last_mut()?;
    for slot in head {
        let at = memchr::memchr(0, rest)?;
        let (argument, tail) = rest.split_at_checked(at)?;
        *slot = argument;
        rest = tail.get(1..)?;
    }
    *last = rest;
    Some(found)
}

/// Writes header and arguments, NUL between the arguments. `tail_bytes` is the length of data that the caller appends by itself after the last argument, with a
/// separator before it; `None` when the last argument is the end.
pub(crate) fn put(
    out: &mut impl BufMut,
    magic: [u8; 4],
    kind: u32,
    arguments: &[&[u8]],
    tail_bytes: Option<usize>,
) {
    let separators = arguments.len().saturating_sub(1)
        + usize::from(tail_bytes.is_some() && !arguments.is_empty());
    let length =
        arguments.iter().map(|a| a.len()).sum::<usize>() + separators + tail_bytes.unwrap_or(0);
    out.put_slice(&magic);
    out.put_u32(kind);
    out.put_u32(u32::try_from(length).expect("payload bounds are below 4 GiB on both sides"));
    for (index, argument) in arguments.iter().enumerate() {
        if index > 0 {
            out.put_u8(0);
        }
        out.put_slice(argument);
    }
    if tail_bytes.is_some() && !arguments.is_empty() {
        out.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stop_at_the_payload() {
        assert_eq!(arguments::<1>(b"a\0b"), Some([&b"a\0b"[..]]));
        assert_eq!(arguments::<2>(b"a\0b\0c"), Some([&b"a"[..], &b"b\0c"[..]]));
        assert_eq!(
            arguments::<3>(b"\0\0"),
            Some([&b""[..], &b""[..], &b""[..]])
        );
        assert_eq!(arguments::<2>(b"ab"), None);
        assert_eq!(arguments::<3>(b"a\0b"), None);
    }
}
