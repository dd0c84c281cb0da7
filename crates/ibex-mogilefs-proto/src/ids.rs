//! The two numbers that travel on the wire as more than numbers: file ids and device ids. Apart so that a signature cannot mix them up. Does not know
//! where they come from.

use std::fmt;

/// One immutable version of a file. Never 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid(pub u64);

/// One disk of the cluster. Never 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId(pub u32);

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DevId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Fid {
    /// The decimal number in `digits`; `None` for 0 and for anything that is not a number of 64 bits.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        ibex_base::ascii::parse_u64(digits)
            .filter(|&fid| fid > 0)
            .map(Self)
    }
}

impl DevId {
    /// Largest number a `MEDIUMINT UNSIGNED` column holds.
    pub const MAX: u32 = 16_777_215;

    /// The decimal number in `digits`; `None` for 0 and for numbers the database's column cannot hold.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let number = u32::try_from(ibex_base::ascii::parse_u64(digits)?).ok()?;
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_overflow_are_no_ids() {
        assert_eq!(Fid::parse(b"0"), None);
        assert_eq!(Fid::parse(b"18446744073709551616"), None);
        assert_eq!(Fid::parse(b"-1"), None);
        assert_eq!(Fid::parse(b"18446744073709551615"), Some(Fid(u64::MAX)));
        assert_eq!(DevId::parse(b"16777216"), None);
        assert_eq!(DevId::parse(b"16777215"), Some(DevId(DevId::MAX)));
    }
}
