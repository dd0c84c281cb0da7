//! URL paths and the file names they may mean.
//!
//! Owns percent-decoding, the refusal of traversal, the stricter rule for uploads and the `??` concatenation syntax.
//! Apart from the file server so that the rules that keep strangers inside the docroot are tested alone.
//! It touches no file system; symbolic links are the daemon's matter.

/// Percent-decodes once. Invalid escapes stay as they are and `+` stays.
#[must_use]
pub fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digit = |offset: usize| {
            text.get(at + offset)
                .and_then(|b| char::from(*b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Percent-encodes everything but unreserved characters and `/`.
#[must_use]
pub fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Why a path is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPath {
    /// Contains a NUL byte: 400.
    Nul,
    /// Does not begin with `/` or has a `..` segment: 403 `Bogus URL`.
    Bogus,
}

/// The decoded path of a request for a file.
///
/// # Errors
/// When the path could leave the docroot or cannot be a file name.
pub fn file_path(raw: &[u8]) -> Result<Vec<u8>, BadPath> {
    let path = percent_decode(raw);
    if path.contains(&0) {
        return Err(BadPath::Nul);
    }
    if path.first() != Some(&b'/') || has_parent_segment(&path) {
        return Err(BadPath::Bogus);
    }
    Ok(path)
}

fn has_parent_segment(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(|segment| segment == b"..")
}

/// The decoded path of an upload: `(/[\w.-]+)*/[\w.-]+` without `..` anywhere.
#[must_use]
pub fn upload_path(raw: &[u8]) -> Option<String> {
    let path = percent_decode(raw);
    let rest = path.strip_prefix(b"/")?;
    let is_segment = |s: &[u8]| {
        !s.is_empty()
            && s != b"."
            && s.iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    let fine = rest.split(|b| *b == b'/').all(is_segment) && !path.windows(2).any(|w| w == b"..");
    if fine {
        String::from_utf8(path).ok()
    } else {
        None
    }
}

/// Files of one concatenation request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concatenation {
    /// Base directory, ending in `/`.
    pub base: Vec<u8>,
    /// File names below it, in order.
    pub names: Vec<Vec<u8>>,
}

/// Files one request may ask for.
pub const CONCATENATED_FILES_MAX: usize = 100;

/// Parses `/base/??a.css,b/c.js?v=1`. `None` when the target has no `??`.
///
/// # Errors
/// Status and text as in the original.
pub fn concatenation(target: &[u8]) -> Option<Result<Concatenation, (u16, &'static str)>> {
    let at = target.windows(2).position(|w| w == b"??")?;
    if target[..at].contains(&b'?') {
        return None;
    }
    Some(split_concatenation(&target[..at], &target[at + 2..]))
}

fn split_concatenation(base: &[u8], list: &[u8]) -> Result<Concatenation, (u16, &'static str)> {
    let base = percent_decode(base);
    if base.last() != Some(&b'/') {
        return Err((500, "Base directory (before ??) must end in slash."));
    }
    let list = list.split(|b| *b == b'?').next().unwrap_or_default();
    let names: Vec<Vec<u8>> = list
        .split(|b| *b == b',')
        .filter(|n| !n.is_empty())
        .map(percent_decode)
        .collect();
    if names.len() > CONCATENATED_FILES_MAX {
        return Err((403, "Too many files requested"));
    }
    if base.contains(&0)
        || has_parent_segment(&base)
        || names
            .iter()
            .any(|n| n.contains(&0) || has_parent_segment(n))
    {
        return Err((403, "Bogus filenames"));
    }
    Ok(Concatenation { base, names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decoding() {
        assert_eq!(percent_decode(b"/a%20b%2fc%zz%4"), b"/a b/c%zz%4");
        assert_eq!(percent_decode(b"%252e"), b"%2e");
        assert_eq!(percent_encode(b"/a b<\xff"), "/a%20b%3C%FF");
    }

    #[test]
    fn traversal_is_refused() {
        for bad in [
            "/../x",
            "/a/%2e%2e/b",
            "/a/..",
            "/%2e%2e%2fetc",
            "a",
            "",
            "/a/..%2f..",
            "/..%2F",
        ] {
            assert_eq!(file_path(bad.as_bytes()), Err(BadPath::Bogus), "{bad}");
        }
        assert_eq!(file_path(b"/a%00b"), Err(BadPath::Nul));
        for good in ["/", "/a..b", "/...", "/..a/b", "/a/./b"] {
            assert!(file_path(good.as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn upload_names() {
        for good in ["/a", "/a/b.txt", "/a-b/c_d/e.f"] {
            assert!(upload_path(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "", "/", "a", "/a/", "//a", "/a//b", "/a..b", "/a b", "/a%20b", "/a%00", "/\u{e9}",
            "/a?b", "/./a",
        ] {
            assert!(upload_path(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn concatenations() {
        let files = concatenation(b"/base/??a.css,b/c.js?v=1").unwrap().unwrap();
        assert_eq!(
            (&files.base[..], files.names),
            (&b"/base/"[..], vec![b"a.css".to_vec(), b"b/c.js".to_vec()])
        );
        assert!(concatenation(b"/a?b").is_none());
        assert!(concatenation(b"/a?x??b").is_none());
        assert_eq!(concatenation(b"/base??a").unwrap().unwrap_err().0, 500);
        assert_eq!(
            concatenation(b"/??../a").unwrap().unwrap_err().1,
            "Bogus filenames"
        );
        let many = |n: usize| format!("/??{}", vec!["a"; n].join(","));
        assert!(
            concatenation(many(99).as_bytes()).unwrap().is_ok()
                && concatenation(many(100).as_bytes()).unwrap().is_ok()
        );
        assert_eq!(
            concatenation(many(101).as_bytes()).unwrap().unwrap_err().0,
            403
        );
    }

    proptest! {
        #[test]
        fn accepted_paths_stay_below_the_root(raw in "(/|\\.|%2e|%2f|a){0,12}") {
            if let Ok(path) = file_path(raw.as_bytes()) {
                let mut depth = 0_i32;
                for segment in path.split(|b| *b == b'/').filter(|s| !s.is_empty() && *s != b".") {
                    depth += if segment == b".." { -1 } else { 1 };
                    prop_assert!(depth >= 0);
                }
            }
        }

        #[test]
        fn encode_then_decode_is_identity(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(percent_decode(percent_encode(&bytes).as_bytes()), bytes);
        }
    }
}
