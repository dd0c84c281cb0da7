//! A client's socket: TCP or unix, non-blocking, under mio.

use ibex_kit::Listener;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// None: the peer sends datagrams, which are read and written elsewhere.
    Datagram,
}

impl Stream {
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            Self::Datagram => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
            Self::Datagram => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Both directions at once: readiness is edge-triggered, so nothing needs to be registered again later.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, both),
            Self::Unix(stream) => registry.register(stream, token, both),
            Self::Datagram => Ok(()),
        }
    }

    pub(crate) fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Datagram => -1,
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Door {
    Tcp(TcpListener, Arc<str>),
    Unix(UnixListener, Arc<str>),
}

impl Door {
    pub(crate) fn new(listener: Listener) -> Self {
        let address: Arc<str> = listener.address().into();
        match listener {
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener), address),
            Listener::Unix(listener) => Self::Unix(UnixListener::from_std(listener), address),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(listener, _) => registry.register(listener, token, Interest::READABLE),
            Self::Unix(listener, _) => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// A connection, its peer, and the address it came in by.
    pub(crate) fn accept(&self) -> io::Result<(Stream, String, Arc<str>)> {
        match self {
            Self::Tcp(listener, address) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok((
                    Stream::Tcp(stream),
                    format!("tcp:{peer}"),
                    Arc::clone(address),
                ))
            }
            Self::Unix(listener, address) => {
                let (stream, _) = listener.accept()?;
                Ok((
                    Stream::Unix(stream),
                    address.to_string(),
                    Arc::clone(address),
                ))
            }
        }
    }
}
