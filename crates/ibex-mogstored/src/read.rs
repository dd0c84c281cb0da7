//! Downloads: which bytes a request asks for, and a response body that reads them from disk piece by piece.

use crate::disks::{Disks, Urgency};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use ibex_mogilefs_proto::DevId;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes read from disk at a time: large enough that a call is worth a thread switch, small enough for many slow readers.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// The part of a file a response carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// All of it, with status 200.
    Whole,
    /// These bytes, with status 206; `end` is exclusive.
    Part { start: u64, end: u64 },
    /// No such bytes: status 416.
    Unsatisfiable,
}

/// What a `Range` header asks of a file of `length` bytes. Lists and malformed headers are answered with the whole file, as the protocol allows.
pub(crate) fn span(header: Option<&str>, length: u64) -> Span {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Span::Whole;
    };
    let Some((first, last)) = range.split_once('-') else {
        return Span::Whole;
    };
    let number = |text: &str| ibex_base::ascii::parse_u64(text.trim().as_bytes());
    let (start, end) = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => return Span::Whole,
        (true, false) => match number(last) {
            Some(suffix) => (
                length.saturating_sub(suffix),
                if suffix == 0 { 0 } else { length },
            ),
            None => return Span::Whole,
        },
        (false, true) => match number(first) {
            Some(start) => (start, length),
            None => return Span::Whole,
        },
        (false, false) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => {
                (start, last.saturating_add(1).min(length))
            }
            _ => return Span::Whole,
        },
    };
    if start < end && end <= length {
        Span::Part { start, end }
    } else {
        Span::Unsatisfiable
    }
}

/// A response body of `file`'s bytes from `start` to `end`. A file that shrinks meanwhile breaks the connection off, so that the reader notices.
pub(crate) fn body(
    disks: Arc<Disks>,
    device: DevId,
    file: File,
    start: u64,
    end: u64,
) -> crate::handler::ResponseBody {
    let state = (Arc::new(file), start);
    let stream = stream::try_unfold(state, move |(file, at)| {
        let disks = Arc::clone(&disks);
        async move {
            if at >= end {
                return Ok(None);
            }
            let want = usize::try_from((end - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
            let reader = Arc::clone(&file);
            let chunk = disks
                .run(device, Urgency::Request, move || read_at(&reader, at, want))
                .await?;
            let next = at + chunk.len() as u64;
            Ok::<_, io::Error>(Some((Frame::data(chunk), (file, next))))
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Exactly `want` bytes at `at`.
pub(crate) fn read_at(file: &File, at: u64, want: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; want];
    file.read_exact_at(&mut buffer, at)?;
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |start, end| Span::Part { start, end };
        for (header, expected) in [
            (None, Span::Whole),
            (Some("bytes=0-0"), part(0, 1)),
            (Some("bytes=2-4"), part(2, 5)),
            (Some("bytes=2-"), part(2, 10)),
            (Some("bytes=-2"), part(8, 10)),
            (Some("bytes=-20"), part(0, 10)),
            (Some("bytes=5-99"), part(5, 10)),
            (Some("bytes=10-"), Span::Unsatisfiable),
            (Some("bytes=-0"), Span::Unsatisfiable),
            (Some("bytes=4-2"), Span::Whole),
            (Some("bytes=1-2,4-5"), Span::Whole),
            (Some("bytes=-"), Span::Whole),
            (Some("bytes=x-y"), Span::Whole),
            (Some("lines=1-2"), Span::Whole),
            (
                Some("bytes=18446744073709551615-18446744073709551615"),
                Span::Unsatisfiable,
            ),
        ] {
            assert_eq!(span(header, 10), expected, "{header:?}");
        }
        assert_eq!(span(Some("bytes=0-"), 0), Span::Unsatisfiable);
    }
}
