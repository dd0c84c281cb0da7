//! The storage node's side channel: sizes, digests and disk load, as lines, both directions.
//!
//! Owns the grammar; answers are made by the node from its disks. `caps` and `list` are additions; nodes of the original answer `ERROR: unknown command`, and a
//! tracker that sees `ERROR ` falls back to plain HTTP.

use crate::checksum::{Checksum, HashAlgorithm, from_hex};
use crate::ids::{DevId, Fid};
use ibex_base::ascii::{parse_i64, parse_u64};
use ibex_base::escape::Escaped;

/// Longest side-channel request in bytes.
pub const SIDE_REQUEST_BYTES_MAX: usize = 4096;

/// Most lines one `list` answers.
pub const LIST_COUNT_MAX: u64 = 10_000;

/// A request to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SideRequest<'a> {
    /// An empty line, answered with an empty line.
    Empty,
    /// `size PATH`
    Size(&'a str),
    /// `MD5 PATH [reason]`
    Digest {
        /// Which digest.
        algorithm: HashAlgorithm,
        /// Of which file.
        path: &'a str,
        /// `fsck` asks for background priority.
        reason: Option<&'a str>,
    },
    /// `watch`: disk load every second until the connection ends.
    Watch,
    /// `shutdown` or `shutdown graceful`
    Shutdown,
    /// `server aio_threads = N`, accepted and without effect.
    ServerSetting,
    /// `caps`: which requests this node understands.
    Caps,
    /// `list DEV FROM COUNT`: files of a device by id.
    List {
        /// The disk.
        device: DevId,
        /// Ids above this one.
        after: u64,
        /// At most so many, up to [`LIST_COUNT_MAX`].
        count: u64,
    },
    /// A request refused by its form alone, with the complete answer.
    Refused(String),
}

impl<'a> SideRequest<'a> {
    /// Reads one line (without its end).
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        let Ok(text) = std::str::from_utf8(line) else {
            return Self::unknown(line);
        };
        let mut words = text.split_ascii_whitespace();
        let Some(first) = words.next() else {
            return Self::Empty;
        };
        let rest: Vec<&str> = words.collect();
        match (first, rest.as_slice()) {
            ("size", [path]) => checked(path).map_or_else(Self::Refused, Self::Size),
            ("watch", []) => Self::Watch,
            ("shutdown", [] | ["graceful"]) => Self::Shutdown,
            ("server", [setting, ..]) if setting.starts_with("aio_threads") => Self::ServerSetting,
            ("caps", []) => Self::Caps,
            ("list", [device, after, count]) => Self::list(line, device, after, count),
            (name, [path, reason @ ..]) if reason.len() <= 1 => {
                match HashAlgorithm::from_name(name.as_bytes()) {
                    Some(algorithm) => match checked(path) {
                        Ok(path) => Self::Digest {
                            algorithm,
                            path,
                            reason: reason.first().copied(),
                        },
                        Err(answer) => Self::Refused(answer),
                    },
                    None => Self::unknown(line),
                }
            }
            _ => Self::unknown(line),
        }
    }

    fn list(line: &[u8], device: &str, after: &str, count: &str) -> Self {
        let device = DevId::parse(device.trim_start_matches("dev").as_bytes());
        match (
            device,
            parse_u64(after.as_bytes()),
            parse_u64(count.as_bytes()),
        ) {
            (Some(device), Some(after), Some(count)) => Self::List {
                device,
                after,
                count: count.min(LIST_COUNT_MAX),
            },
            _ => Self::unknown(line),
        }
    }

    fn unknown(line: &[u8]) -> Self {
        Self::Refused(format!(
            "ERROR: unknown command: {}",
            Escaped(line).cut(200)
        ))
    }
}

/// The path of a file on a node, or the answer refusing it.
fn checked(path: &str) -> Result<&str, String> {
    if path.contains("..") {
        return Err("ERROR: uri invalid (contains ..)".into());
    }
    match path.starts_with('/') {
        true => Ok(path),
        false => Err("ERROR: uri invalid (no leading /)".into()),
    }
}

/// The answer to `size`: bytes, or `None` for a missing file.
#[must_use]
pub fn size_answer(path: &str, size: Option<u64>) -> String {
    size.map_or_else(|| format!("{path} -1"), |size| format!("{path} {size}"))
}

/// The answer to a digest request: the digest, or `None` for a missing file.
#[must_use]
pub fn digest_answer(path: &str, algorithm: HashAlgorithm, digest: Option<&Checksum>) -> String {
    digest.map_or_else(
        || format!("{path} {algorithm}=-1"),
        |sum| format!("{path} {algorithm}={}", sum.hex()),
    )
}

/// One line of `watch`: the device and its utilization in percent, or `None` where the kernel keeps no figures.
#[must_use]
pub fn watch_line(device: DevId, percent: Option<f64>) -> String {
    percent.map_or_else(
        || format!("{device}\t-"),
        |percent| format!("{device}\t{percent:.2}"),
    )
}

/// What a node said about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SideAnswer {
    /// Its size in bytes.
    Size(u64),
    /// Its digest.
    Digest(Checksum),
    /// There is no such file.
    Missing,
    /// The node does not know the request, or could not do it; use HTTP instead.
    Unsupported,
}

impl SideAnswer {
    /// Reads the answer line to a size or digest request for `path`; `None` when it is about something else, so that the connection must be dropped.
    #[must_use]
    pub fn parse(line: &[u8], path: &str) -> Option<Self> {
        if line.starts_with(b"ERR") {
            return Some(Self::Unsupported);
        }
        let value = line.strip_prefix(path.as_bytes())?.strip_prefix(b" ")?;
        if let Some(size) = parse_i64(value) {
            return Some(u64::try_from(size).map_or(Self::Missing, Self::Size));
        }
        let equals = memchr::memchr(b'=', value)?;
        let algorithm = HashAlgorithm::from_name(&value[..equals])?;
        match &value[equals + 1..] {
            b"-1" => Some(Self::Missing),
            hex => from_hex(hex)
                .filter(|digest| digest.len() == algorithm.digest_bytes())
                .map(|digest| Self::Digest(Checksum { algorithm, digest })),
        }
    }
}

/// Reads a line of `watch`: a device and its load; `None` for the `.` that ends a round and for anything else.
#[must_use]
pub fn parse_watch_line(line: &[u8]) -> Option<(DevId, Option<f64>)> {
    let tab = memchr::memchr(b'\t', line)?;
    let device = DevId::parse(&line[..tab])?;
    let percent = std::str::from_utf8(&line[tab + 1..]).ok()?.trim();
    match percent {
        "-" => Some((device, None)),
        number => number
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite())
            .map(|value| (device, Some(value))),
    }
}

/// One line of `list`.
#[must_use]
pub fn list_line(fid: Fid, size: u64, modified: u64) -> String {
    format!("{fid} {size} {modified}")
}

/// Reads a line of `list`: file, bytes, seconds since 1970.
#[must_use]
pub fn parse_list_line(line: &[u8]) -> Option<(Fid, u64, u64)> {
    let mut words = line.split(|&byte| byte == b' ');
    let found = (
        Fid::parse(words.next()?)?,
        parse_u64(words.next()?)?,
        parse_u64(words.next()?)?,
    );
    words.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn recorded_requests() {
        let path = "/dev1/0/000/000/0000000781.fid";
        assert_eq!(
            SideRequest::parse(format!("size {path}").as_bytes()),
            SideRequest::Size(path)
        );
        assert_eq!(
            SideRequest::parse(format!("MD5 {path} fsck").as_bytes()),
            SideRequest::Digest {
                algorithm: HashAlgorithm::Md5,
                path,
                reason: Some("fsck")
            }
        );
        assert_eq!(
            SideRequest::parse(b"size /dev1/../x"),
            SideRequest::Refused("ERROR: uri invalid (contains ..)".into())
        );
        assert_eq!(
            SideRequest::parse(b"foo"),
            SideRequest::Refused("ERROR: unknown command: foo".into())
        );
        assert_eq!(
            SideRequest::parse(b"server aio_threads = 4"),
            SideRequest::ServerSetting
        );
        assert_eq!(
            SideRequest::parse(b"shutdown graceful"),
            SideRequest::Shutdown
        );
        assert_eq!(SideRequest::parse(b""), SideRequest::Empty);
    }

    #[test]
    fn answers_round_trip() {
        let path = "/dev1/0/000/000/0000000781.fid";
        let sum = Checksum::parse(b"MD5:5d41402abc4b2a76b9719d911017c592").expect("valid");
        assert_eq!(size_answer(path, None), format!("{path} -1"));
        assert_eq!(
            SideAnswer::parse(size_answer(path, Some(5)).as_bytes(), path),
            Some(SideAnswer::Size(5))
        );
        assert_eq!(
            SideAnswer::parse(size_answer(path, None).as_bytes(), path),
            Some(SideAnswer::Missing)
        );
        assert_eq!(
            SideAnswer::parse(
                digest_answer(path, HashAlgorithm::Md5, Some(&sum)).as_bytes(),
                path
            ),
            Some(SideAnswer::Digest(sum))
        );
        assert_eq!(
            SideAnswer::parse(
                digest_answer(path, HashAlgorithm::Md5, None).as_bytes(),
                path
            ),
            Some(SideAnswer::Missing)
        );
        assert_eq!(
            SideAnswer::parse(b"ERROR: unknown command: size", path),
            Some(SideAnswer::Unsupported)
        );
        assert_eq!(SideAnswer::parse(b"/dev2/x 5", path), None);
        assert_eq!(
            parse_watch_line(watch_line(DevId(3), Some(4.851)).as_bytes()),
            Some((DevId(3), Some(4.85)))
        );
        assert_eq!(
            parse_watch_line(watch_line(DevId(3), None).as_bytes()),
            Some((DevId(3), None))
        );
        assert_eq!(parse_watch_line(b"."), None);
        assert_eq!(
            parse_list_line(list_line(Fid(7), 5, 9).as_bytes()),
            Some((Fid(7), 5, 9))
        );
    }

    proptest! {
        #[test]
        fn never_panics(line: Vec<u8>) {
            let _request = SideRequest::parse(&line);
            let _answer = SideAnswer::parse(&line, "/dev1/x");
            let _watch = parse_watch_line(&line);
            let _list = parse_list_line(&line);
        }
    }
}
