//! Cuts request lines off a stream, with the original's limit on their length.
//!
//! Apart from [`crate::request`] because a line ends long before its meaning is known. Does not look at data blocks.

use memchr::memchr;

/// Longest command line without LF, in bytes, as the original: beyond it the peer speaks something else.
/// Policy: the connection is closed without a reply, unless the line is a multi-get.
pub const LINE_BYTES_MAX: usize = 2048;
/// Longest multi-get line in bytes. The original has no limit; 64 MiB is a quarter million keys of full length,
/// more than any client sends, and a bound on what a stranger can make the daemon hold. Policy: close.
pub const MULTIGET_LINE_BYTES_MAX: usize = 64 << 20;
/// Blanks that may precede `get ` on an over-long line and still count as a multi-get.
const LEADING_BLANKS_MAX: usize = 100;

/// What the front of a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// No LF yet; read more.
    Need,
    /// A line without its LF and without one CR before it; `consumed` bytes belong to it.
    Line {
        /// The line's text.
        line: &'a [u8],
        /// Bytes of the buffer it used, LF included.
        consumed: usize,
    },
    /// No LF within the limit: close the connection.
    TooLong,
}

/// Cuts the first line off `buf`, of which the first `scanned` bytes are known to hold no LF.
pub fn split(buf: &[u8], scanned: usize) -> Step<'_> {
    let tail = buf.get(scanned..).unwrap_or_default();
    match memchr(b'\n', tail) {
        // DIFFERS(memcached): the original takes a longer line if its LF came in the same read; here it does not matter how the stream was split.
        Some(at) if is_too_long(buf, scanned + at) => Step::TooLong,
        Some(at) => {
            let end = scanned + at;
            let line = buf.get(..end).unwrap_or_default();
            Step::Line {
                line: line.strip_suffix(b"\r").unwrap_or(line),
                consumed: end + 1,
            }
        }
        None if is_too_long(buf, buf.len()) => Step::TooLong,
        None => Step::Need,
    }
}

#[inline]
fn is_too_long(buf: &[u8], bytes: usize) -> bool {
    bytes > LINE_BYTES_MAX && !(is_multiget(buf) && bytes <= MULTIGET_LINE_BYTES_MAX)
}

fn is_multiget(buf: &[u8]) -> bool {
    let blanks = buf.iter().take_while(|byte| **byte == b' ').count();
    let rest = buf.get(blanks..).unwrap_or_default();
    // DIFFERS(memcached): gat and gats too, which the original takes at any length only if they come in one read.
    let verbs: [&[u8]; 4] = [b"get ", b"gets ", b"gat ", b"gats "];
    blanks <= LEADING_BLANKS_MAX && verbs.iter().any(|verb| rest.starts_with(verb))
}

/// Words of a line: bytes between blanks (0x20 only; TAB is an ordinary byte). Runs of blanks count as one.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// Reads the words of `line`.
    pub fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }

    /// The bytes no word was read from yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.rest.iter().position(|byte| *byte != b' ')?;
        let (_, rest) = self.rest.split_at_checked(start)?;
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (word, rest) = rest.split_at_checked(end)?;
        self.rest = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr_is_dropped_once() {
        assert_eq!(
            split(b"a\r\r\nb", 0),
            Step::Line {
                line: b"a\r",
                consumed: 4
            }
        );
        assert_eq!(
            split(b"a\nb", 0),
            Step::Line {
                line: b"a",
                consumed: 2
            }
        );
        assert_eq!(
            split(b"\r\n", 0),
            Step::Line {
                line: b"",
                consumed: 2
            }
        );
    }

    #[test]
    fn limit_at_minus_one_zero_plus_one() {
        let line = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(split(&line[..LINE_BYTES_MAX - 1], 0), Step::Need);
        assert_eq!(split(&line[..LINE_BYTES_MAX], 0), Step::Need);
        assert_eq!(split(&line, 0), Step::TooLong);
        // With its LF too, so that it does not matter how the bytes come.
        for (bytes, is_taken) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false)] {
            let mut line = vec![b'x'; bytes];
            line.push(b'\n');
            assert_eq!(matches!(split(&line, 0), Step::Line { .. }), is_taken);
        }
    }

    #[test]
    fn multigets_may_be_long() {
        let mut line = b" get ".to_vec();
        line.resize(900 << 10, b'k');
        assert_eq!(split(&line, 0), Step::Need);
        let mut other = vec![b' '; LEADING_BLANKS_MAX + 1];
        other.extend_from_slice(&line);
        assert_eq!(split(&other, 0), Step::TooLong);
    }

    #[test]
    fn words_skip_runs_of_blanks_and_keep_tabs() {
        let words: Vec<_> = Words::new(b"  a\tb  c ").collect();
        assert_eq!(words, [&b"a\tb"[..], b"c"]);
    }
}
