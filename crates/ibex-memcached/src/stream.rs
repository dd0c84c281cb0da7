//! A client's socket: TCP or unix, non-blocking, under mio.

use crate::tls::Tls;
use crate::ways::{Mode, Way};
use ibex_kit::Listener;
use ibex_tls::TlsStream;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TCP under TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// None: the peer sends datagrams, which are read and written elsewhere.
    Datagram,
}

impl Stream {
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
            Self::Datagram => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
            Self::Datagram => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether a read that filled less than its buffer tells that nothing more waits.
    pub(crate) fn is_empty_after_short_read(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// Whether bytes that were taken wait for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_pending())
    }

    /// Sends bytes that were taken and wait.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            Self::Tcp(_) | Self::Unix(_) | Self::Datagram => Ok(()),
        }
    }

    /// Whether its TLS handshake is not over.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.is_handshaking())
    }

    /// Before it is dropped.
    pub(crate) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.close();
        }
    }

    /// Both directions at once: readiness is edge-triggered, so nothing needs to be registered again later.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, both),
            Self::Unix(stream) => registry.register(stream, token, both),
            Self::Tls(stream) => registry.register(stream.socket_mut(), token, both),
            Self::Datagram => Ok(()),
        }
    }

    pub(crate) fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => stream.socket().as_raw_fd(),
            Self::Datagram => -1,
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Door {
    socket: DoorSocket,
    pub(crate) address: Arc<str>,
    pub(crate) way: Way,
}

#[derive(Debug)]
enum DoorSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    pub(crate) fn new(listener: Listener, way: Way) -> Self {
        let address = listener.address().into();
        let socket = match listener {
            Listener::Tcp(listener) => DoorSocket::Tcp(TcpListener::from_std(listener)),
            Listener::Unix(listener) => DoorSocket::Unix(UnixListener::from_std(listener)),
        };
        Self {
            socket,
            address,
            way,
        }
    }

    pub(crate) fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match &self.socket {
            DoorSocket::Tcp(listener) => listener.as_raw_fd(),
            DoorSocket::Unix(listener) => listener.as_raw_fd(),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            DoorSocket::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            DoorSocket::Unix(listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// A connection and its peer. A unix socket has no use for TLS.
    pub(crate) fn accept(&self, tls: Option<&Tls>) -> io::Result<(Stream, String)> {
        match &self.socket {
            DoorSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nodelay(true)?;
                let mode = self.way.mode;
                let stream = match tls.filter(|_| mode != Mode::Plain) {
                    Some(tls) => Stream::Tls(Box::new(tls.accept(stream, mode)?)),
                    None => Stream::Tcp(stream),
                };
                Ok((stream, format!("tcp:{peer}")))
            }
            DoorSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((Stream::Unix(stream), self.address.to_string()))
            }
        }
    }
}
