//! One server of the pool: its connections, which commands it understands, and whether it is dead.
//!
//! A connection is owned by one call at a time and goes back to the pool only if every reply of that call was read. A call that is dropped,
//! times out or fails leaves its connection marked in use, and dropping the [`Lease`] then closes it: replies can never be taken for another call's.
//!
//! Life of a server: alive → (several failures in a row) → dead for a while → the next caller probes it with `mn` → alive, or dead again. Nobody's
//! request is risked on a server that was dead: the probe changes nothing.

use crate::Error;
use crate::config::{Config, Protocol, ServerConfig};
use crate::conn::{Connection, Flow, Refusal, Trouble};
use crate::metrics::{Counters, ServerMetrics, add, micros};
use bytes::BytesMut;
use ibex_base::rng::Rng;
use ibex_memcached_proto::reply::{Code, Reply};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Whether a call changes something, which decides how an unanswered one is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
}

/// Which commands a server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// memcached 1.6: the meta commands.
    Meta,
    /// Before that: get, gets, set and so on.
    Classic,
}

/// The request cannot be said in this server's dialect.
#[derive(Debug)]
pub(crate) struct TooOld;

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    dead_until: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    config: ServerConfig,
    /// The one used last is at the back and is used next, so that those too many grow old at the front.
    idle: Mutex<VecDeque<Idle>>,
    /// Connections that may be opened; callers beyond it are served in the order they came.
    places: Semaphore,
    health: Mutex<Health>,
    /// What VERSION said: 0 unknown, 1 meta, 2 classic.
    dialect: AtomicU8,
    jitter: Mutex<Rng>,
    counters: Counters,
    limits: Limits,
}

/// What the configuration says about every server.
#[derive(Debug)]
struct Limits {
    protocol: Protocol,
    connect_timeout: Duration,
    operation_timeout: Duration,
    failures_max: u32,
    dead_for: Duration,
    connections_min: usize,
    connections_max: usize,
    idle_for: Duration,
}

/// A connection in use. Returned to the pool when dropped, if `is_clean`.
struct Lease<'s> {
    server: &'s Server,
    connection: Option<Connection>,
    is_clean: bool,
    /// What the server understood when the connection was taken, whatever others find out meanwhile.
    dialect: Dialect,
    _place: SemaphorePermit<'s>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        add(
            &self.server.counters.received_bytes,
            connection.take_received_bytes(),
        );
        if self.is_clean {
            connection.shrink();
            self.server.put_back(connection);
        }
    }
}

impl Lease<'_> {
    async fn talk(
        &mut self,
        request: &[u8],
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Trouble> {
        self.is_clean = false;
        let Some(connection) = self.connection.as_mut() else {
            return Err(Trouble::Io(io::Error::other("no connection")));
        };
        add(&self.server.counters.sent_bytes, request.len() as u64);
        let talked = connection.talk(request, on_reply).await;
        // After a refusal all was read too. Bytes behind the last reply belong to nobody.
        self.is_clean = !matches!(talked, Err(Trouble::Io(_))) && connection.is_clean();
        talked
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what.to_owned())
}

impl Server {
    pub(crate) fn new(server: ServerConfig, config: &Config, seed: u64) -> Self {
        let dialect = match config.protocol {
            Protocol::Detect => 0,
            Protocol::Meta => 1,
            Protocol::Classic => 2,
        };
        Self {
            config: server,
            idle: Mutex::default(),
            places: Semaphore::new(config.connections_max),
            health: Mutex::default(),
            dialect: AtomicU8::new(dialect),
            jitter: Mutex::new(Rng::new(seed)),
            counters: Counters::default(),
            limits: Limits {
                protocol: config.protocol,
                connect_timeout: config.connect_timeout,
                operation_timeout: config.operation_timeout,
                failures_max: config.failures_max,
                dead_for: config.dead_for,
                connections_min: config.connections_min,
                connections_max: config.connections_max,
                idle_for: config.idle_for,
            },
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn dead(&self) -> Error {
        Error::Dead {
            server: self.name().to_owned(),
        }
    }

    /// Whether calls should go elsewhere. A server whose time is over counts as alive: the next caller probes it.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.health)
            .dead_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Whether calls may be made. When the dead time is over one caller probes the server and the others are kept out until it came back.
    pub(crate) async fn is_usable(&self) -> bool {
        {
            let mut health = lock(&self.health);
            match health.dead_until {
                None => return true,
                Some(until) if Instant::now() < until => return false,
                // Taken by this caller; if it is dropped meanwhile, the next one probes after this time.
                Some(_) => {
                    health.dead_until = Some(Instant::now() + self.limits.operation_timeout);
                }
            }
        }
        match self.probe().await {
            Ok(()) => {
                tracing::debug!(server = %self.config.name, "server is back");
                self.succeeded();
                true
            }
            Err(error) => {
                tracing::debug!(server = %self.config.name, %error, "server is still dead");
                self.failed();
                false
            }
        }
    }

    /// Asks a new connection for a sign of life.
    async fn probe(&self) -> io::Result<()> {
        let ask = async {
            let place = self.places.acquire().await.map_err(io::Error::other)?;
            lock(&self.idle).clear();
            let mut lease = self.checkout(place).await?;
            let request: &[u8] = match lease.dialect {
                Dialect::Classic => b"version\r\n",
                Dialect::Meta => b"mn\r\n",
            };
            let read = |reply: Reply<'_>| match reply {
                Reply::Meta { code: Code::Mn, .. } | Reply::Version(_) => Ok(Flow::Done),
                other => crate::refused(&other),
            };
            lease
                .talk(request, read)
                .await
                .map_err(|trouble| match trouble {
                    Trouble::Io(error) => error,
                    Trouble::Refused(text) => io::Error::other(text),
                })
        };
        tokio::time::timeout(self.limits.operation_timeout, ask)
            .await
            .unwrap_or_else(|_| Err(timed_out("no answer to the probe")))
    }

    fn succeeded(&self) {
        let mut health = lock(&self.health);
        if health.failures > 0 || health.dead_until.is_some() {
            *health = Health::default();
        }
    }

    fn failed(&self) {
        add(&self.counters.failures, 1);
        self.forget_dialect();
        let mut health = lock(&self.health);
        health.failures = health.failures.saturating_add(1);
        if health.failures < self.limits.failures_max {
            return;
        }
        let dead_for = self.limits.dead_for;
        let quarter = u64::try_from(dead_for.as_millis() / 4)
            .unwrap_or(u64::MAX)
            .max(1);
        let jitter = Duration::from_millis(lock(&self.jitter).below(quarter));
        health.dead_until = Some(Instant::now() + dead_for + jitter);
        add(&self.counters.deaths, 1);
        tracing::debug!(server = %self.config.name, "server is dead");
        // What waits in the pool belongs to the dead server too.
        lock(&self.idle).clear();
    }

    /// Says `request` in the server's dialect and hands every reply to `on_reply` until it says [`Flow::Done`].
    pub(crate) async fn exchange(
        &self,
        operation: &'static str,
        effect: Effect,
        request: impl FnOnce(Dialect, &mut BytesMut) -> Result<(), TooOld>,
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        add(&self.counters.operations, 1);
        let result = self
            .exchange_until(begun, operation, effect, request, on_reply)
            .await;
        let elapsed = begun.elapsed();
        add(&self.counters.elapsed_us, micros(elapsed));
        tracing::trace!(
            server = %self.config.name,
            operation,
            elapsed_us = micros(elapsed),
            error = result.as_ref().err().map(tracing::field::display),
            "exchange"
        );
        result
    }

    async fn exchange_until(
        &self,
        begun: Instant,
        operation: &'static str,
        effect: Effect,
        request: impl FnOnce(Dialect, &mut BytesMut) -> Result<(), TooOld>,
        on_reply: impl FnMut(Reply<'_>) -> Result<Flow, Refusal>,
    ) -> Result<(), Error> {
        let deadline = begun + self.limits.operation_timeout;
        let mut lease = self.lease(begun, deadline).await?;
        let mut bytes = BytesMut::with_capacity(64);
        if let Err(TooOld) = request(lease.dialect, &mut bytes) {
            return Err(Error::Unsupported {
                server: self.name().to_owned(),
                operation,
            });
        }
        let asked = Instant::now();
        let talked = tokio::time::timeout_at(deadline, lease.talk(&bytes, on_reply))
            .await
            .unwrap_or_else(|_| Err(timed_out("no answer within the deadline").into()));
        if let Err(Trouble::Io(error)) = &talked {
            self.blame(error, deadline - asked);
        }
        self.judge(talked, operation, effect)
    }

    /// Counts a failure against the server, unless it is only that the call had waited for others until its time was over.
    fn blame(&self, error: &io::Error, given: Duration) {
        let fair = (self.limits.operation_timeout / 2).min(self.limits.connect_timeout);
        let is_late = error.kind() == io::ErrorKind::TimedOut;
        if is_late && given < fair {
            return;
        }
        if is_late {
            add(&self.counters.timeouts, 1);
        }
        self.failed();
    }

    /// A connection for one exchange.
    async fn lease(&self, begun: Instant, deadline: Instant) -> Result<Lease<'_>, Error> {
        let not_connected = |source| Error::Connect {
            server: self.name().to_owned(),
            source,
        };
        // Waiting for a place is the callers' own doing: it fails the call, but says nothing about the server.
        let place = {
            let _waiting = self.counters.wait();
            let place = tokio::time::timeout_at(deadline, self.places.acquire()).await;
            add(&self.counters.waited_us, micros(begun.elapsed()));
            match place {
                Ok(place) => place.map_err(|closed| not_connected(io::Error::other(closed)))?,
                Err(_) => return Err(not_connected(timed_out("no connection became free"))),
            }
        };
        let given = deadline - Instant::now();
        tokio::time::timeout_at(deadline, self.checkout(place))
            .await
            .unwrap_or_else(|_| Err(timed_out("no connection within the deadline")))
            .map_err(|source| {
                self.blame(&source, given);
                not_connected(source)
            })
    }

    /// What the end of a talk means for the caller and for the server's health.
    fn judge(
        &self,
        talked: Result<(), Trouble>,
        operation: &'static str,
        effect: Effect,
    ) -> Result<(), Error> {
        let server = || self.name().to_owned();
        match talked {
            Ok(()) => {
                self.succeeded();
                Ok(())
            }
            Err(Trouble::Refused(text)) => {
                add(&self.counters.refusals, 1);
                self.succeeded();
                Err(Error::Refused {
                    server: server(),
                    operation,
                    text,
                })
            }
            Err(Trouble::Io(source)) => Err(match effect {
                Effect::Reads => Error::Lost {
                    server: server(),
                    operation,
                    source,
                },
                Effect::Writes => Error::OutcomeUnknown {
                    server: server(),
                    operation,
                    source,
                },
            }),
        }
    }

    /// An idle connection that still stands, or a new one; and by then the dialect is known.
    async fn checkout<'s>(&'s self, place: SemaphorePermit<'s>) -> io::Result<Lease<'s>> {
        let fresh = loop {
            // The guard must not live into the body: an unfresh connection is dropped outside the lock.
            let candidate = lock(&self.idle).pop_back();
            match candidate {
                Some(idle) if idle.connection.is_fresh() => break Some(idle.connection),
                // Closed by the server: perhaps another one listens there now.
                Some(_) => self.forget_dialect(),
                None => break None,
            }
        };
        let connection = match fresh {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut lease = Lease {
            server: self,
            connection: Some(connection),
            is_clean: true,
            // Every server understands these.
            dialect: Dialect::Classic,
            _place: place,
        };
        lease.dialect = match self.dialect() {
            Some(known) => known,
            None => self.detect(&mut lease).await?,
        };
        Ok(lease)
    }

    async fn connect(&self) -> io::Result<Connection> {
        add(&self.counters.connects, 1);
        tokio::time::timeout(
            self.limits.connect_timeout,
            Connection::open(&self.config.address),
        )
        .await
        .unwrap_or_else(|_| Err(timed_out("no connection within the connect timeout")))
    }

    fn dialect(&self) -> Option<Dialect> {
        match self.dialect.load(Ordering::Relaxed) {
            1 => Some(Dialect::Meta),
            2 => Some(Dialect::Classic),
            _ => None,
        }
    }

    /// Whoever comes back there may be another version.
    fn forget_dialect(&self) {
        if self.limits.protocol == Protocol::Detect {
            self.dialect.store(0, Ordering::Relaxed);
        }
    }

    /// Asks for the version. A peer that does not tell one, as some proxies do, is spoken to in the commands everybody knows.
    async fn detect(&self, lease: &mut Lease<'_>) -> io::Result<Dialect> {
        let mut dialect = Dialect::Classic;
        let read = |reply: Reply<'_>| match reply {
            Reply::Version(text) => {
                if knows_meta(text) {
                    dialect = Dialect::Meta;
                }
                Ok(Flow::Done)
            }
            other => crate::refused(&other),
        };
        match lease.talk(b"version\r\n", read).await {
            Ok(()) | Err(Trouble::Refused(_)) => {}
            Err(Trouble::Io(error)) => return Err(error),
        }
        let known = match dialect {
            Dialect::Meta => 1,
            Dialect::Classic => 2,
        };
        self.dialect.store(known, Ordering::Relaxed);
        Ok(dialect)
    }

    fn busy(&self) -> usize {
        self.limits
            .connections_max
            .saturating_sub(self.places.available_permits())
    }

    fn put_back(&self, connection: Connection) {
        let since = Instant::now();
        let mut idle = lock(&self.idle);
        idle.push_back(Idle { connection, since });
        // The one put back still counts as busy: its place is given up after this.
        while idle.len() + self.busy() > self.limits.connections_min + 1
            && idle
                .front()
                .is_some_and(|oldest| since - oldest.since >= self.limits.idle_for)
        {
            idle.pop_front();
        }
    }

    /// Opens connections until there are as many as the pool keeps. A server that is away is left for the calls to find out.
    pub(crate) async fn warm_up(&self) {
        for _ in 0..self.limits.connections_min {
            let Ok(place) = self.places.acquire().await else {
                return;
            };
            let opened = tokio::time::timeout(self.limits.operation_timeout, self.connect()).await;
            match opened {
                Ok(Ok(connection)) => self.put_back(connection),
                Ok(Err(error)) => {
                    tracing::debug!(server = %self.config.name, %error, "not connected in advance");
                    return;
                }
                Err(_) => return,
            }
            drop(place);
        }
    }

    pub(crate) fn metrics(&self, is_gutter: bool) -> ServerMetrics {
        let counters = &self.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        ServerMetrics {
            server: self.name().to_owned(),
            is_gutter,
            is_dead: self.is_dead(),
            connections_idle: lock(&self.idle).len(),
            connections_busy: self.busy(),
            callers_waiting: counters.waiting.load(Ordering::Relaxed),
            operations: read(&counters.operations),
            failures: read(&counters.failures),
            timeouts: read(&counters.timeouts),
            refusals: read(&counters.refusals),
            connects: read(&counters.connects),
            deaths: read(&counters.deaths),
            sent_bytes: read(&counters.sent_bytes),
            received_bytes: read(&counters.received_bytes),
            waited: Duration::from_micros(read(&counters.waited_us)),
            elapsed: Duration::from_micros(read(&counters.elapsed_us)),
        }
    }
}

/// Whether a server of this version has the meta commands: 1.6 and later.
fn knows_meta(version: &[u8]) -> bool {
    let text = String::from_utf8_lossy(version);
    let mut numbers = text.trim().split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (1, 6),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_meta_commands() {
        for version in ["1.6.0", "1.6.45", "1.10.1", "2.0.0-rc1", " 1.6.18"] {
            assert!(knows_meta(version.as_bytes()), "{version}");
        }
        for version in ["1.5.22", "1.4.15", "0.9", "", "mcrouter 1.0", "1"] {
            assert!(!knows_meta(version.as_bytes()), "{version}");
        }
    }
}
