//! Listeners: own TCP and unix sockets, or those systemd passed.
//!
//! Owns binding (SO_REUSEADDR, SO_REUSEPORT groups, stale unix sockets, several addresses), the async accept with its answer
//! to descriptor exhaustion, and the names under which addresses are published. What is said on a connection is not its matter.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::{error, warn};

use crate::config::types::ListenAddr;
use crate::failure::Failure;
use crate::lock;

/// Connections the kernel keeps waiting for us. Policy beyond: the kernel drops the SYN and the client tries again.
const BACKLOG: i32 = 4096;
/// A peer silent for this long is asked whether it lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// And again after this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// After shedding one connection for want of descriptors, wait this long: no spinning at 100 % CPU.
const SHED_PAUSE: Duration = Duration::from_millis(20);

/// Connections closed at once for want of descriptors, in the whole process.
static SHED: AtomicU64 = AtomicU64::new(0);

/// How many connections were shed so far.
pub(crate) fn shed_count() -> u64 {
    SHED.load(Ordering::Relaxed)
}

/// A bound, non-blocking listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix stream.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// The address as published in the port file: `127.0.0.1:4730`, `[::1]:4730` or `unix:/path`.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string()),
            Self::Unix(listener) => {
                let addr = listener.local_addr().ok();
                let path = addr
                    .as_ref()
                    .and_then(std::os::unix::net::SocketAddr::as_pathname);
                path.map_or_else(
                    || "unix:".to_owned(),
                    |path| format!("unix:{}", path.display()),
                )
            }
        }
    }

    /// The TCP address, if it is TCP.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// For use on a tokio runtime; must be called inside one.
    ///
    /// # Errors
    /// The reactor refuses the socket.
    pub fn into_tokio(self) -> io::Result<AsyncListener> {
        let inner = match self {
            Self::Tcp(listener) => AnyListener::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener) => {
                AnyListener::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        };
        Ok(AsyncListener {
            inner,
            spare: Mutex::new(Spare::open()),
        })
    }
}

#[derive(Debug)]
enum AnyListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A descriptor kept in reserve, so that a connection can be accepted and closed when no other is left.
#[derive(Debug)]
struct Spare {
    fd: Option<OwnedFd>,
    logged: Option<Instant>,
    shed: u64,
}

impl Spare {
    fn open() -> Self {
        Self {
            fd: open_null(),
            logged: None,
            shed: 0,
        }
    }
}

fn open_null() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// A listener on a tokio runtime.
#[derive(Debug)]
pub struct AsyncListener {
    inner: AnyListener,
    spare: Mutex<Spare>,
}

impl AsyncListener {
    /// The next connection, with keepalive and no delay set. Out of descriptors, it sheds connections (accept and close) and goes on.
    ///
    /// # Errors
    /// The listener itself is broken; a connection that failed on its way in is not an error.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        loop {
            match self.accept_once().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) if out_of_descriptors(&error) => {
                    self.shed();
                    tokio::time::sleep(SHED_PAUSE).await;
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Stream, Peer)> {
        match &self.inner {
            AnyListener::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                tune(&stream);
                Ok((Stream::Tcp(stream), Peer::Tcp(addr)))
            }
            AnyListener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
                Ok((Stream::Unix(stream), Peer::Unix(pid)))
            }
        }
    }

    /// Accepts with the spare descriptor and closes at once: the client learns of it, and the queue moves.
    fn shed(&self) {
        let mut spare = lock(&self.spare);
        spare.fd = None;
        let accepted = match &self.inner {
            AnyListener::Tcp(listener) => rustix::net::accept(listener.as_fd()).is_ok(),
            AnyListener::Unix(listener) => rustix::net::accept(listener.as_fd()).is_ok(),
        };
        spare.shed += u64::from(accepted);
        SHED.fetch_add(u64::from(accepted), Ordering::Relaxed);
        spare.fd = open_null();
        if spare
            .logged
            .is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
        {
            error!(
                shed = spare.shed,
                "out of file descriptors, connections are closed at once (raise LimitNOFILE)"
            );
            spare.logged = Some(Instant::now());
        }
    }

    /// The address as published.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.inner {
            AnyListener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string()),
            AnyListener::Unix(listener) => {
                let addr = listener.local_addr().ok();
                let path = addr
                    .as_ref()
                    .and_then(tokio::net::unix::SocketAddr::as_pathname);
                path.map_or_else(
                    || "unix:".to_owned(),
                    |path| format!("unix:{}", path.display()),
                )
            }
        }
    }
}

fn tune(stream: &tokio::net::TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    // A peer that is gone already fails these; the first read will say so.
    let _ignored = socket.set_tcp_keepalive(&keepalive).is_ok()
        && socket.set_tcp_user_timeout(Some(KEEPALIVE_IDLE)).is_ok();
    let _ignored = stream.set_nodelay(true).is_ok();
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    )
}

/// accept(2) also reports errors of the connection it would have returned; those are the peer's matter.
fn is_of_the_connection(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let of_connection = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::PERM,
    ];
    errno.is_some_and(|errno| of_connection.contains(&errno))
}

/// A connection, TCP or unix.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(tokio::net::TcpStream),
    /// Unix stream.
    Unix(tokio::net::UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine, with its id if the kernel told.
    Unix(Option<i32>),
}

impl Peer {
    /// The IP address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(Some(pid)) => write!(f, "unix:pid={pid}"),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

/// Binds one configured address; `reuseport` lets several sockets share it. A `:port` may give two sockets.
pub(crate) fn bind(
    addr: &ListenAddr,
    reuseport: bool,
    flag: &str,
) -> Result<Vec<Listener>, Failure> {
    let failure = |error: &io::Error| {
        let hint = if error.kind() == io::ErrorKind::AddrInUse {
            format!("address in use (another daemon? try {flag}, or ss -ltnp)")
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "permission denied (a port below 1024? use socket activation)".to_owned()
        } else {
            format!("{error} (is this an address of this machine? try {flag})")
        };
        Failure::address(format!("listen {addr}: {hint}"))
    };
    match addr {
        ListenAddr::Tcp {
            host: Some(host),
            port,
        } => {
            let addrs: Vec<SocketAddr> = (host.as_str(), *port)
                .to_socket_addrs()
                .map_err(|error| {
                    Failure::address(format!("listen {addr}: cannot resolve {host}: {error}"))
                })?
                .collect();
            let first = addrs
                .first()
                .ok_or_else(|| Failure::address(format!("listen {addr}: {host} has no address")))?;
            bind_tcp(*first, reuseport)
                .map(|listener| vec![listener])
                .map_err(|error| failure(&error))
        }
        ListenAddr::Tcp { host: None, port } => {
            let four = bind_tcp(SocketAddr::from(([0, 0, 0, 0], *port)), reuseport)
                .map_err(|error| failure(&error))?;
            let mut all = vec![four];
            // Port 0 names one port; a machine without IPv6 has only the first socket.
            if *port != 0 {
                match bind_tcp(SocketAddr::from(([0; 8], *port)), reuseport) {
                    Ok(six) => all.push(six),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        return Err(failure(&error));
                    }
                    Err(_) => {}
                }
            }
            Ok(all)
        }
        ListenAddr::Unix(path) => bind_unix(path)
            .map(|listener| vec![listener])
            .map_err(|error| failure(&error)),
        ListenAddr::Fd(name) => Err(Failure::config(format!(
            "listen fd:{name}: no socket of this name was passed (FileDescriptorName= in the .socket unit)"
        ))),
    }
}

/// Binds a datagram socket for each configured TCP-like address; unix paths have none.
pub(crate) fn bind_udp(addr: &ListenAddr, flag: &str) -> Result<Vec<std::net::UdpSocket>, Failure> {
    let ListenAddr::Tcp { host, port } = addr else {
        return Ok(Vec::new());
    };
    let hosts = host
        .as_deref()
        .map_or_else(|| vec!["0.0.0.0", "::"], |host| vec![host]);
    let mut sockets = Vec::new();
    for host in hosts {
        let found = (host, *port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        let target = found
            .ok_or_else(|| Failure::address(format!("listen udp {addr}: cannot resolve {host}")))?;
        match bind_datagram(target) {
            Ok(socket) => sockets.push(socket),
            // A machine without IPv6 has only the first socket of `:port`.
            Err(error) if !sockets.is_empty() && error.kind() != io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(Failure::address(format!(
                    "listen udp {addr}: {error} (try {flag})"
                )));
            }
        }
        if *port == 0 {
            break;
        }
    }
    Ok(sockets)
}

fn bind_datagram(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::DGRAM.nonblocking().cloexec(),
        None,
    )?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket.into())
}

/// Makes a datagram socket of a passed one; a stream socket is handed back.
pub(crate) fn adopt_udp(fd: OwnedFd) -> Result<std::net::UdpSocket, OwnedFd> {
    let socket = Socket::from(fd);
    let is_datagram = socket.r#type().is_ok_and(|kind| kind == Type::DGRAM);
    if is_datagram && socket.set_nonblocking(true).is_ok() && socket.set_cloexec(true).is_ok() {
        Ok(socket.into())
    } else {
        Err(OwnedFd::from(socket))
    }
}

fn bind_tcp(addr: SocketAddr, reuseport: bool) -> io::Result<Listener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    if reuseport {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    Ok(Listener::Tcp(socket.into()))
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(Listener::Unix(socket.into()))
}

/// Removes a socket file nobody listens on; a file that is not a socket is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "exists and is not a socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

/// Makes a listener of a passed socket.
pub(crate) fn adopt(fd: OwnedFd, name: &str) -> Result<Listener, Failure> {
    let bad = |why: &str| Failure::config(format!("passed socket {name}: {why}"));
    let socket = Socket::from(fd);
    socket
        .set_nonblocking(true)
        .map_err(|error| bad(&error.to_string()))?;
    socket
        .set_cloexec(true)
        .map_err(|error| bad(&error.to_string()))?;
    let domain = socket.domain().map_err(|error| bad(&error.to_string()))?;
    let listens = socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.is_listener().unwrap_or(false);
    if !listens {
        return Err(bad("is not a listening stream socket"));
    }
    if domain == Domain::UNIX {
        Ok(Listener::Unix(socket.into()))
    } else if domain == Domain::IPV4 || domain == Domain::IPV6 {
        Ok(Listener::Tcp(socket.into()))
    } else {
        Err(bad("is of an unknown family"))
    }
}

/// Unix sockets this process made, removed at its end.
#[derive(Debug, Default)]
pub(crate) struct OwnSockets(Mutex<Vec<PathBuf>>);

impl OwnSockets {
    pub(crate) fn add(&self, path: PathBuf) {
        lock(&self.0).push(path);
    }

    /// Removes one, if it is ours.
    pub(crate) fn remove(&self, path: &Path) {
        let mut all = lock(&self.0);
        if let Some(index) = all.iter().position(|own| own == path) {
            all.swap_remove(index);
            unlink(path);
        }
    }

    pub(crate) fn remove_all(&self) {
        for path in lock(&self.0).drain(..) {
            unlink(&path);
        }
    }
}

fn unlink(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), error = %error, "socket file stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn addr(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn tcp_accepts_and_echoes() {
        let listener = bind(&addr("127.0.0.1:0"), false, "--listen")
            .unwrap()
            .remove(0);
        let target = listener.tcp_addr().unwrap();
        let listener = listener.into_tokio().unwrap();
        let client = tokio::spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(target).await.unwrap();
            stream.write_all(b"ping").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let (mut stream, peer) = listener.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
        assert!(peer.ip().unwrap().is_loopback());
        client.await.unwrap();
    }

    #[test]
    fn a_busy_port_says_so_with_a_hint() {
        let first = bind(&addr("127.0.0.1:0"), false, "--listen")
            .unwrap()
            .remove(0);
        let busy = addr(&first.address());
        let failure = bind(&busy, false, "--listen").unwrap_err();
        assert_eq!(failure.kind(), crate::failure::Kind::Address);
        assert!(failure.to_string().contains("address in use"), "{failure}");
    }

    #[test]
    fn datagram_sockets() {
        let mut sockets = bind_udp(&addr("127.0.0.1:0"), "").unwrap();
        let socket = sockets.remove(0);
        let target = socket.local_addr().unwrap();
        let adopted = adopt_udp(OwnedFd::from(socket)).unwrap();
        assert_eq!(adopted.local_addr().unwrap(), target);
        assert!(
            bind_udp(&addr(&target.to_string()), "-U")
                .unwrap_err()
                .to_string()
                .contains("listen udp")
        );
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(adopt_udp(OwnedFd::from(stream)).is_err());
        assert!(bind_udp(&addr("unix:/x"), "").unwrap().is_empty());
    }

    #[test]
    fn reuseport_shares_a_port() {
        let first = bind(&addr("127.0.0.1:0"), true, "").unwrap().remove(0);
        let second = bind(&addr(&first.address()), true, "").unwrap().remove(0);
        assert_eq!(first.address(), second.address());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listen = ListenAddr::Unix(path.clone());
        let live = bind(&listen, false, "").unwrap();
        assert!(
            bind(&listen, false, "")
                .unwrap_err()
                .to_string()
                .contains("address in use")
        );
        drop(live);
        assert!(path.exists());
        drop(bind(&listen, false, "").unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&listen, false, "").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_passed_socket_is_adopted_and_a_client_socket_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = listener.local_addr().unwrap();
        let adopted = adopt(OwnedFd::from(listener), "http").unwrap();
        assert_eq!(adopted.tcp_addr(), Some(expected));
        let client = std::net::TcpStream::connect(expected).unwrap();
        assert!(
            adopt(OwnedFd::from(client), "http")
                .unwrap_err()
                .to_string()
                .contains("not a listening")
        );
    }
}
