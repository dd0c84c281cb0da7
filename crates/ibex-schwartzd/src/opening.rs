//! The first bytes of a connection, within a time.
//!
//! Apart because which version of HTTP is spoken is decided by them, before any of its own time-outs runs: whoever sends nothing, or only the beginning of
//! what opens HTTP/2, would keep its connection for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What an HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose version must show in time.
#[derive(Debug)]
pub(crate) struct Opening<S> {
    stream: S,
    /// The end of the time, and how much of [`PREFACE`] came; nothing once the version shows.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Opening<S> {
    pub(crate) fn new(stream: S, time: Duration) -> Self {
        Self {
            stream,
            waiting: Some((Box::pin(tokio::time::sleep(time)), 0)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((end, seen)) = &mut self.waiting else {
            return read;
        };
        if read.is_pending() {
            ready!(end.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let new = buffer.filled().get(before..).unwrap_or_default();
        let rest = PREFACE.get(*seen..).unwrap_or_default();
        if !new.is_empty() && rest.len() > new.len() && rest.starts_with(new) {
            *seen += new.len();
        } else {
            self.waiting = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whether a read ends by the time that is over, after these bytes came.
    async fn times_out(parts: &[&[u8]]) -> bool {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Opening::new(server, Duration::from_secs(30));
        let mut buffer = [0; 64];
        for part in parts {
            client.write_all(part).await.unwrap();
            assert_eq!(server.read(&mut buffer).await.unwrap(), part.len());
        }
        let more = tokio::time::timeout(Duration::from_secs(60), server.read(&mut buffer)).await;
        more.is_ok_and(|read| read.unwrap_err().kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_of_an_opening_end_and_a_version_that_shows_does_not() {
        assert!(times_out(&[]).await);
        assert!(times_out(&[b"PRI"]).await);
        assert!(times_out(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r"]).await);
        assert!(!times_out(&[PREFACE]).await);
        assert!(!times_out(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"]).await);
        assert!(!times_out(&[b"G"]).await);
        assert!(!times_out(&[b"P", b"OST"]).await);
        let mut longer = PREFACE.to_vec();
        longer.extend(b"more");
        assert!(!times_out(&[&longer]).await);
    }
}
