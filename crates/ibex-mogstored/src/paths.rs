//! From the path of a request to a name below one device, or a refusal.
//!
//! Owns every rule that keeps a request inside `docroot/devN`: decoding, `..` in any encoding, control bytes, empty parts. Pure; whether the file
//! exists is the disk's
//! business.

use ibex_mogilefs_proto::DevId;

/// What a request path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/`
    Root,
    /// A directory of a device, or the device itself: the path ended with a slash or had one part.
    Directory(DevId, Vec<String>),
    /// A file below a device.
    File(DevId, Vec<String>),
}

/// Why a path is refused. All are answered 400, except the reserved ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("path has a control byte or a broken escape")]
    Bytes,
    #[error("path has ..")]
    Parent,
    #[error("path is not below a device")]
    NoDevice,
    #[error("path is too long")]
    TooLong,
    #[error("path is reserved")]
    Reserved,
}

/// Longest path accepted; the file system's own limit for one call.
const PATH_BYTES_MAX: usize = 4096;
/// Longest name of a file or directory, as file systems have it.
const NAME_BYTES_MAX: usize = 255;
/// Directory of unfinished uploads in each device.
pub(crate) const TEMP_DIRECTORY: &str = ".tmp";

/// Reads a request path (without query).
pub(crate) fn parse(path: &str) -> Result<Target, PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let decoded = decode(path)?;
    if decoded.bytes().any(|byte| byte < 0x20 || byte == 0x7f) || decoded.contains('\\') {
        return Err(PathError::Bytes);
    }
    // Doubled slashes collapse: administration tools ask for //dev1/usage.
    let is_directory = decoded.ends_with('/');
    let mut parts = decoded.split('/').filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return Ok(Target::Root);
    };
    let device = first
        .strip_prefix("dev")
        .and_then(canonical_device)
        .ok_or(PathError::NoDevice)?;
    let parts: Vec<String> = parts.map(str::to_owned).collect();
    if parts.iter().any(|part| part == "..") {
        return Err(PathError::Parent);
    }
    if parts.iter().any(|part| part.len() > NAME_BYTES_MAX) {
        return Err(PathError::TooLong);
    }
    if parts.iter().any(|part| part == ".") {
        return Err(PathError::Bytes);
    }
    if parts.first().is_some_and(|part| part == TEMP_DIRECTORY) {
        return Err(PathError::Reserved);
    }
    if is_directory || parts.is_empty() {
        Ok(Target::Directory(device, parts))
    } else {
        Ok(Target::File(device, parts))
    }
}

/// `1` but not `01`, so that one disk has one name.
fn canonical_device(digits: &str) -> Option<DevId> {
    DevId::parse(digits.as_bytes()).filter(|device| device.to_string() == digits)
}

fn decode(path: &str) -> Result<String, PathError> {
    if !path.contains('%') {
        return Ok(path.to_owned());
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let [high, low, after @ ..] = tail else {
            return Err(PathError::Bytes);
        };
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
                .ok_or(PathError::Bytes)
        };
        out.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    String::from_utf8(out).map_err(|_| PathError::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(device: u32, parts: &[&str]) -> Result<Target, PathError> {
        Ok(Target::File(
            DevId(device),
            parts.iter().map(|&part| part.to_owned()).collect(),
        ))
    }

    #[test]
    fn names_below_a_device() {
        assert_eq!(
            parse("/dev1/0/000/000/0000000001.fid"),
            file(1, &["0", "000", "000", "0000000001.fid"])
        );
        assert_eq!(parse("//dev1/usage"), file(1, &["usage"]));
        assert_eq!(parse("/"), Ok(Target::Root));
        assert_eq!(parse("/dev1"), Ok(Target::Directory(DevId(1), vec![])));
        assert_eq!(
            parse("/dev1/0/"),
            Ok(Target::Directory(DevId(1), vec!["0".into()]))
        );
        assert_eq!(parse("/dev1/a%20b"), file(1, &["a b"]));
    }

    #[test]
    fn nothing_leaves_the_device() {
        for (path, error) in [
            ("/dev1/../etc/passwd", PathError::Parent),
            ("/dev1/%2e%2e/x", PathError::Parent),
            ("/dev1/%2E%2e/x", PathError::Parent),
            ("/dev1/..%2fx", PathError::Parent),
            ("/dev1/x/..", PathError::Parent),
            ("/dev1/./x", PathError::Bytes),
            ("/dev1/a%00b", PathError::Bytes),
            ("/dev1/a%0ab", PathError::Bytes),
            ("/dev1/a%zz", PathError::Bytes),
            ("/dev1/a%2", PathError::Bytes),
            ("/dev1/..\\x", PathError::Bytes),
            ("/dev01/x", PathError::NoDevice),
            ("/devX/x", PathError::NoDevice),
            ("/dev/x", PathError::NoDevice),
            ("/dev99999999999/x", PathError::NoDevice),
            ("/dev0/x", PathError::NoDevice),
            ("/etc/passwd", PathError::NoDevice),
            ("/dev1/.tmp/x", PathError::Reserved),
        ] {
            assert_eq!(parse(path), Err(error), "{path}");
        }
        assert_eq!(
            parse(&format!("/dev1/{}", "x".repeat(256))),
            Err(PathError::TooLong)
        );
        assert_eq!(
            parse(&format!("/dev1/{}", "x/".repeat(50_000))),
            Err(PathError::TooLong)
        );
    }
}
