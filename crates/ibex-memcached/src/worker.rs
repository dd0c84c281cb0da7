//! A worker thread: one poll, the connections given to it, one turn after another.
//!
//! Readiness is edge-triggered; a connection that stopped before its socket was empty is queued here, because no event will come for it.

use crate::conn::{Conn, Turn, Verdict};
use crate::exec::Cx;
use crate::shared::{Shared, WorkerNumbers};
use crate::stream::Stream;
use crate::watch::Kinds;
use crate::watch::lines::{self, Reason};
use crate::ways::Speaks;
use ibex_kit::Heartbeat;
use mio::{Events, Poll, Token, Waker};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Events of one poll.
const EVENTS_MAX: usize = 1024;
/// Bytes read at once. Larger saves system calls on uploads, smaller stays in the cache.
const SCRATCH_BYTES: usize = 64 << 10;
/// The waker's token; connections have lower ones.
const WAKER: Token = Token(usize::MAX);
/// How much the buffers of all workers may grow, in bytes, before they are taken from the items at once: well below what the bound of memory leaves.
const BUFFERS_STEP: u64 = 8 << 20;

/// A socket on its way to a worker.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: Stream,
    pub(crate) peer: String,
    /// The address it came in by.
    pub(crate) listener: Arc<str>,
    /// What that listener is for.
    pub(crate) speaks: Speaks,
}

/// How others reach a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) arrivals: Sender<Arrival>,
    pub(crate) waker: Arc<Waker>,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    numbers: Arc<WorkerNumbers>,
    poll: Poll,
    arrivals: Receiver<Arrival>,
    conns: slab::Slab<Conn>,
    queue: VecDeque<usize>,
    /// Connections that are log streams.
    watching: Vec<usize>,
    scratch: Vec<u8>,
    spares: Vec<Vec<u8>>,
    /// Bytes of buffers of its connections when they were last taken from the items.
    charged_bytes: u64,
    heartbeat: Heartbeat,
    /// The last second in which the once-a-second work was done.
    second: u32,
    /// Kept open here too: a wake-up is lost when the last owner closes it.
    waker: Arc<Waker>,
}

impl Worker {
    /// A worker and the handle others keep of it.
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> io::Result<(Self, Handle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, arrivals) = channel();
        let numbers = shared.workers.get(number).cloned().unwrap_or_default();
        let heartbeat = shared.kit.heartbeat(&format!("worker-{number}"));
        let worker = Self {
            shared,
            charged_bytes: 0,
            numbers,
            poll,
            arrivals,
            conns: slab::Slab::new(),
            queue: VecDeque::new(),
            watching: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            spares: Vec::new(),
            heartbeat,
            second: 0,
            waker: Arc::clone(&waker),
        };
        Ok((
            worker,
            Handle {
                arrivals: sender,
                waker,
            },
        ))
    }

    /// Runs until the daemon stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let numbers = Arc::clone(&self.numbers);
        numbers
            .thread
            .store(thread.unsigned_abs(), Ordering::Relaxed);
        while !self.shared.is_stopping() {
            // The upkeep thread wakes workers once a second. A timeout here would arm a timer with every wait, which costs more than the request.
            let timeout = if self.queue.is_empty() {
                None
            } else {
                Some(Duration::ZERO)
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            let start = Instant::now();
            for event in &events {
                if event.token() == WAKER {
                    self.welcome();
                    self.queue_watching();
                } else {
                    self.note(event);
                }
            }
            let now = self.shared.clock.now();
            self.turns(now);
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            numbers.loop_max_us.raise(micros);
            if self.second != now {
                self.second = now;
                self.charged_bytes = self.numbers.gauges.bytes();
                self.heartbeat.beat();
                self.close_idle(now);
                self.queue_holders();
            }
        }
        self.finish();
        Ok(())
    }

    fn note(&mut self, event: &mio::event::Event) {
        let Token(id) = event.token();
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        conn.peer_closed |= event.is_read_closed() || event.is_error();
        if event.is_writable() {
            conn.set_writable();
        }
        if !conn.is_queued {
            conn.is_queued = true;
            self.queue.push_back(id);
        }
    }

    fn welcome(&mut self) {
        let now = self.shared.clock.now();
        while let Ok(Arrival {
            stream,
            peer,
            listener,
            speaks,
        }) = self.arrivals.try_recv()
        {
            let registered = self.shared.register.enter(stream.fd(), peer, listener, now);
            let entry = self.conns.vacant_entry();
            let id = entry.key();
            let conn = entry.insert(Conn::new(stream, registered, &self.shared, speaks));
            if conn
                .stream
                .register(self.poll.registry(), Token(id))
                .is_err()
            {
                self.close(id, Reason::Error);
                continue;
            }
            let watch = &self.shared.watch;
            if let Some(conn) = self
                .conns
                .get(id)
                .filter(|_| watch.wants(Kinds::CONNEVENTS))
            {
                watch.emit(&self.numbers.ring, Kinds::CONNEVENTS, |out| {
                    lines::conn_new(out, &conn.entry.peer, conn.entry.fd);
                });
            }
        }
    }

    /// Gives a turn to the connections that may have new lines.
    fn queue_watching(&mut self) {
        for id in &self.watching {
            if let Some(conn) = self.conns.get_mut(*id).filter(|conn| !conn.is_queued) {
                conn.is_queued = true;
                self.queue.push_back(*id);
            }
        }
    }

    /// With all buffers over their limit, gives a turn to the connections that hold some: those that stall have none of their own in which they
    /// could be closed.
    fn queue_holders(&mut self) {
        let shared = &self.shared;
        let share = shared.buffers_max() / u64::from(shared.config.threads);
        if self.numbers.gauges.bytes() <= share || shared.buffer_bytes() <= shared.buffers_max() {
            return;
        }
        for (id, conn) in &mut self.conns {
            if conn.holds_buffers() && !conn.is_queued {
                conn.is_queued = true;
                self.queue.push_back(id);
            }
        }
    }

    /// One turn for each connection that is queued now.
    fn turns(&mut self, now: u32) {
        let shared = Arc::clone(&self.shared);
        let numbers = Arc::clone(&self.numbers);
        let buffers_max = shared.buffers_max() / u64::from(shared.config.threads);
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            conn.is_queued = false;
            let cx = Cx {
                shared: &shared,
                counters: &numbers.counters,
                ring: &numbers.ring,
                fd: conn.entry.fd,
                now,
            };
            let mut turn = Turn {
                cx,
                numbers: &numbers,
                waker: Some(&self.waker),
                buffers_max,
                scratch: &mut self.scratch,
                spares: &mut self.spares,
            };
            let verdict = conn.turn(&mut turn);
            // Once a second is not often enough for a storm.
            let step = BUFFERS_STEP / u64::from(shared.config.threads);
            if numbers.gauges.bytes() > self.charged_bytes + step {
                self.charged_bytes = numbers.gauges.bytes();
                shared.charge_buffers(now);
            }
            if conn.is_watching() && !self.watching.contains(&id) {
                self.watching.push(id);
            }
            match verdict {
                Verdict::Wait => {}
                Verdict::Again => {
                    conn.is_queued = true;
                    self.queue.push_back(id);
                }
                Verdict::Close => {
                    let reason = conn.reason;
                    self.close(id, reason);
                }
            }
        }
    }

    fn close(&mut self, id: usize, reason: Reason) {
        let Some(mut conn) = self.conns.try_remove(id) else {
            return;
        };
        conn.stream.close();
        tracing::debug!(peer = %conn.entry.peer, fd = conn.entry.fd, state = conn.entry.state_name(), "connection closed");
        self.watching.retain(|watching| *watching != id);
        let watch = &self.shared.watch;
        if watch.wants(Kinds::CONNEVENTS) {
            watch.emit(&self.numbers.ring, Kinds::CONNEVENTS, |out| {
                lines::conn_close(out, &conn.entry.peer, reason, conn.entry.fd);
            });
        }
        self.shared.register.leave(&conn.entry);
        conn.discharge(&self.numbers);
        self.numbers.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes connections without a command for too long.
    fn close_idle(&mut self, now: u32) {
        let limit =
            u32::try_from(self.shared.config.idle_timeout.std().as_secs()).unwrap_or(u32::MAX);
        if limit == 0 {
            return;
        }
        let idle: Vec<usize> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.is_watching())
            .filter(|(_, conn)| now.saturating_sub(conn.entry.last_command()) > limit)
            .map(|(id, _)| id)
            .collect();
        for id in idle {
            self.numbers.counters.idle_kicks.add(1);
            self.close(id, Reason::IdleTimeout);
        }
    }

    /// Answers what was read and closes everything.
    fn finish(&mut self) {
        self.welcome();
        let now = self.shared.clock.now();
        self.turns(now);
        let ids: Vec<usize> = self.conns.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.close(id, Reason::Shutdown);
        }
    }
}
