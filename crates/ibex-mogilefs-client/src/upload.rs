//! Request bodies that are hashed while they are sent.
//!
//! Owns the running MD5 and byte count of an upload, shared with whoever waits for the response, and the `Content-MD5` trailer of a chunked one.

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use md5::{Digest, Md5};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// What went through a body so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<TallyState>>);

#[derive(Debug, Default)]
struct TallyState {
    md5: Md5,
    bytes: u64,
    source_error: Option<String>,
}

impl Tally {
    fn add(&self, chunk: &[u8]) {
        let mut state = self.lock();
        state.md5.update(chunk);
        state.bytes += chunk.len() as u64;
    }

    /// MD5 of everything so far.
    pub(crate) fn md5(&self) -> [u8; 16] {
        self.lock().md5.clone().finalize().into()
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Why the source failed, if it did.
    pub(crate) fn source_error(&self) -> Option<String> {
        self.lock().source_error.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TallyState> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A stream as a request body.
pub(crate) struct HashingBody<S> {
    source: Pin<Box<S>>,
    tally: Tally,
    /// Bytes still expected, when the length was announced.
    remaining: Option<u64>,
    state: BodyState,
}

#[derive(PartialEq)]
enum BodyState {
    Streaming,
    Trailer,
    Done,
}

impl<S> HashingBody<S> {
    /// `length` is what will be announced as `Content-Length`; without it the body is chunked and ends with a `Content-MD5` trailer.
    pub(crate) fn new(source: S, length: Option<u64>, tally: Tally) -> Self {
        Self {
            source: Box::pin(source),
            tally,
            remaining: length,
            state: BodyState::Streaming,
        }
    }

    fn fail(&mut self, reason: String) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.state = BodyState::Done;
        self.tally.lock().source_error = Some(reason.clone());
        Poll::Ready(Some(Err(std::io::Error::other(reason))))
    }

    fn trailer(&self) -> Option<HeaderMap> {
        let value = HeaderValue::from_str(&base64_encode(&self.tally.md5())).ok()?;
        let mut trailers = HeaderMap::new();
        trailers.insert("content-md5", value);
        Some(trailers)
    }
}

impl<S, E> Body for HashingBody<S>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::fmt::Display,
{
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            match self.state {
                BodyState::Done => return Poll::Ready(None),
                BodyState::Trailer => {
                    self.state = BodyState::Done;
                    return Poll::Ready(
                        self.trailer().map(|trailers| Ok(Frame::trailers(trailers))),
                    );
                }
                BodyState::Streaming => {}
            }
            match self.source.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return self.fail(error.to_string()),
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => {
                    if let Some(remaining) = self.remaining {
                        match remaining.checked_sub(chunk.len() as u64) {
                            Some(left) => self.remaining = Some(left),
                            None => return self.fail("source is longer than announced".into()),
                        }
                    }
                    self.tally.add(&chunk);
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Poll::Ready(None) => match self.remaining {
                    Some(0) => self.state = BodyState::Done,
                    Some(_) => return self.fail("source is shorter than announced".into()),
                    None => self.state = BodyState::Trailer,
                },
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Standard base64 with padding, for the 16 bytes of a `Content-MD5`.
pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            if position <= group.len() {
                let index = (bits >> (18 - 6 * position)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (raw, expected) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64_encode(raw), expected);
        }
    }
}
