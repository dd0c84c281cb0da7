//! Where a file id lives below a device, and the URL of it.
//!
//! Owns the directory arithmetic both sides must agree on forever: the tracker computes these paths, nodes store under them, the recovery tools parse
//! them back.
//!
//! A file id is padded with zeros to ten digits; its digits 1, 2–4 and 5–7 are the directories. Longer ids are not padded and their *first* ten digits decide.

use crate::ids::{DevId, Fid};
use std::fmt;

/// Path of one replica below the node's document root, as `/dev5/0/001/234/0001234567.fid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FidPath {
    /// The disk.
    pub device: DevId,
    /// The file.
    pub fid: Fid,
}

impl FidPath {
    /// Path of `fid` on `device`.
    #[must_use]
    pub const fn new(device: DevId, fid: Fid) -> Self {
        Self { device, fid }
    }

    /// The directories above the file, outermost first, each with a trailing slash: what MKCOL is sent for.
    #[must_use]
    pub fn directories(self) -> [String; 3] {
        let digits = padded(self.fid);
        let device = self.device;
        let (b, mmm, ttt) = (&digits[..1], &digits[1..4], &digits[4..7]);
        [
            format!("/dev{device}/{b}/"),
            format!("/dev{device}/{b}/{mmm}/"),
            format!("/dev{device}/{b}/{mmm}/{ttt}/"),
        ]
    }

    /// Reads a path back; `None` unless it is exactly what [`FidPath`]'s `Display` prints.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/dev")?;
        let (device, rest) = rest.split_once('/')?;
        let name = rest.rsplit('/').next()?.strip_suffix(".fid")?;
        let found = Self {
            device: DevId::parse(device.as_bytes())?,
            fid: Fid::parse(name.as_bytes())?,
        };
        (found.to_string() == path).then_some(found)
    }

    /// URL of the replica on the node at `host` (an IPv4 address or name) and `port`.
    #[must_use]
    pub fn url(self, host: &str, port: u16) -> String {
        format!("http://{host}:{port}{self}")
    }
}

impl fmt::Display for FidPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = padded(self.fid);
        write!(
            f,
            "/dev{}/{}/{}/{}/{digits}.fid",
            self.device,
            &digits[..1],
            &digits[1..4],
            &digits[4..7]
        )
    }
}

fn padded(fid: Fid) -> String {
    format!("{:010}", fid.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn recorded_paths() {
        for (fid, expected) in [
            (1, "/dev5/0/000/000/0000000001.fid"),
            (1_234_567, "/dev5/0/001/234/0001234567.fid"),
            (4_000_000_000, "/dev5/4/000/000/4000000000.fid"),
            (12_345_678_901, "/dev5/1/234/567/12345678901.fid"),
        ] {
            assert_eq!(FidPath::new(DevId(5), Fid(fid)).to_string(), expected);
        }
        assert_eq!(
            FidPath::new(DevId(5), Fid(1_234_567)).directories(),
            ["/dev5/0/", "/dev5/0/001/", "/dev5/0/001/234/"]
        );
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "/dev5/0/000/000/1.fid",
            "/dev05/0/000/000/0000000001.fid",
            "/dev5/1/000/000/0000000001.fid",
            "/dev5/usage",
            "",
            "/dev/0/000/000/0000000001.fid",
        ] {
            assert_eq!(FidPath::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(device in 1..=DevId::MAX, fid in 1..=u64::MAX) {
            let path = FidPath::new(DevId(device), Fid(fid));
            prop_assert_eq!(FidPath::parse(&path.to_string()), Some(path));
        }
    }
}
