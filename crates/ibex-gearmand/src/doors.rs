//! Listening sockets of the event loops: which way in each is, what a reload opens and closes, and the accepting of one connection.
//!
//! The first event loop has all doors and deals connections out. Doors come and go by mail, so a reload never touches a loop's state from outside.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ibex_kit::{Doors, Listener};
use mio::{Interest, Registry, Token};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::conn::Socket;
use crate::driver::{Mail, Shared};
use crate::peers::Peer;

/// Which way in a door is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Packets and text in plain.
    Plain,
    /// The same under TLS. Unix sockets stay plain.
    Tls,
    /// The operators' socket.
    Admin,
}

#[derive(Debug)]
enum DoorSocket {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

/// A listening socket in an event loop.
#[derive(Debug)]
pub(crate) struct Door {
    socket: DoorSocket,
    address: String,
    way: Way,
}

impl Door {
    pub(crate) fn open(
        listener: Listener,
        way: Way,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let address = listener.address();
        let socket = match listener {
            Listener::Tcp(listener) => {
                let mut socket = mio::net::TcpListener::from_std(listener);
                registry.register(&mut socket, token, Interest::READABLE)?;
                DoorSocket::Tcp(socket)
            }
            Listener::Unix(listener) => {
                let mut socket = mio::net::UnixListener::from_std(listener);
                registry.register(&mut socket, token, Interest::READABLE)?;
                DoorSocket::Unix(socket)
            }
        };
        Ok(Self {
            socket,
            address,
            way,
        })
    }

    pub(crate) fn is_at(&self, address: &str) -> bool {
        self.address == address
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.way == Way::Admin
    }

    /// The next connection.
    ///
    /// # Errors
    /// "Would block" when there is none; what the kernel says otherwise.
    pub(crate) fn accept(&self, shared: &Shared) -> io::Result<(Socket, Peer)> {
        match &self.socket {
            DoorSocket::Tcp(listener) => {
                let (stream, addr) = listener.accept()?;
                prepare(&stream, shared);
                let peer = Peer {
                    fd: stream.as_raw_fd(),
                    addr: Some(addr),
                };
                match &shared.tls {
                    Some(tls) if self.way == Way::Tls => {
                        Ok((Socket::Tls(Box::new(tls.accept(stream)?)), peer))
                    }
                    _ => Ok((Socket::Tcp(stream), peer)),
                }
            }
            DoorSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                let fd = stream.as_raw_fd();
                Ok((Socket::Unix(stream), Peer { fd, addr: None }))
            }
        }
    }
}

/// When silent peers are probed: a dead one's jobs go to others after minutes instead of hours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    /// Silence before the first probe.
    pub(crate) idle: Duration,
    /// Between probes.
    pub(crate) interval: Duration,
    /// Probes without an answer after which the peer is dead.
    pub(crate) count: u32,
}

fn prepare(stream: &mio::net::TcpStream, shared: &Shared) {
    let mut outcome = stream.set_nodelay(true);
    if let Some(keepalive) = shared.bounds.keepalive {
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        let socket = socket2::SockRef::from(stream);
        outcome = outcome.and_then(|()| socket.set_tcp_keepalive(&keepalive));
    }
    if let Err(error) = outcome {
        // The connection works without; it may be gone already.
        tracing::debug!(error = %error, "socket options");
    }
}

/// Hands the listeners of one way to the first event loop: those of the start, and those that a reload adds and removes.
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    pub(crate) way: Way,
    pub(crate) backlog: i32,
}

impl Gate {
    fn tell(&self, mail: Mail) {
        if let Some(mailbox) = self.shared.mailboxes.first() {
            mailbox.push(mail);
            mailbox.wake();
        }
    }
}

impl Doors for Gate {
    fn open(&self, listener: Listener) {
        let outcome = match &listener {
            Listener::Tcp(socket) => rustix::net::listen(socket, self.backlog),
            Listener::Unix(socket) => rustix::net::listen(socket, self.backlog),
        };
        if let Err(error) = outcome {
            tracing::warn!(address = %listener.address(), error = %error, "listener keeps its default backlog");
        }
        self.tell(Mail::Open(listener, self.way));
    }

    fn close(&self, address: &str) {
        self.tell(Mail::Close(address.to_owned()));
    }
}

/// Accepts for the HTTP front, whose connections are tasks.
pub(crate) struct HttpGate {
    shared: Arc<Shared>,
    runtime: Handle,
    is_tls: bool,
    /// By address: what ends its accepting.
    open: Mutex<BTreeMap<String, CancellationToken>>,
}

impl HttpGate {
    /// Call it inside the runtime.
    pub(crate) fn new(shared: Arc<Shared>, is_tls: bool) -> Self {
        Self {
            shared,
            is_tls,
            runtime: Handle::current(),
            open: Mutex::default(),
        }
    }
}

impl Doors for HttpGate {
    fn open(&self, listener: Listener) {
        let _inside = self.runtime.enter();
        let address = listener.address();
        let listener = match listener {
            Listener::Tcp(listener) => tokio::net::TcpListener::from_std(listener),
            Listener::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        match listener {
            Ok(listener) => {
                let until = self.shared.kit.draining().child_token();
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.insert(address, until.clone());
                let accepting = accept_http(Arc::clone(&self.shared), listener, self.is_tls, until);
                self.shared.kit.spawn("http", accepting);
            }
            Err(error) => tracing::error!(address, error = %error, "listener cannot be watched"),
        }
    }

    fn close(&self, address: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = open.remove(address) {
            until.cancel();
        }
    }
}

/// How long accepting rests when the kernel refuses.
const ACCEPT_REST: Duration = Duration::from_millis(100);

async fn accept_http(
    shared: Arc<Shared>,
    listener: tokio::net::TcpListener,
    is_tls: bool,
    until: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = until.cancelled() => return,
            () = shared.doors_closed.cancelled() => return,
        };
        match accepted {
            Ok((stream, addr)) => {
                if let Some(place) = Place::take(&shared, addr) {
                    let serving = Arc::clone(&shared);
                    shared.kit.spawn("http-connection", async move {
                        crate::front::serve(serving, stream, addr, is_tls).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::debug!(error = %error, "accept");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// A connection's place among all that may be open, given back when dropped.
struct Place {
    shared: Arc<Shared>,
    addr: std::net::SocketAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, addr: std::net::SocketAddr) -> Option<Self> {
        let traffic = &shared.traffic;
        traffic.accepted.fetch_add(1, Ordering::Relaxed);
        let max = usize::try_from(shared.kit.common().limits.connections).unwrap_or(usize::MAX);
        let is_full = traffic.open.load(Ordering::Relaxed) >= max;
        if is_full || !shared.origins.enter(Some(addr)) {
            traffic.shed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        traffic.open.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        Some(Self { shared, addr })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.traffic.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.origins.leave(Some(self.addr));
    }
}
