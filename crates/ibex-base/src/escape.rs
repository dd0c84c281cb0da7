//! Bytes from strangers, made safe for a log line or an error message.
//!
//! Keys, function names and paths are bytes, not text. Printed raw they could forge log lines or move a terminal's cursor; printed with `{:?}` they
//! are lists of
//! numbers. [`Escaped()`] prints printable ASCII as it is and everything else as `\xNN`, in one line, cut at a stated length.

use std::fmt;

/// Bytes that are shown as printable ASCII with `\xNN` for the rest. A backslash is doubled, so the text reads back unambiguously.
#[derive(Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    shown: usize,
}

#[expect(
    non_snake_case,
    reason = "reads as a wrapper type at the call site: Escaped(key)"
)]
/// All of `bytes`, escaped.
#[must_use]
pub fn Escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped {
        bytes,
        shown: bytes.len(),
    }
}

impl<'a> Escaped<'a> {
    /// At most the first `bytes_max` bytes, followed by `…` and the full length if something was cut.
    #[must_use]
    pub fn cut(self, bytes_max: usize) -> Self {
        Self {
            shown: self.shown.min(bytes_max),
            ..self
        }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.bytes[..self.shown] {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.shown < self.bytes.len() {
            write!(f, "…({} bytes)", self.bytes.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_printable_ascii() {
        assert_eq!(Escaped(b"user:42").to_string(), "user:42");
        assert_eq!(
            Escaped(b"a\r\nERROR \x1b[2J\\").to_string(),
            "a\\x0d\\x0aERROR \\x1b[2J\\\\"
        );
        assert_eq!(Escaped("é".as_bytes()).to_string(), "\\xc3\\xa9");
    }

    #[test]
    fn cut_says_how_long_it_was() {
        assert_eq!(Escaped(b"abcdef").cut(3).to_string(), "abc…(6 bytes)");
        assert_eq!(Escaped(b"abc").cut(3).to_string(), "abc");
    }
}
