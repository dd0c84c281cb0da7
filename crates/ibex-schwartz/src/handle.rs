//! Job handles: `md5hex(dsn "|" user) "-" jobid`, equal as strings with those of the Perl library.
//!
//! Apart because handles travel outside and must be parsed without trust. It knows no database.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;

/// Names one job of one database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    hash: String,
    jobid: u64,
}

impl Handle {
    pub(crate) fn new(hash: &str, jobid: u64) -> Self {
        Self {
            hash: hash.to_owned(),
            jobid,
        }
    }

    /// 32 hex digits that name the database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.hash
    }

    /// The job's number there.
    #[must_use]
    pub fn jobid(&self) -> u64 {
        self.jobid
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.jobid)
    }
}

impl FromStr for Handle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad =
            || Error::Invalid("a handle is 32 hex digits, a dash and a job number".to_owned());
        let (hash, number) = text.split_once('-').ok_or_else(bad)?;
        let is_hash = hash.len() == 32
            && hash
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let is_number = !number.is_empty()
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit());
        let jobid = number
            .parse()
            .ok()
            .filter(|jobid| *jobid <= i64::MAX.unsigned_abs());
        match jobid {
            Some(jobid) if is_hash && is_number => Ok(Self::new(hash, jobid)),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_handles_are_refused() {
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(format!("{hash}-7").parse::<Handle>().unwrap().jobid(), 7);
        let long = format!("{hash}-9223372036854775808");
        let zero = format!("{hash}-07");
        let sign = format!("{hash}-+7");
        for text in [
            "",
            "-",
            "7",
            "xyz-7",
            hash,
            &format!("{hash}-"),
            &format!("{hash}-0"),
            &zero,
            &long,
            &sign,
            &format!("{}-7", hash.to_uppercase()),
        ] {
            assert!(text.parse::<Handle>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_handles_parse_back(jobid in 1..=i64::MAX.unsigned_abs(), hash in "[0-9a-f]{32}") {
            let handle = Handle::new(&hash, jobid);
            prop_assert_eq!(handle.to_string().parse::<Handle>().unwrap(), handle);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            drop(text.parse::<Handle>());
        }
    }
}
