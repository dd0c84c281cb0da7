//! Names, numbers and lengths of the digests the protocol carries, and the `ALG:hex` form. Does not compute digests.

use std::fmt;

/// A digest algorithm, by its name on the wire and its number in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// `MD5`, 16 bytes, number 1.
    Md5,
    /// `SHA-1`, 20 bytes, number 2.
    Sha1,
    /// `SHA-224`, 28 bytes, number 3 (the original reserves the number but cannot read such rows).
    Sha224,
    /// `SHA-256`, 32 bytes, number 4.
    Sha256,
    /// `SHA-384`, 48 bytes, number 5.
    Sha384,
    /// `SHA-512`, 64 bytes, number 6.
    Sha512,
}

const TABLE: [(HashAlgorithm, &str, u8, usize); 6] = [
    (HashAlgorithm::Md5, "MD5", 1, 16),
    (HashAlgorithm::Sha1, "SHA-1", 2, 20),
    (HashAlgorithm::Sha224, "SHA-224", 3, 28),
    (HashAlgorithm::Sha256, "SHA-256", 4, 32),
    (HashAlgorithm::Sha384, "SHA-384", 5, 48),
    (HashAlgorithm::Sha512, "SHA-512", 6, 64),
];

impl HashAlgorithm {
    fn row(self) -> &'static (Self, &'static str, u8, usize) {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The number in `class.hashtype` and `checksum.hashtype`.
    #[must_use]
    pub fn number(self) -> u8 {
        self.row().2
    }

    /// Length of the digest in bytes.
    #[must_use]
    pub fn digest_bytes(self) -> usize {
        self.row().3
    }

    /// The algorithm called `name` (exact case).
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| row.1.as_bytes() == name)
            .map(|row| row.0)
    }

    /// The algorithm with the database number `number`.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| u64::from(row.2) == number)
            .map(|row| row.0)
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest and how it was made. `Display` is the wire form `MD5:5d41…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it was made.
    pub algorithm: HashAlgorithm,
    /// Raw digest, as long as the algorithm says.
    pub digest: Vec<u8>,
}

impl Checksum {
    /// Reads `ALG:hex`; `None` unless the algorithm is known and the digest has its length.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let colon = memchr::memchr(b':', text)?;
        let algorithm = HashAlgorithm::from_name(&text[..colon])?;
        let digest = from_hex(&text[colon + 1..])?;
        (digest.len() == algorithm.digest_bytes()).then_some(Self { algorithm, digest })
    }

    /// The digest as lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        to_hex(&self.digest)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            // Writing to a String cannot fail.
            let _done = write!(out, "{byte:02x}");
            out
        })
}

/// The bytes written as hexadecimal digits of either case; `None` for an odd count or another character.
#[must_use]
pub fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|&[high, low]| {
            let value = |digit: u8| {
                char::from(digit)
                    .to_digit(16)
                    .and_then(|value| u8::try_from(value).ok())
            };
            Some(value(high)? << 4 | value(low)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_round_trips() {
        let text = b"MD5:5d41402abc4b2a76b9719d911017c592";
        let checksum = Checksum::parse(text).expect("valid");
        assert_eq!(checksum.to_string().as_bytes(), text);
        assert_eq!(checksum.algorithm.number(), 1);
    }

    #[test]
    fn refuses_wrong_lengths_and_names() {
        for text in [
            &b"MD5:00"[..],
            b"MD5",
            b"md5:5d41402abc4b2a76b9719d911017c592",
            b"MD5:5d41402abc4b2a76b9719d911017c59z",
            b"SHA-1:5d41402abc4b2a76b9719d911017c592",
            b"",
        ] {
            assert_eq!(Checksum::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_algorithm_finds_itself() {
        for (algorithm, name, number, bytes) in TABLE {
            assert_eq!(HashAlgorithm::from_name(name.as_bytes()), Some(algorithm));
            assert_eq!(
                HashAlgorithm::from_number(u64::from(number)),
                Some(algorithm)
            );
            assert_eq!(algorithm.digest_bytes(), bytes);
        }
    }
}
