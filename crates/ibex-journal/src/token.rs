//! Random names for sessions and keys, digests, and form tokens.
//!
//! Apart because it is the only use of the system's random numbers. Tokens are compared in constant time.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `length` letters and digits, each one of 62 with equal chance.
#[must_use]
pub fn random(length: usize) -> String {
    let mut out = String::with_capacity(length);
    while out.len() < length {
        for byte in bytes::<64>() {
            // 248 is the largest multiple of 62 in a byte; above it the letters would not be equally likely.
            if byte < 248 && out.len() < length {
                out.push(char::from(LETTERS[usize::from(byte % 62)]));
            }
        }
    }
    out
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("a system that runs this has random numbers");
    out
}

/// One byte, 0 to 255.
#[must_use]
pub fn random_byte() -> u8 {
    bytes::<1>()[0]
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256(text: &[u8]) -> String {
    hex(&Sha256::digest(text))
}

/// MD5 in hexadecimal, for file names and the old protocols.
#[must_use]
pub fn md5(text: &[u8]) -> String {
    hex(&md5::Md5::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            for half in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
            }
            out
        })
}

/// The form token of whoever is known by `base`: his session, or the cookie of a visitor.
#[must_use]
pub fn form(secret: &[u8], base: &str) -> String {
    let mut mac = <Hmac<Sha256>>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(b"form:");
    mac.update(base.as_bytes());
    hex(&mac.finalize().into_bytes())
}

/// Whether `given` is that token.
#[must_use]
pub fn is_form(secret: &[u8], base: &str, given: &str) -> bool {
    same(form(secret, base).as_bytes(), given.as_bytes())
}

/// Equality whose time does not tell where they differ.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_known_ones() {
        assert_eq!(md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_form_token_is_good_for_its_base_only() {
        let token = form(b"secret", "one");
        assert!(is_form(b"secret", "one", &token));
        assert!(!is_form(b"secret", "two", &token));
        assert!(!is_form(b"other", "one", &token));
        assert!(!is_form(b"secret", "one", ""));
    }

    #[test]
    fn random_names_have_their_length_and_differ() {
        assert_eq!(random(22).len(), 22);
        assert_ne!(random(22), random(22));
    }
}
