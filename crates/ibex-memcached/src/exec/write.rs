//! Small writers for replies: numbers, values, percent-encoded keys.

use ibex_base::ascii::{U64_DIGITS_MAX, format_u64};

pub(crate) fn number(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; U64_DIGITS_MAX];
    out.extend_from_slice(format_u64(value, &mut digits));
}

pub(crate) fn signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    number(out, value.unsigned_abs());
}

/// Bytes outside `A-Za-z0-9-._~` as %XX.
pub(crate) fn url(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
}
