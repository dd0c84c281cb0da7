//! Decimal numbers in wire formats.
//!
//! Protocols disagree about what may surround a number, so there are two families: `parse_*` wants the whole slice to be the number, `parse_*_prefix` takes the
//! leading digits and says how many bytes they were. Neither accepts white space or `+`; overflow is `None`, never a wrapped or saturated value.

use bytes::{BufMut, BytesMut};

/// Digits of the longest `u64`, 18446744073709551615.
pub const U64_DIGITS_MAX: usize = 20;

/// The whole of `digits` as an unsigned number; `None` if it is empty, holds anything but `0`–`9`, or exceeds `u64::MAX`.
#[must_use]
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    let (value, len) = parse_u64_prefix(digits)?;
    (len == digits.len()).then_some(value)
}

/// The leading digits of `bytes` as a number and how many bytes they took; `None` without a digit or on overflow.
#[must_use]
pub fn parse_u64_prefix(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value: u64 = 0;
    let mut len = 0;
    for &byte in bytes.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
        len += 1;
    }
    (len > 0).then_some((value, len))
}

/// The whole of `bytes` as a signed number with an optional `-`; `None` as for [`parse_u64`].
#[must_use]
pub fn parse_i64(bytes: &[u8]) -> Option<i64> {
    match bytes.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(parse_u64(digits)?),
        None => i64::try_from(parse_u64(bytes)?).ok(),
    }
}

/// Appends `value` in decimal.
pub fn write_u64(out: &mut BytesMut, value: u64) {
    let mut digits = [0_u8; U64_DIGITS_MAX];
    out.put_slice(format_u64(value, &mut digits));
}

/// Appends `value` in decimal, with `-` if it is negative.
pub fn write_i64(out: &mut BytesMut, value: i64) {
    if value < 0 {
        out.put_u8(b'-');
    }
    write_u64(out, value.unsigned_abs());
}

/// `value` in decimal, written into the caller's array without allocating.
pub fn format_u64(mut value: u64, digits: &mut [u8; U64_DIGITS_MAX]) -> &[u8] {
    let mut start = U64_DIGITS_MAX;
    loop {
        start -= 1;
        let digit = (value % 10) as u8;
        digits[start] = b'0' + digit;
        value /= 10;
        if value == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_whole_numbers_only() {
        for (input, expected) in [
            (&b"0"[..], Some(0)),
            (b"007", Some(7)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"", None),
            (b"+1", None),
            (b"-1", None),
            (b" 1", None),
            (b"1 ", None),
            (b"0x1", None),
        ] {
            assert_eq!(parse_u64(input), expected, "{input:?}");
        }
    }

    #[test]
    fn signed_covers_both_ends() {
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"-9223372036854775809"), None);
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_i64(b"9223372036854775808"), None);
        assert_eq!(parse_i64(b"-"), None);
        assert_eq!(parse_i64(b"--1"), None);
    }

    #[test]
    fn prefix_says_where_it_stopped() {
        assert_eq!(parse_u64_prefix(b"42 rest"), Some((42, 2)));
        assert_eq!(parse_u64_prefix(b"x"), None);
    }

    proptest! {
        #[test]
        fn unsigned_round_trips(value: u64) {
            let mut out = BytesMut::new();
            write_u64(&mut out, value);
            prop_assert_eq!(String::from_utf8_lossy(&out), value.to_string());
            prop_assert_eq!(parse_u64(&out), Some(value));
        }

        #[test]
        fn signed_round_trips(value: i64) {
            let mut out = BytesMut::new();
            write_i64(&mut out, value);
            prop_assert_eq!(parse_i64(&out), Some(value));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _seen = (parse_u64(&bytes), parse_i64(&bytes), parse_u64_prefix(&bytes));
        }
    }
}
