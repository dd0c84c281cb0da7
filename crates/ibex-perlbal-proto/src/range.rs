//! Ranges and conditional requests for files.
//!
//! Owns which part of a file a request gets, or that it gets none because nothing changed (RFC 9110 sections 13 and 14,
//! spec part A9). Apart from the file server as pure decisions over numbers. It reads no file.

use ibex_base::ascii;

use crate::date;
use crate::head::{Fields, list, trim_blanks};

/// What a Range field means for a file of a known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// The whole file, 200: no range, one that is not understood, or too many.
    Whole,
    /// One part, 206.
    Part(Part),
    /// Several parts in ascending order, merged, 206 as multipart/byteranges.
    Parts(Vec<Part>),
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// Bytes `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte, at least `first`.
    pub last: u64,
}

impl Part {
    /// Number of bytes.
    #[must_use]
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// Value of Content-Range for this part of `size` bytes.
    #[must_use]
    pub fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }
}

/// Decides what a Range value selects. More than `parts_max` ranges give the whole file.
#[must_use]
pub fn select(range: &[u8], size: u64, parts_max: usize) -> Ranged {
    let Some(set) = range.strip_prefix(b"bytes=") else {
        return Ranged::Whole;
    };
    let specs: Vec<&[u8]> = set.split(|b| *b == b',').map(trim_blanks).collect();
    if specs.len() > 1 && specs.len() > parts_max {
        return Ranged::Whole;
    }
    let mut parts = Vec::with_capacity(specs.len());
    for spec in &specs {
        match one(spec, size) {
            Some(One::Part(part)) => parts.push(part),
            Some(One::Unsatisfiable) => {}
            None => return Ranged::Whole,
        }
    }
    parts = merged(parts);
    match parts[..] {
        [] => Ranged::Unsatisfiable,
        [part] => Ranged::Part(part),
        _ => Ranged::Parts(parts),
    }
}

enum One {
    Part(Part),
    Unsatisfiable,
}

/// One range spec; `None` when it is no range at all.
fn one(spec: &[u8], size: u64) -> Option<One> {
    let dash = memchr::memchr(b'-', spec)?;
    let (from, to) = (&spec[..dash], &spec[dash + 1..]);
    let number = |text: &[u8]| {
        if text.iter().all(u8::is_ascii_digit) && !text.is_empty() {
            Some(ascii::parse_u64(text).unwrap_or(u64::MAX))
        } else {
            None
        }
    };
    if from.is_empty() {
        // DIFFERS(perlbal): `-n` is the last n bytes; the original sends n + 1.
        let count = number(to)?;
        return Some(if count == 0 || size == 0 {
            One::Unsatisfiable
        } else {
            One::Part(Part {
                first: size.saturating_sub(count),
                last: size - 1,
            })
        });
    }
    let first = number(from)?;
    let last = if to.is_empty() { u64::MAX } else { number(to)? };
    Some(if first >= size || first > last {
        One::Unsatisfiable
    } else {
        One::Part(Part {
            first,
            last: last.min(size - 1),
        })
    })
}

fn merged(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|p| (p.first, p.last));
    let mut out: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match out.last_mut() {
            Some(before) if part.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(part.last)
            }
            _ => out.push(part),
        }
    }
    out
}

/// What is known of a file for conditional requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    /// Strong entity tag with its quotes.
    pub etag: String,
    /// Modification time in seconds since 1970.
    pub modified: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Validators {
    /// Validators of a file: the tag is `"mtime-size"` in hexadecimal.
    #[must_use]
    pub fn of_file(modified: u64, size: u64) -> Self {
        Self {
            etag: format!("\"{modified:x}-{size:x}\""),
            modified,
            size,
        }
    }
}

/// True when the client's copy is current and a GET or HEAD is answered with 304.
#[must_use]
pub fn is_not_modified(fields: &Fields, validators: &Validators) -> bool {
    if fields.has("If-None-Match") {
        return fields
            .all("If-None-Match")
            .flat_map(|v| list(v))
            .any(|tag| tag == b"*" || weak(tag) == validators.etag.as_bytes());
    }
    let Some(since) = fields.first("If-Modified-Since") else {
        return false;
    };
    // COMPAT(perlbal): old Internet Explorers add `; length=N`; then the size has to match too (ClientHTTPBase.pm).
    let mut parts = since.splitn(2, |b| *b == b';');
    let date_text = trim_blanks(parts.next().unwrap_or_default());
    let length = parts
        .next()
        .and_then(|p| trim_blanks(p).strip_prefix(b"length="))
        .map(ascii::parse_u64);
    let length_fits = length.is_none_or(|n| n == Some(validators.size));
    let date_fits = date_text == date::format(validators.modified).as_bytes()
        || date::parse(date_text).is_some_and(|t| validators.modified <= t);
    date_fits && length_fits
}

fn weak(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// True when the Range field may be honoured: no If-Range, or one that names exactly this file.
#[must_use]
pub fn range_applies(fields: &Fields, validators: &Validators) -> bool {
    match fields.first("If-Range") {
        None => true,
        Some(value) if value.first() == Some(&b'"') => &value[..] == validators.etag.as_bytes(),
        Some(value) => &value[..] == date::format(validators.modified).as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> Ranged {
        Ranged::Part(Part { first, last })
    }

    #[test]
    fn single_ranges() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=2-5", 10, part(2, 5)),
            ("bytes=2-", 10, part(2, 9)),
            ("bytes=2-99999999999999999999999", 10, part(2, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("bytes=9-9", 10, part(9, 9)),
            ("bytes=10-", 10, Ranged::Unsatisfiable),
            ("bytes=-0", 10, Ranged::Unsatisfiable),
            ("bytes=5-4", 10, Ranged::Unsatisfiable),
            ("bytes=0-", 0, Ranged::Unsatisfiable),
            ("bytes=-1", 0, Ranged::Unsatisfiable),
            ("bytes=a-b", 10, Ranged::Whole),
            ("bytes=", 10, Ranged::Whole),
            ("bytes=-", 10, Ranged::Whole),
            ("lines=1-2", 10, Ranged::Whole),
            ("bytes=1-2x", 10, Ranged::Whole),
        ] {
            assert_eq!(
                select(range.as_bytes(), size, 16),
                expected,
                "{range} of {size}"
            );
        }
    }

    #[test]
    fn several_ranges_are_sorted_and_merged() {
        let parts = |list: &[(u64, u64)]| {
            Ranged::Parts(
                list.iter()
                    .map(|(first, last)| Part {
                        first: *first,
                        last: *last,
                    })
                    .collect(),
            )
        };
        assert_eq!(select(b"bytes=5-6, 0-1", 10, 16), parts(&[(0, 1), (5, 6)]));
        assert_eq!(select(b"bytes=0-4,3-6,7-8", 10, 16), part(0, 8));
        assert_eq!(select(b"bytes=0-1,50-60", 10, 16), part(0, 1));
        assert_eq!(select(b"bytes=50-60,70-", 10, 16), Ranged::Unsatisfiable);
        assert_eq!(select(b"bytes=0-1,3-4,6-7", 10, 2), Ranged::Whole);
    }

    #[test]
    fn conditions() {
        let file = Validators::of_file(784_111_777, 10);
        let with = |name: &str, value: &str| {
            let mut fields = Fields::default();
            fields.push(name.to_owned(), value.to_owned());
            fields
        };
        assert!(is_not_modified(
            &with("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            &file
        ));
        assert!(is_not_modified(
            &with("If-Modified-Since", "Sun, 06 Nov 1994 08:49:38 GMT"),
            &file
        ));
        assert!(!is_not_modified(
            &with("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT"),
            &file
        ));
        assert!(is_not_modified(
            &with(
                "If-Modified-Since",
                "Sun, 06 Nov 1994 08:49:37 GMT; length=10"
            ),
            &file
        ));
        assert!(!is_not_modified(
            &with(
                "If-Modified-Since",
                "Sun, 06 Nov 1994 08:49:37 GMT; length=11"
            ),
            &file
        ));
        assert!(is_not_modified(
            &with("If-None-Match", &format!("\"x\", W/{}", file.etag)),
            &file
        ));
        assert!(is_not_modified(&with("If-None-Match", "*"), &file));
        assert!(!is_not_modified(&with("If-None-Match", "\"x\""), &file));
        assert!(range_applies(&Fields::default(), &file));
        assert!(range_applies(&with("If-Range", &file.etag), &file));
        assert!(!range_applies(
            &with("If-Range", &format!("W/{}", file.etag)),
            &file
        ));
        assert!(!range_applies(
            &with("If-Range", "Sun, 06 Nov 1994 08:49:38 GMT"),
            &file
        ));
    }
}
