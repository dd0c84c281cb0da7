//! The acceptor thread: takes connections and gives each to the worker that has the fewest.
//!
//! One place that counts connections makes the limit exact, and few long-lived connections (the usual case of a cache) are spread evenly, which the kernel's
//! SO_REUSEPORT hash does not do.

use crate::shared::Shared;
use crate::stream::{Door, Stream};
use crate::tls::Mode;
use crate::worker::{Arrival, Handle};
use ibex_kit::{Heartbeat, Listener};
use ibex_memcached_proto::texts;
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WAKER: Token = Token(usize::MAX);
/// The thread turns at least this often, for its heartbeat.
const TURN_MAX: Duration = Duration::from_millis(1000);
/// Pause while no connection may be accepted, or the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(10);
/// Accepts of one door in a row.
const BATCH: usize = 256;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    poll: Poll,
    doors: Vec<Door>,
    workers: Vec<Handle>,
    limit: u64,
    heartbeat: Heartbeat,
    /// Since when no connection is accepted.
    full_since: Option<Instant>,
}

impl Acceptor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        listeners: Vec<(Listener, Mode)>,
        workers: Vec<Handle>,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut doors: Vec<Door> = listeners
            .into_iter()
            .map(|(listener, mode)| Door::new(listener, mode))
            .collect();
        for (number, door) in doors.iter_mut().enumerate() {
            door.register(poll.registry(), Token(number))?;
        }
        let limit = u64::from(shared.kit.common().limits.connections);
        let heartbeat = shared.kit.heartbeat("acceptor");
        Ok((
            Self {
                shared,
                poll,
                doors,
                workers,
                limit,
                heartbeat,
                full_since: None,
            },
            waker,
        ))
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
            let is_ready = pending || !events.is_empty();
            pending = is_ready && self.accept_all();
            self.note_time();
        }
        for worker in &self.workers {
            worker.waker.wake()?;
        }
        Ok(())
    }

    /// Accepts what waits; `true` if somebody may still wait and it must be tried again.
    fn accept_all(&self) -> bool {
        let mut again = false;
        for door in &self.doors {
            for turn in 0.. {
                if turn == BATCH || (self.is_full() && !self.shared.config.maxconns_fast) {
                    again = true;
                    self.note_disabled(turn < BATCH);
                    break;
                }
                match door.accept(self.shared.tls.as_ref()) {
                    Ok((stream, peer, listener)) => self.take(stream, peer, listener),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error)
                        if error.kind() == io::ErrorKind::ConnectionAborted
                            || error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(%error, "accept failed, will retry");
                        again = true;
                        break;
                    }
                }
            }
        }
        if !again {
            self.shared.globals.accepting.store(true, Ordering::Relaxed);
        }
        again
    }

    fn note_disabled(&self, is_full: bool) {
        let globals = &self.shared.globals;
        if is_full && globals.accepting.swap(false, Ordering::Relaxed) {
            globals.listen_disabled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Measures the time without accepting.
    fn note_time(&mut self) {
        let globals = &self.shared.globals;
        if !globals.accepting.load(Ordering::Relaxed) {
            self.full_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.full_since.take() {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            globals.disabled_us.fetch_add(micros, Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        self.shared.connections() >= self.limit
    }

    fn take(&self, mut stream: Stream, peer: String, listener: Arc<str>) {
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
                listener,
            })
            .is_ok()
            && worker.waker.wake().is_ok();
        if !is_given {
            numbers.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
