//! The chunked coding, both directions.
//!
//! Owns RFC 9112 section 7.1 in the strict reading. Apart from `framing` as a state machine with its own tests at every
//! split point. It drops extensions and trailers: nothing of a peer's chunk lines is ever passed on.

use std::fmt::Write as _;

use bytes::{Buf, Bytes, BytesMut};

use crate::framing::Step;
use crate::head::{Refusal, parse_field};

/// Which line ends are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnds {
    /// CRLF only: backends.
    CrLf,
    /// CRLF or a bare LF: clients, as for header lines.
    Any,
}

/// Extensions of one body in bytes, all chunks together. Nobody needs them; a peer that sends more is wasting our time.
const EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Hexadecimal digits of a chunk size: 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends one chunk. Empty data appends nothing, since an empty chunk would end the body.
pub fn encode(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    write!(out, "{:x}\r\n", data.len()).expect("a BytesMut grows");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

/// Decodes one chunked body.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    line_ends: LineEnds,
    extension_bytes: usize,
    trailer_bytes_left: usize,
}

const BAD_CHUNK: Refusal = Refusal::new(400, "Invalid chunk");

impl ChunkDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new(line_ends: LineEnds, trailer_bytes_max: usize) -> Self {
        Self {
            state: State::Size,
            line_ends,
            extension_bytes: 0,
            trailer_bytes_left: trailer_bytes_max,
        }
    }

    /// The next piece of the body that is in the buffer.
    ///
    /// # Errors
    /// 400 for any breach of the coding.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Step, Refusal> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = self.line(buffer, SIZE_DIGITS_MAX + EXTENSION_BYTES_MAX)?
                    else {
                        return Ok(Step::Need);
                    };
                    self.state = match self.size(&line)? {
                        0 => State::Trailer,
                        n => State::Data(n),
                    };
                }
                State::Data(left) => {
                    let take = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    if take == 0 {
                        return Ok(Step::Need);
                    }
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(Step::Data(buffer.split_to(take).freeze()));
                }
                State::DataEnd => {
                    if !self.data_end(buffer)? {
                        return Ok(Step::Need);
                    }
                    self.state = State::Size;
                }
                State::Trailer => {
                    let Some(line) = self.line(buffer, self.trailer_bytes_left)? else {
                        return Ok(Step::Need);
                    };
                    if line.is_empty() {
                        self.state = State::Done;
                    } else {
                        self.trailer_bytes_left =
                            self.trailer_bytes_left.saturating_sub(line.len());
                        parse_field(&line)?;
                    }
                }
                State::Done => return Ok(Step::End),
            }
        }
    }

    fn line(&self, buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, Refusal> {
        let Some(newline) = memchr::memchr(b'\n', buffer) else {
            return if buffer.len() > bytes_max {
                Err(BAD_CHUNK)
            } else {
                Ok(None)
            };
        };
        if newline > bytes_max + 1 {
            return Err(BAD_CHUNK);
        }
        let mut line = buffer.split_to(newline);
        buffer.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        } else if self.line_ends == LineEnds::CrLf {
            return Err(BAD_CHUNK);
        }
        Ok(Some(line.freeze()))
    }

    fn size(&mut self, line: &[u8]) -> Result<u64, Refusal> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits == 0 || digits > SIZE_DIGITS_MAX {
            return Err(BAD_CHUNK);
        }
        let size = line[..digits].iter().fold(0_u64, |n, b| {
            (n << 4) | u64::from(char::from(*b).to_digit(16).unwrap_or(0))
        });
        let rest = &line[digits..];
        let behind = crate::head::trim_blanks(rest);
        let well_formed = behind.is_empty() || behind[0] == b';';
        if !well_formed
            || rest
                .iter()
                .any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f)
            || size > i64::MAX as u64
        {
            return Err(BAD_CHUNK);
        }
        self.extension_bytes += rest.len();
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(BAD_CHUNK);
        }
        Ok(size)
    }

    fn data_end(&self, buffer: &mut BytesMut) -> Result<bool, Refusal> {
        let take = match (buffer.first(), buffer.get(1)) {
            (Some(b'\r'), Some(b'\n')) => 2,
            (Some(b'\n'), _) if self.line_ends == LineEnds::Any => 1,
            (None, _) | (Some(b'\r'), None) => return Ok(false),
            _ => return Err(BAD_CHUNK),
        };
        buffer.advance(take);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes the text given in pieces; `None` when it is incomplete.
    fn decode(
        text: &[u8],
        line_ends: LineEnds,
        step: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        let mut decoder = ChunkDecoder::new(line_ends, 100);
        let (mut buffer, mut out, mut fed) = (BytesMut::new(), Vec::new(), 0);
        loop {
            match decoder.next(&mut buffer)? {
                Step::Data(data) => out.extend_from_slice(&data),
                Step::End => return Ok(Some((out, text.len() - fed + buffer.len()))),
                Step::Need if fed == text.len() => return Ok(None),
                Step::Need => {
                    let end = text.len().min(fed + step);
                    buffer.extend_from_slice(&text[fed..end]);
                    fed = end;
                }
            }
        }
    }

    #[test]
    fn decodes_at_every_split() {
        let text = b"5;x=y\r\nhello\r\n00001 \r\n!\r\n0\r\nA: b\r\n\r\nnext";
        for step in 1..=text.len() {
            let (body, rest) = decode(text, LineEnds::CrLf, step).unwrap().unwrap();
            assert_eq!((&body[..], rest), (&b"hello!"[..], 4), "step {step}");
        }
        assert_eq!(
            decode(b"1\na\n0\n\n", LineEnds::Any, 1).unwrap().unwrap().0,
            b"a"
        );
    }

    #[test]
    fn refuses_broken_chunks() {
        for text in [
            "x\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            " 5\r\nhello",
            "5 5\r\n",
            "\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\rX",
            "1\na\r\n",
            "11111111111111111\r\n",
            "ffffffffffffffff\r\n",
            "5;\u{1}\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "+5\r\nhello",
        ] {
            assert!(
                decode(text.as_bytes(), LineEnds::CrLf, 1).is_err(),
                "{text:?}"
            );
        }
        let long = format!("1;{}\r\na\r\n", "e".repeat(5000));
        assert!(decode(long.as_bytes(), LineEnds::CrLf, 64).is_err());
        let trailers = format!("0\r\nA: {}\r\n\r\n", "e".repeat(200));
        assert!(decode(trailers.as_bytes(), LineEnds::CrLf, 64).is_err());
    }

    proptest! {
        #[test]
        fn encode_then_decode_is_identity(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), step in 1_usize..97) {
            let mut out = BytesMut::new();
            for piece in &pieces {
                encode(&mut out, piece);
            }
            out.extend_from_slice(LAST_CHUNK);
            let (body, rest) = decode(&out, LineEnds::CrLf, step).unwrap().unwrap();
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(rest, 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..9) {
            drop(decode(&bytes, LineEnds::Any, step));
        }
    }
}
