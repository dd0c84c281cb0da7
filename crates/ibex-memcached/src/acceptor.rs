//! The acceptor thread: takes connections and gives each to the worker that has the fewest.
//!
//! One place that counts connections makes the limit exact, and few long-lived connections (the usual case of a cache) are spread evenly, which the kernel's
//! SO_REUSEPORT hash does not do.

use crate::shared::Shared;
use crate::stream::{Door, Stream};
use crate::ways::Way;
use crate::worker::{Arrival, Handle};
use ibex_kit::{Doors, Heartbeat, Listener};
use ibex_memcached_proto::texts;
use mio::{Events, Poll, Token, Waker};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const WAKER: Token = Token(usize::MAX);
/// The thread turns at least this often, for its heartbeat.
const TURN_MAX: Duration = Duration::from_millis(1000);
/// Pause while no connection may be accepted, or the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(10);
/// Time between two lines that an accept failed.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// Accepts of one door in a row.
const BATCH: usize = 256;

/// A listener that comes or goes.
#[derive(Debug)]
enum Change {
    Open(Listener, Way),
    Close(String),
}

/// Hands the listeners of one way to the acceptor: those of the start, and those that a reload adds and removes.
#[derive(Debug)]
pub(crate) struct Gate {
    way: Way,
    changes: Sender<Change>,
    waker: Arc<Waker>,
    backlog: i32,
    unix_mode: u32,
}

impl Gate {
    /// The acceptor's thread ends with the daemon; what comes later is of no consequence.
    fn tell(&self, change: Change) {
        if self.changes.send(change).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "acceptor was not woken");
        }
    }

    /// What the configuration says of every listener.
    fn tune(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => rustix::net::listen(listener, self.backlog)?,
            Listener::Unix(listener) => {
                rustix::net::listen(listener, self.backlog)?;
                if let Some(path) = listener.local_addr()?.as_pathname() {
                    use std::os::unix::fs::PermissionsExt as _;
                    let mode = std::fs::Permissions::from_mode(self.unix_mode);
                    std::fs::set_permissions(path, mode)?;
                }
            }
        }
        Ok(())
    }
}

impl Doors for Gate {
    fn open(&self, listener: Listener) {
        if let Err(error) = self.tune(&listener) {
            tracing::warn!(address = %listener.address(), %error, "listener keeps its defaults");
        }
        self.tell(Change::Open(listener, self.way));
    }

    fn close(&self, address: &str) {
        self.tell(Change::Close(address.to_owned()));
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    poll: Poll,
    waker: Arc<Waker>,
    changes: (Sender<Change>, Receiver<Change>),
    /// By token.
    doors: BTreeMap<usize, Door>,
    next_token: usize,
    workers: Vec<Handle>,
    limit: u64,
    heartbeat: Heartbeat,
    /// Since when no connection is accepted.
    full_since: Cell<Option<Instant>>,
    /// When it was last told that an accept failed.
    warned: Cell<Option<Instant>>,
}

impl Acceptor {
    pub(crate) fn new(shared: Arc<Shared>, workers: Vec<Handle>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let limit = u64::from(shared.kit.common().limits.connections);
        let heartbeat = shared.kit.heartbeat("acceptor");
        Ok(Self {
            shared,
            poll,
            waker,
            changes: channel(),
            doors: BTreeMap::new(),
            next_token: 0,
            workers,
            limit,
            heartbeat,
            full_since: Cell::new(None),
            warned: Cell::new(None),
        })
    }

    /// Wakes the thread, to see that the daemon stops.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Where listeners of a way are handed in.
    pub(crate) fn gate(&self, way: Way) -> Gate {
        let config = &self.shared.config;
        Gate {
            way,
            changes: self.changes.0.clone(),
            waker: self.waker(),
            backlog: i32::try_from(config.backlog).unwrap_or(i32::MAX),
            unix_mode: config.unix_mask,
        }
    }

    /// Takes up the listeners that came and lets go of those that went.
    ///
    /// # Errors
    /// A listener cannot be polled.
    pub(crate) fn change_doors(&mut self) -> io::Result<()> {
        while let Ok(change) = self.changes.1.try_recv() {
            match change {
                Change::Open(listener, way) => {
                    let mut door = Door::new(listener, way);
                    door.register(self.poll.registry(), Token(self.next_token))?;
                    let shown = (door.fd(), door.address.to_string());
                    self.shared.change_listeners(|all| all.push(shown));
                    self.doors.insert(self.next_token, door);
                    self.next_token += 1;
                }
                Change::Close(address) => self.close_door(&address),
            }
        }
        Ok(())
    }

    /// Closes a listener; who is in its queue already comes in.
    fn close_door(&mut self, address: &str) {
        let found = self
            .doors
            .iter()
            .find(|(_, door)| *door.address == *address);
        let Some((token, fd)) = found.map(|(token, door)| (*token, door.fd())) else {
            return;
        };
        if let Some(door) = self.doors.remove(&token) {
            while !self.is_full() || self.shared.config.maxconns_fast {
                match door.accept(self.shared.tls.as_ref()) {
                    Ok((stream, peer)) => self.take(stream, peer, &door),
                    Err(_) => break,
                }
            }
        }
        self.shared
            .change_listeners(|all| all.retain(|(known, _)| *known != fd));
    }

    /// Runs until the daemon stops; the doors close with it.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        let mut pending = false;
        while !self.shared.is_stopping() {
            let timeout = if pending { PAUSE } else { TURN_MAX };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            self.heartbeat.beat();
            self.change_doors()?;
            let is_ready = pending || !events.is_empty();
            pending = is_ready && self.accept_all();
        }
        for worker in &self.workers {
            worker.waker.wake()?;
        }
        Ok(())
    }

    /// Accepts what waits; `true` if somebody may still wait and it must be tried again.
    fn accept_all(&self) -> bool {
        let mut again = false;
        for door in self.doors.values() {
            for turn in 0.. {
                let is_shut = self.is_full() && !self.shared.config.maxconns_fast;
                self.set_accepting(!is_shut);
                if turn == BATCH || is_shut {
                    again = true;
                    break;
                }
                match door.accept(self.shared.tls.as_ref()) {
                    Ok((stream, peer)) => self.take(stream, peer, door),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error)
                        if error.kind() == io::ErrorKind::ConnectionAborted
                            || error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.warn(&error);
                        again = true;
                        break;
                    }
                }
            }
        }
        again
    }

    /// Not more than once a second: strangers can bring it about.
    fn warn(&self, error: &io::Error) {
        let last = self.warned.get();
        if last.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned.set(Some(Instant::now()));
            tracing::warn!(%error, "accept failed, will retry");
        }
    }

    /// Notes whether connections are accepted, and for how long they were not.
    fn set_accepting(&self, accepts: bool) {
        let globals = &self.shared.globals;
        if globals.accepting.swap(accepts, Ordering::Relaxed) == accepts {
            return;
        }
        if !accepts {
            globals.listen_disabled.fetch_add(1, Ordering::Relaxed);
            self.full_since.set(Some(Instant::now()));
        } else if let Some(since) = self.full_since.take() {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            globals
                .disabled_us
                .fetch_add(micros.max(1), Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        self.shared.connections() >= self.limit
    }

    fn take(&self, mut stream: Stream, peer: String, door: &Door) {
        if self.is_full() {
            self.shared
                .globals
                .rejected_connections
                .fetch_add(1, Ordering::Relaxed);
            if matches!(stream, Stream::Tls(_)) {
                // There is no session yet in which to tell.
                return;
            }
            // The line fits the socket's empty buffer; a peer that is gone already misses nothing.
            let _told = stream.write(texts::TOO_MANY_CONNECTIONS).is_ok();
            return;
        }
        let numbers = self.shared.workers.iter().zip(&self.workers);
        let Some((numbers, worker)) =
            numbers.min_by_key(|(numbers, _)| numbers.open.load(Ordering::Relaxed))
        else {
            return;
        };
        self.shared
            .globals
            .total_connections
            .fetch_add(1, Ordering::Relaxed);
        numbers.open.fetch_add(1, Ordering::Relaxed);
        let is_given = worker
            .arrivals
            .send(Arrival {
                stream,
                peer,
                listener: Arc::clone(&door.address),
                speaks: door.way.speaks,
            })
            .is_ok()
            && worker.waker.wake().is_ok();
        if !is_given {
            numbers.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
