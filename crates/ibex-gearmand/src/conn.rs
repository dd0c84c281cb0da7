//! One connection's bytes: the socket, what was read and not yet understood, what is to be written.
//!
//! Knows sizes, not meanings. Memory of an idle connection is this struct and nothing else: reads go through the reactor's one buffer.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use ibex_gearman_core::{ConnId, Reply};
use ibex_tls::TlsStream;
use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::acl::Identity;
use crate::lists::Listing;

/// Data of at least this size is sent from where it lies instead of being copied into the output buffer.
const SHARE_BYTES_MIN: usize = 16 << 10;
/// Buffers handed to one writev. Linux takes 1024; beyond a few dozen nothing is gained.
const SLICES_MAX: usize = 32;
/// An emptied buffer larger than this is given back.
const KEEP_BYTES_MAX: usize = 16 << 10;

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TCP under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Whether a read that filled less than its buffer tells that nothing more waits.
    pub(crate) fn is_empty_after_short_read(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// Whether bytes that were taken wait for the kernel.
    pub(crate) fn has_pending(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_pending())
    }

    /// Whether its TLS handshake is not over.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.is_handshaking())
    }

    /// Who the peer is by its certificate.
    pub(crate) fn common_name(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(stream) => stream.common_name().map(<[u8]>::to_vec),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Before it is dropped.
    pub(crate) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.close();
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Unix(stream) => stream.write_vectored(slices),
            // One piece after the other: they are copied into records anyway.
            Self::Tls(stream) => match slices.iter().find(|slice| !slice.is_empty()) {
                Some(slice) => stream.write(slice),
                None => Ok(0),
            },
        }
    }

    /// Sends bytes that were taken and wait; "would block" while some do.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }
}

impl Source for Socket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.register(registry, token, interests),
            Self::Unix(stream) => stream.register(registry, token, interests),
            Self::Tls(stream) => stream.socket_mut().register(registry, token, interests),
        }
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.reregister(registry, token, interests),
            Self::Unix(stream) => stream.reregister(registry, token, interests),
            Self::Tls(stream) => stream.socket_mut().reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.deregister(registry),
            Self::Unix(stream) => stream.deregister(registry),
            Self::Tls(stream) => stream.socket_mut().deregister(registry),
        }
    }
}

/// What waits to be written: small packets gathered in one buffer, large data by reference, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn push(&mut self, reply: &Reply) {
        let before = self.tail.len();
        let data = reply.encode_head(&mut self.tail);
        self.bytes += self.tail.len() - before;
        if let Some(data) = data {
            self.push_data(data);
        }
    }

    pub(crate) fn push_data(&mut self, data: &Bytes) {
        self.bytes += data.len();
        if data.len() < SHARE_BYTES_MIN {
            self.tail.extend_from_slice(data);
        } else {
            self.seal();
            self.segments.push_back(data.clone());
        }
    }

    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
    }

    /// Writes until the socket takes no more; says how many bytes it took.
    pub(crate) fn write_to(&mut self, socket: &mut Socket) -> io::Result<usize> {
        let mut total = 0;
        while self.bytes > 0 {
            let written = match self.write_some(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            total += written;
            self.advance(written);
        }
        if self.bytes == 0 && self.tail.capacity() > KEEP_BYTES_MAX {
            self.tail = BytesMut::new();
        }
        Ok(total)
    }

    fn write_some(&self, socket: &mut Socket) -> io::Result<usize> {
        if self.segments.is_empty() {
            return socket.write(&self.tail);
        }
        let slices: Vec<IoSlice<'_>> = self
            .segments
            .iter()
            .map(|s| IoSlice::new(s))
            .chain([IoSlice::new(&self.tail)])
            .take(SLICES_MAX)
            .collect();
        socket.write_vectored(&slices)
    }

    fn advance(&mut self, written: usize) {
        self.bytes -= written;
        let mut left = written;
        while left > 0 {
            match self.segments.front_mut() {
                Some(segment) if segment.len() > left => {
                    segment.advance(left);
                    return;
                }
                Some(segment) => {
                    left -= segment.len();
                    self.segments.pop_front();
                }
                None => {
                    self.tail.advance(left);
                    if self.tail.is_empty() {
                        self.tail.clear();
                    }
                    return;
                }
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) socket: Socket,
    /// Read and not yet parsed.
    pub(crate) unread: BytesMut,
    /// Bytes `unread` must hold before parsing is worth it.
    pub(crate) need: usize,
    pub(crate) out: Outbox,
    /// The kernel may have more to read.
    pub(crate) is_readable: bool,
    /// The kernel has said that the peer sends no more.
    pub(crate) is_read_closed: bool,
    /// No more will come; what is due is still written.
    pub(crate) is_ended: bool,
    /// It is in the list of connections to write.
    pub(crate) is_dirty: bool,
    /// It is in the list of connections to look at again.
    pub(crate) is_revisited: bool,
    /// It may use operators' commands.
    pub(crate) is_local: bool,
    /// It came over the operators' socket.
    pub(crate) is_admin: bool,
    /// Who it is, once the access rules had to know.
    pub(crate) identity: Option<Box<Identity>>,
    /// A list it asked for, of which more is to come. Nothing else of it is read until then.
    pub(crate) listing: Option<Listing>,
    /// Since when it has been beyond the output bound.
    pub(crate) slow_since: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_keep_the_order() {
        let mut out = Outbox::default();
        out.put_bytes(b"head-");
        out.push_data(&Bytes::from(vec![b'x'; SHARE_BYTES_MIN]));
        out.put_bytes(b"-tail");
        let expected = [&b"head-"[..], &vec![b'x'; SHARE_BYTES_MIN], b"-tail"].concat();
        let mut seen = Vec::new();
        for step in [1, 4, 7, SHARE_BYTES_MIN - 8, 3, 2, 1] {
            let flat: Vec<u8> = out
                .segments
                .iter()
                .flat_map(|s| s.iter().copied())
                .chain(out.tail.iter().copied())
                .collect();
            assert_eq!(flat.len(), out.len());
            let step = step.min(out.len());
            seen.extend_from_slice(&flat[..step]);
            out.advance(step);
        }
        let rest: Vec<u8> = out
            .segments
            .iter()
            .flat_map(|s| s.iter().copied())
            .chain(out.tail.iter().copied())
            .collect();
        seen.extend(rest);
        assert_eq!(seen, expected);
    }
}
