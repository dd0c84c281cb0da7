//! One socket and what was read from it but not yet used.
//!
//! Owns reading, writing and the test whether an idle connection is still open. All socket methods take `&self`, so that one
//! task can read and write at once without splitting or locking. It knows no HTTP.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bytes::BytesMut;
use ibex_kit::Stream;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// Bytes asked for by one read: enough for most heads and a good part of a response, small enough to hold per connection.
const READ_BYTES: usize = 16 * 1024;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tcp(stream) => Self::Tcp(stream),
            Stream::Unix(stream) => Self::Unix(stream),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(crate) fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buffer),
            Self::Unix(stream) => stream.try_read_buf(buffer),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Writes several pieces with one system call.
    pub(crate) fn try_write_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Reads what is there, waiting for something. 0 is the end of the stream. Safe to cancel: bytes are in the buffer or
    /// still in the kernel.
    pub(crate) async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Writes everything; each step may take `patience` at most.
    pub(crate) async fn write_all(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.writable_within(patience).await?
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes a head and a first piece of body, together where that is possible.
    pub(crate) async fn write_two(
        &self,
        head: &[u8],
        body: &[u8],
        patience: Duration,
    ) -> io::Result<()> {
        if body.is_empty() {
            return self.write_all(head, patience).await;
        }
        let written = loop {
            match self.try_write_slices(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.writable_within(patience).await?
                }
                Err(e) => return Err(e),
            }
        };
        self.write_all(head.get(written..).unwrap_or_default(), patience)
            .await?;
        self.write_all(
            body.get(written.saturating_sub(head.len())..)
                .unwrap_or_default(),
            patience,
        )
        .await
    }

    pub(crate) async fn writable_within(&self, patience: Duration) -> io::Result<()> {
        tokio::time::timeout(patience, self.writable())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends up to `count` bytes of a file from `offset`; says how many. 0 is the end of the file.
    pub(crate) fn try_sendfile(
        &self,
        file: &std::fs::File,
        offset: &mut u64,
        count: usize,
    ) -> io::Result<usize> {
        let send = || {
            rustix::fs::sendfile(self.as_fd(), file, Some(offset), count).map_err(io::Error::from)
        };
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, send),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, send),
        }
    }

    /// Says that nothing more will be written; the peer may still be talking.
    pub(crate) fn shutdown_write(&self) {
        // A connection that is gone already cannot be shut down; nobody is left to be told.
        let _ignored = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Write).is_ok();
    }

    pub(crate) fn local_port(&self) -> u16 {
        match self {
            Self::Tcp(stream) => stream.local_addr().map_or(0, |a| a.port()),
            Self::Unix(_) => 0,
        }
    }
}

/// A socket with its read buffer.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    pub(crate) buffer: BytesMut,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
        }
    }

    /// Reads more into the buffer; 0 is the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.socket.readable().await?;
        self.socket.read(&mut self.buffer).await
    }

    /// True when an idle connection cannot be used: closed, or the peer talks without being asked.
    pub(crate) fn is_spoiled(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        let mut probe = BytesMut::new();
        !matches!(self.socket.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Connects to `ip:port`, `name:port` or `unix:/path`.
pub(crate) async fn connect(address: &str) -> io::Result<Socket> {
    if let Some(path) = address.strip_prefix("unix:") {
        return UnixStream::connect(path).await.map(Socket::Unix);
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Socket::Tcp(stream))
}
