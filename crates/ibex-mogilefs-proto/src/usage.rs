//! The `devN/usage` file: a node writes it, trackers read it to learn how full a disk is.
//!
//! Owns the line format (`key: value`, sorted by key) and its reading with mistrust: a half-written or nonsensical file is `None`, never a wrong number.

use ibex_base::ascii::parse_u64;

/// Contents of a usage file. Sizes are KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Free for files, KiB; space reserved for the superuser is excluded.
    pub available_kib: u64,
    /// In use, KiB.
    pub used_kib: u64,
    /// `used + available`, KiB.
    pub total_kib: u64,
    /// Block device behind the directory, such as `/dev/sdb1`.
    pub device: String,
    /// Mount point, or the directory when it is none.
    pub disk: String,
    /// When the numbers were taken, seconds since 1970.
    pub time: u64,
}

impl Usage {
    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let percent = (self.used_kib * 100)
            .checked_div(self.total_kib)
            .unwrap_or(0);
        format!(
            "available: {}\ndevice: {}\ndisk: {}\ntime: {}\ntotal: {}\nuse: {percent}%\nused: {}\n",
            self.available_kib, self.device, self.disk, self.time, self.total_kib, self.used_kib
        )
    }

    /// Reads the text; unknown lines are skipped. `None` without a positive `total` and a `used`, or when they are not numbers.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let field = |name: &str| {
            text.split(|&byte| byte == b'\n').find_map(|line| {
                let rest = line
                    .trim_ascii()
                    .strip_prefix(name.as_bytes())?
                    .strip_prefix(b":")?;
                Some(rest.trim_ascii())
            })
        };
        let number = |name| field(name).and_then(parse_u64);
        let string = |name| {
            field(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
                .unwrap_or_default()
        };
        let total_kib = number("total").filter(|&total| total > 0)?;
        let used_kib = number("used")?;
        Some(Self {
            available_kib: number("available")
                .unwrap_or_else(|| total_kib.saturating_sub(used_kib)),
            used_kib,
            total_kib,
            device: string("device"),
            disk: string("disk"),
            time: number("time").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_writes() {
        let usage = Usage {
            available_kib: 820,
            used_kib: 180,
            total_kib: 1000,
            device: "/dev/sdb1".into(),
            disk: "/var/mogdata/dev1".into(),
            time: 1_700_000_000,
        };
        assert!(usage.encode().contains("use: 18%\n"));
        assert_eq!(Usage::parse(usage.encode().as_bytes()), Some(usage));
    }

    #[test]
    fn nonsense_is_no_usage() {
        for text in [
            &b""[..],
            b"total: 0\nused: 0\n",
            b"total: x\nused: 1\n",
            b"total: 5\n",
            b"used: 5\n",
            b"\xff\xfe\n",
        ] {
            assert_eq!(Usage::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: Vec<u8>) {
            let _usage = Usage::parse(&text);
        }
    }
}
