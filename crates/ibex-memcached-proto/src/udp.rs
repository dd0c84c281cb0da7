//! The frame around requests and replies in datagrams.
//!
//! Eight bytes before the text or packet, four big-endian numbers: request id, sequence, count of datagrams, reserved (`doc/protocol.txt` of the original, "UDP
//! protocol"). A request is one datagram; a reply is as many as it takes, each with the id of its request. Knows no sockets.

/// Bytes of the frame.
pub const HEADER_BYTES: usize = 8;
/// Bytes of a reply's datagram at most, frame included: fits an Ethernet packet with room for tunnels.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// Bytes of a reply per datagram.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES;

/// A request in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The number the reply bears.
    pub id: u16,
    /// Text lines or a binary packet.
    pub payload: &'a [u8],
}

/// Why a datagram is dropped without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Nothing behind the frame, or no whole frame.
    Short,
    /// Part of a request in several datagrams, which nobody puts together.
    Partial,
}

/// Reads a request's frame.
///
/// # Errors
/// [`Dropped`] if it is none, or part of a longer request.
pub fn parse(datagram: &[u8]) -> Result<Datagram<'_>, Dropped> {
    let (frame, payload) = datagram
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Dropped::Short)?;
    if payload.is_empty() {
        return Err(Dropped::Short);
    }
    // COMPAT(memcached): sequence and reserved bytes are not looked at (memcached.c, try_read_udp).
    let [id_high, id_low, _, _, count_high, count_low, _, _] = *frame;
    if u16::from_be_bytes([count_high, count_low]) != 1 {
        return Err(Dropped::Partial);
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    Ok(Datagram { id, payload })
}

/// Cuts a reply into datagrams: frame and bytes of each. Nothing for an empty reply; `None` if it needs more datagrams than can be numbered.
#[must_use]
pub fn datagrams(
    id: u16,
    reply: &[u8],
) -> Option<impl Iterator<Item = ([u8; HEADER_BYTES], &[u8])>> {
    let count = u16::try_from(reply.len().div_ceil(PAYLOAD_BYTES_MAX)).ok()?;
    let numbered = (0_u16..).zip(reply.chunks(PAYLOAD_BYTES_MAX));
    Some(numbered.map(move |(sequence, payload)| {
        let ([a, b], [c, d], [e, f]) = (
            id.to_be_bytes(),
            sequence.to_be_bytes(),
            count.to_be_bytes(),
        );
        ([a, b, c, d, e, f, 0, 0], payload)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_requests() {
        let datagram = [1, 2, 9, 9, 0, 1, 9, 9, b'm', b'n'];
        let whole = Datagram {
            id: 0x0102,
            payload: b"mn",
        };
        assert_eq!(parse(&datagram), Ok(whole));
        for short in 0..=HEADER_BYTES {
            assert_eq!(parse(&datagram[..short]), Err(Dropped::Short), "{short}");
        }
        for count in [[0, 0], [0, 2], [1, 1], [1, 0]] {
            let mut other = datagram;
            other[4..6].copy_from_slice(&count);
            assert_eq!(parse(&other), Err(Dropped::Partial), "{count:?}");
        }
    }

    #[test]
    fn replies_are_cut_and_numbered() {
        assert_eq!(datagrams(7, b"").map(Iterator::count), Some(0));
        for (len, count) in [
            (1, 1),
            (PAYLOAD_BYTES_MAX, 1),
            (PAYLOAD_BYTES_MAX + 1, 2),
            (20_000, 15),
        ] {
            let reply = vec![b'x'; len];
            let all: Vec<_> = datagrams(7, &reply).unwrap().collect();
            assert_eq!(all.len(), count);
            let joined: Vec<u8> = all
                .iter()
                .flat_map(|(_, part)| part.iter().copied())
                .collect();
            assert_eq!(joined, reply);
            for (sequence, (frame, part)) in all.iter().enumerate() {
                let (sequence, count) = (
                    u8::try_from(sequence).unwrap(),
                    u8::try_from(count).unwrap(),
                );
                assert_eq!(*frame, [0, 7, 0, sequence, 0, count, 0, 0]);
                assert!(part.len() + HEADER_BYTES <= DATAGRAM_BYTES_MAX);
            }
        }
        let longest = PAYLOAD_BYTES_MAX * usize::from(u16::MAX);
        assert!(datagrams(7, &vec![0; longest]).is_some());
        assert!(datagrams(7, &vec![0; longest + 1]).is_none());
    }
}
