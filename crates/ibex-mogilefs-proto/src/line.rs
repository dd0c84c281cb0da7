//! Framing of the tracker port: LF-ended lines, and the three kinds of them.
//!
//! Owns where a request ends and what kind it is; the pairs inside are decoded by [`crate::Pairs`]. Borrows from the caller's buffer and copies nothing.

use memchr::memchr;

/// Longest request line in bytes, without its line end. Keys of 70 kB were seen; a megabyte bounds what a stranger can make the tracker buffer.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What the buffer holds so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// No complete line yet.
    Need,
    /// One line without its CR and LF, and how many bytes of the buffer it took.
    Frame {
        /// The line's bytes.
        line: &'a [u8],
        /// Bytes to drop from the front of the buffer.
        consumed: usize,
    },
}

/// Why a connection's bytes cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The line exceeds the limit; the connection must be closed after the reply.
    #[error("request longer than {0} bytes")]
    TooLong(usize),
}

/// Finds the first line in `buf`; `bytes_max` bounds its length.
///
/// # Errors
/// [`LineError::TooLong`] when the line is longer than the limit, whether or not its end was seen.
pub fn split_line(buf: &[u8], bytes_max: usize) -> Result<Step<'_>, LineError> {
    let Some(end) = memchr(b'\n', buf) else {
        return if buf.len() > bytes_max {
            Err(LineError::TooLong(bytes_max))
        } else {
            Ok(Step::Need)
        };
    };
    let line = &buf[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > bytes_max {
        return Err(LineError::TooLong(bytes_max));
    }
    Ok(Step::Frame {
        line,
        consumed: end + 1,
    })
}

/// One line a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Nothing; gets no reply.
    Empty,
    /// `!name rest` of the admin console, both without surrounding blanks.
    Console {
        /// The word after `!`.
        name: &'a [u8],
        /// The rest of the line.
        args: &'a [u8],
    },
    /// A command and its undecoded arguments. The name is empty when the line does not start with a word.
    Command {
        /// Word characters only, any case.
        name: &'a [u8],
        /// What follows the blanks after the name.
        args: &'a [u8],
    },
}

impl<'a> Line<'a> {
    /// Sorts a line (without line end) into its kind.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        if let Some(console) = line.strip_prefix(b"!") {
            let (name, args) = split_word(console.trim_ascii());
            return Self::Console { name, args };
        }
        let line = line.trim_ascii_start();
        if line.is_empty() {
            return Self::Empty;
        }
        let word_end = line
            .iter()
            .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
            .unwrap_or(line.len());
        let (name, args) = line.split_at(word_end);
        Self::Command {
            name,
            args: args.trim_ascii_start(),
        }
    }
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(u8::is_ascii_whitespace) {
        Some(at) => (&text[..at], text[at..].trim_ascii_start()),
        None => (text, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_ends_at_lf_and_loses_one_cr() {
        assert_eq!(
            split_line(b"noop\r\nrest", 100),
            Ok(Step::Frame {
                line: b"noop",
                consumed: 6
            })
        );
        assert_eq!(
            split_line(b"noop\nrest", 100),
            Ok(Step::Frame {
                line: b"noop",
                consumed: 5
            })
        );
        assert_eq!(split_line(b"noop", 100), Ok(Step::Need));
        assert_eq!(split_line(b"", 100), Ok(Step::Need));
        assert_eq!(split_line(b"12345", 4), Err(LineError::TooLong(4)));
        assert_eq!(split_line(b"12345\n", 4), Err(LineError::TooLong(4)));
    }

    #[test]
    fn kinds_of_lines() {
        assert_eq!(Line::parse(b"   "), Line::Empty);
        assert_eq!(
            Line::parse(b"  NOOP"),
            Line::Command {
                name: b"NOOP",
                args: b""
            }
        );
        assert_eq!(
            Line::parse(b"noop a=1"),
            Line::Command {
                name: b"noop",
                args: b"a=1"
            }
        );
        assert_eq!(
            Line::parse(b"%%% x"),
            Line::Command {
                name: b"",
                args: b"%%% x"
            }
        );
        assert_eq!(
            Line::parse(b"!want 2 delete"),
            Line::Console {
                name: b"want",
                args: b"2 delete"
            }
        );
        assert_eq!(
            Line::parse(b"!"),
            Line::Console {
                name: b"",
                args: b""
            }
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _step = split_line(&bytes, 16);
            let _line = Line::parse(&bytes);
        }

        #[test]
        fn any_prefix_needs_more(word in "[a-z_]{1,40}") {
            let whole = format!("{word} a=b\r\n");
            for cut in 0..whole.len() - 1 {
                prop_assert_eq!(split_line(&whole.as_bytes()[..cut], 100), Ok(Step::Need));
            }
        }
    }
}
