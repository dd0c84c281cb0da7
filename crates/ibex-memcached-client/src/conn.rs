//! One connection: bytes out, replies in. It knows neither pools nor deadlines; who owns it decides when it has had enough.

use crate::config::Address;
use bytes::BytesMut;
use ibex_memcached_proto::reply::{Malformed, Reply, Step, parse};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// First size of a read buffer, in bytes: most replies fit.
const READ_BUFFER_BYTES: usize = 4096;
/// Read buffers above this are not kept with an idle connection.
const READ_BUFFER_BYTES_KEPT: usize = 256 << 10;

/// What the reader of replies wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    More,
    Done,
}

/// A server's error reply; the exchange still reads what else it asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    pub(crate) flow: Flow,
}

/// Why an exchange did not end well.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Whether the idle connection still stands: nothing to read, and not closed by the peer.
    fn is_fresh(&self) -> bool {
        let mut byte = [0_u8; 1];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// An open connection with what was read from it and not used yet.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    read: BytesMut,
    received_bytes: u64,
}

impl Connection {
    pub(crate) async fn open(address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        };
        Ok(Self {
            stream,
            read: BytesMut::with_capacity(READ_BUFFER_BYTES),
            received_bytes: 0,
        })
    }

    /// Whether an idle connection still stands: nothing to read, and not closed by the peer.
    pub(crate) fn is_fresh(&self) -> bool {
        self.stream.is_fresh()
    }

    /// Whether every byte read so far belonged to a reply that was asked for.
    pub(crate) fn is_clean(&self) -> bool {
        self.read.is_empty()
    }

    /// Gives a buffer back that one large reply made large.
    pub(crate) fn shrink(&mut self) {
        if self.read.capacity() > READ_BUFFER_BYTES_KEPT {
            self.read = BytesMut::with_capacity(READ_BUFFER_BYTES);
        }
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }

    /// Sends `request` and hands every reply to `on_reply` until it says [`Flow::Done`]. Writes and reads at the same time, because a server stops reading
    /// from a client that does not read.
    pub(crate) async fn talk(
        &mut self,
        request: &[u8],
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Trouble> {
        let Self {
            stream,
            read,
            received_bytes,
        } = self;
        let (mut receiver, mut sender) = tokio::io::split(stream);
        let sending = async {
            sender.write_all(request).await?;
            sender.flush().await.map_err(Trouble::from)
        };
        let receiving = receive(&mut receiver, read, received_bytes, on_reply);
        let ((), refused) = tokio::try_join!(sending, receiving)?;
        refused.map_or(Ok(()), |text| Err(Trouble::Refused(text)))
    }
}

/// Reads replies until done; returns the first refusal met on the way.
async fn receive(
    receiver: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
    received_bytes: &mut u64,
    mut on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
) -> Result<Option<String>, Trouble> {
    let mut refused = None;
    loop {
        let missing = match parse(read)
            .map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, Malformed))?
        {
            Step::Need(missing) => missing,
            Step::Frame { reply, consumed } => {
                let flow = on_reply(reply).unwrap_or_else(|refusal| {
                    refused.get_or_insert(refusal.text);
                    refusal.flow
                });
                drop(read.split_to(consumed));
                match flow {
                    Flow::Done => return Ok(refused),
                    Flow::More => continue,
                }
            }
        };
        read.reserve(missing.max(READ_BUFFER_BYTES / 2));
        match receiver.read_buf(read).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            more => *received_bytes += more as u64,
        }
    }
}
