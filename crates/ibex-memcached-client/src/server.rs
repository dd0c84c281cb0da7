//! One server of the pool: its connections, and whether it is dead.
//!
//! A connection is owned by one call at a time and goes back to the pool only if every reply of that call was read. A call that is dropped,
//! times out or fails leaves its connection marked in use, and dropping the [`Lease`] then closes it: replies can never be taken for another call's.

use crate::Error;
use crate::config::{Address, Config, ServerConfig};
use bytes::BytesMut;
use ibex_base::rng::Rng;
use ibex_memcached_proto::reply::{Malformed, Reply, Step, parse};
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// First size of a read buffer, in bytes: most replies fit.
const READ_BUFFER_BYTES: usize = 4096;
/// Read buffers above this are not kept with an idle connection.
const READ_BUFFER_BYTES_KEPT: usize = 256 << 10;

/// Whether a call changes something, which decides how an unanswered one is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
}

/// What the reader of replies wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    More,
    Done,
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

#[derive(Debug)]
struct Connection {
    stream: Stream,
    read: BytesMut,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    dead_until: Option<Instant>,
}

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    config: ServerConfig,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
    health: Mutex<Health>,
    jitter: Mutex<Rng>,
    connect_timeout: Duration,
    operation_timeout: Duration,
    failures_max: u32,
    dead_for: Duration,
}

/// A connection in use. Returned to the pool when dropped, if `clean`.
struct Lease<'s> {
    server: &'s Server,
    connection: Option<Connection>,
    clean: bool,
    _place: SemaphorePermit<'s>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let (true, Some(mut connection)) = (self.clean, self.connection.take()) {
            if connection.read.capacity() > READ_BUFFER_BYTES_KEPT {
                connection.read = BytesMut::with_capacity(READ_BUFFER_BYTES);
            }
            lock(&self.server.idle).push(connection);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "deadline passed")
}

impl Server {
    pub(crate) fn new(server: ServerConfig, config: &Config, seed: u64) -> Self {
        Self {
            config: server,
            idle: Mutex::default(),
            places: Semaphore::new(config.connections_max),
            health: Mutex::default(),
            jitter: Mutex::new(Rng::new(seed)),
            connect_timeout: config.connect_timeout,
            operation_timeout: config.operation_timeout,
            failures_max: config.failures_max,
            dead_for: config.dead_for,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether calls should go elsewhere. A server whose time is over counts as alive for one caller, the probe.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.health)
            .dead_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Lets one caller through when the dead time is over and keeps the others out until it came back.
    fn admit(&self) -> Result<(), Error> {
        let mut health = lock(&self.health);
        match health.dead_until {
            Some(until) if Instant::now() < until => Err(Error::Dead {
                server: self.name().to_owned(),
            }),
            Some(_) => {
                health.dead_until = Some(Instant::now() + self.operation_timeout);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn succeeded(&self) {
        let mut health = lock(&self.health);
        if health.failures > 0 || health.dead_until.is_some() {
            *health = Health::default();
        }
    }

    fn failed(&self) {
        let mut health = lock(&self.health);
        health.failures = health.failures.saturating_add(1);
        if health.failures >= self.failures_max {
            let quarter = u64::try_from(self.dead_for.as_millis() / 4)
                .unwrap_or(u64::MAX)
                .max(1);
            let jitter = Duration::from_millis(lock(&self.jitter).below(quarter));
            health.dead_until = Some(Instant::now() + self.dead_for + jitter);
            tracing::debug!(server = %self.config.name, "server is dead");
            // What waits in the pool belongs to the dead server too.
            lock(&self.idle).clear();
        }
    }

    /// Sends `request` and hands every reply to `on_reply` until it says [`Flow::Done`].
    pub(crate) async fn exchange(
        &self,
        operation: &'static str,
        effect: Effect,
        request: &[u8],
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Error> {
        self.admit()?;
        let deadline = Instant::now() + self.operation_timeout;
        let not_connected = |source| Error::Connect {
            server: self.name().to_owned(),
            source,
        };
        // Waiting for a place is the callers' own doing: it fails the call, but says nothing about the server.
        let place = match tokio::time::timeout_at(deadline, self.places.acquire()).await {
            Ok(place) => place.map_err(|closed| not_connected(io::Error::other(closed)))?,
            Err(_) => return Err(not_connected(timed_out())),
        };
        let checked_out = tokio::time::timeout_at(deadline, self.checkout(place)).await;
        let mut lease = checked_out
            .unwrap_or_else(|_| Err(timed_out()))
            .map_err(|source| {
                self.failed();
                not_connected(source)
            })?;
        let talked = tokio::time::timeout_at(deadline, lease.talk(request, on_reply))
            .await
            .unwrap_or_else(|_| Err(timed_out().into()));
        match talked {
            Ok(()) => {
                self.succeeded();
                Ok(())
            }
            Err(Trouble::Refused(text)) => {
                self.succeeded();
                Err(Error::Refused {
                    server: self.name().to_owned(),
                    operation,
                    text,
                })
            }
            Err(Trouble::Io(source)) => {
                self.failed();
                let server = self.name().to_owned();
                Err(match effect {
                    Effect::Reads => Error::Lost {
                        server,
                        operation,
                        source,
                    },
                    Effect::Writes => Error::OutcomeUnknown {
                        server,
                        operation,
                        source,
                    },
                })
            }
        }
    }

    async fn checkout<'s>(&'s self, place: SemaphorePermit<'s>) -> io::Result<Lease<'s>> {
        let fresh = loop {
            // The guard must not live into the body: an unfresh connection is dropped outside the lock.
            let candidate = lock(&self.idle).pop();
            match candidate {
                Some(connection) if connection.stream.is_fresh() => break Some(connection),
                Some(_) => {}
                None => break None,
            }
        };
        let connection = match fresh {
            Some(connection) => connection,
            None => tokio::time::timeout(self.connect_timeout, self.connect())
                .await
                .unwrap_or_else(|_| Err(timed_out()))?,
        };
        Ok(Lease {
            server: self,
            connection: Some(connection),
            clean: true,
            _place: place,
        })
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = match &self.config.address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        };
        Ok(Connection {
            stream,
            read: BytesMut::with_capacity(READ_BUFFER_BYTES),
        })
    }
}

/// A server's error reply; the exchange still reads what else it asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    pub(crate) flow: Flow,
}

enum Trouble {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lease<'_> {
    /// Writes and reads at the same time, because a server stops reading from a client that does not read.
    async fn talk(
        &mut self,
        request: &[u8],
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Trouble> {
        self.clean = false;
        let Some(connection) = self.connection.as_mut() else {
            return Err(Trouble::Io(io::Error::other("no connection")));
        };
        let Connection { stream, read } = connection;
        let (mut receiver, mut sender) = tokio::io::split(stream);
        let sending = async {
            sender.write_all(request).await?;
            sender.flush().await.map_err(Trouble::from)
        };
        let ((), refused) = tokio::try_join!(sending, receive(&mut receiver, read, on_reply))?;
        // Bytes behind the last reply belong to nobody.
        self.clean = read.is_empty();
        refused.map_or(Ok(()), |text| Err(Trouble::Refused(text)))
    }
}

/// Reads replies until done; returns the first refusal met on the way.
async fn receive(
    receiver: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
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
        if receiver.read_buf(read).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
