//! URL-encoding as the tracker protocol uses it, and ordered lists of `name=value` pairs.
//!
//! Apart because both directions share it. Values are bytes: nothing here assumes UTF-8. Names a caller asks for are ASCII.

use bytes::{BufMut, BytesMut};

/// Appends `raw` encoded: letters, digits and `_ , - . / \ :` stay, a blank becomes `+`, everything else `%XX` with upper-case digits.
///
/// COMPAT(mogilefsd): clients exist that never decode a value and that split a pair on every `=`, so the set of bytes left alone is fixed by them.
pub fn encode(raw: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in raw {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'_'
            | b','
            | b'-'
            | b'.'
            | b'/'
            | b'\\'
            | b':' => out.put_u8(byte),
            b' ' => out.put_u8(b'+'),
            _ => out.put_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
}

/// The bytes that `encoded` stands for. A `%` that is not followed by two hexadecimal digits stays as it is.
#[must_use]
pub fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => out.push(b' '),
            b'%' => match tail {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    out.push(hex_value(*high) << 4 | hex_value(*low));
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            _ => out.push(byte),
        }
    }
    out
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10) & 15,
    }
}

/// Named values in the order they were given. Names are unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pairs {
    /// No pairs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `name=value&name=value`. Empty pairs are skipped; a pair without `=` has an empty value; the values of a repeated name are joined with
    /// NUL, in order.
    #[must_use]
    pub fn decode(args: &[u8]) -> Self {
        let mut pairs = Self::new();
        for pair in args
            .split(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = match memchr::memchr(b'=', pair) {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            pairs.add(decode(name), decode(value));
        }
        pairs
    }

    /// Appends the pairs in wire form.
    pub fn encode(&self, out: &mut BytesMut) {
        for (index, (name, value)) in self.pairs.iter().enumerate() {
            if index > 0 {
                out.put_u8(b'&');
            }
            encode(name, out);
            out.put_u8(b'=');
            encode(value, out);
        }
    }

    fn add(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match self.pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => {
                earlier.push(0);
                earlier.extend_from_slice(&value);
            }
            None => self.pairs.push((name, value)),
        }
    }

    /// Appends a pair; the caller does not repeat names.
    pub fn push(&mut self, name: impl Into<String>, value: impl AsRef<[u8]>) {
        self.pairs
            .push((name.into().into_bytes(), value.as_ref().to_vec()));
    }

    /// Like [`Pairs::push`], for building in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value);
        self
    }

    /// Like [`Pairs::push`] with a number in decimal.
    #[must_use]
    pub fn with_number(self, name: impl Into<String>, value: u64) -> Self {
        self.with(name, value.to_string())
    }

    /// The value of `name`, which may be empty; `None` when the name is absent.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.pairs
            .iter()
            .find(|(known, _)| known == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// The value of `name` unless it is absent or empty. (`"0"` is a value.)
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&[u8]> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// The value of `name` as an unsigned number; `None` when absent, empty, or not a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        ibex_base::ascii::parse_u64(self.value(name)?)
    }

    /// Whether `name` has a value that Perl calls true: neither absent, nor empty, nor `"0"`.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.filled(name).is_some_and(|value| value != b"0")
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(raw: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(raw, &mut out);
        out.to_vec()
    }

    #[test]
    fn leaves_urls_readable() {
        assert_eq!(
            encoded(b"http://10.0.0.1:7500/dev1/0/000/000/0000000001.fid"),
            b"http://10.0.0.1:7500/dev1/0/000/000/0000000001.fid"
        );
        assert_eq!(encoded(b"a b=c&d\xff"), b"a+b%3Dc%26d%FF");
    }

    #[test]
    fn decodes_either_case_and_keeps_broken_escapes() {
        assert_eq!(decode(b"%2f%2F+%zz%4"), b"// %zz%4");
        assert_eq!(decode(b"%"), b"%");
    }

    #[test]
    fn pairs_follow_the_original() {
        let pairs = Pairs::decode(b"=&=&a=b=c&&flag&k=1&k=2");
        assert_eq!(pairs.value("a"), Some(&b"b=c"[..]));
        assert_eq!(pairs.value("flag"), Some(&b""[..]));
        assert_eq!(pairs.filled("flag"), None);
        assert_eq!(pairs.value("k"), Some(&b"1\x002"[..]));
        assert_eq!(pairs.value("missing"), None);
        assert!(Pairs::decode(b"a=1").is_set("a"));
        assert!(!Pairs::decode(b"a=0").is_set("a"));
    }

    proptest! {
        #[test]
        fn value_round_trips(raw: Vec<u8>) {
            let wire = encoded(&raw);
            prop_assert!(!wire.contains(&b'=') && !wire.contains(&b'&') && !wire.contains(&b'\n'));
            prop_assert_eq!(decode(&wire), raw);
        }

        #[test]
        fn decoding_never_panics(raw: Vec<u8>) {
            let _pairs = Pairs::decode(&raw);
        }

        #[test]
        fn pairs_round_trip(values: Vec<Vec<u8>>) {
            let mut pairs = Pairs::new();
            for (index, value) in values.iter().enumerate() {
                pairs.push(format!("k{index}"), value);
            }
            let mut wire = BytesMut::new();
            pairs.encode(&mut wire);
            prop_assert_eq!(Pairs::decode(&wire), pairs);
        }
    }
}
