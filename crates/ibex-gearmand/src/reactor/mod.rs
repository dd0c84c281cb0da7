//! One event loop: its connections, their reads and writes, its mailbox, and the job server's timers.
//!
//! A turn: wait, take mail, accept, read what is readable and run it through the job server, do what is due, write what grew. Grabs that find nothing
//! and wake-ups are decided once per turn, when everything that came has been read: a job often finds a worker that asks in the same turn. Reads use one buffer
//! for all connections and are parsed in it; only what is incomplete is copied aside. Fairness: a connection that has much waits for the next turn.
//!
//! The loop itself is here; `accept.rs` lets connections in, `serve.rs` reads and runs, `write.rs` writes and closes, `conns.rs` keeps them.

mod accept;
mod conns;
mod serve;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ibex_gearman_core::{ConnId, Input};
use ibex_kit::Heartbeat;
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::doors::Door;
use crate::driver::{Hub, Local, Mail, Shared, epoch_ms};
use crate::slack::Slack;
use conns::Conns;

/// The read buffer: a packet of this size is often read in one piece, and then parsed without a copy.
const READ_BYTES: usize = 256 << 10;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// The loop turns at least this often, so that the watchdog sees it.
const TURN_TIME_MAX: Duration = Duration::from_secs(1);

const WAKER: Token = Token(usize::MAX);
/// Listeners have the tokens below the waker's.
const LISTENERS: usize = usize::MAX - DOOR_KEYS;
/// Keys of listeners, given out in turn: as many reloads later the first is long gone.
const DOOR_KEYS: usize = 1 << 20;

/// The token of the waker, for whoever makes it.
pub(crate) fn waker_token() -> Token {
    WAKER
}

/// One event loop.
pub(crate) struct Reactor {
    shared: Arc<Shared>,
    poll: Poll,
    doors: BTreeMap<usize, Door>,
    next_door: usize,
    /// Connections under TLS whose handshake is not known to be over, in the order of their deadlines.
    handshakes: VecDeque<(Instant, ConnId)>,
    conns: Conns,
    heartbeat: Heartbeat,
    buffer: Vec<u8>,
    woken: Vec<bool>,
    generation: u32,
    next_reactor: usize,
    accept_again_at: Option<Instant>,
    descriptors_logged_at: Option<Instant>,
    clock_at: Instant,
    slack: Slack,
}

impl Reactor {
    /// A loop without connections. `poll` is the one whose waker the mailbox has.
    pub(crate) fn new(shared: Arc<Shared>, index: usize, poll: Poll, heartbeat: Heartbeat) -> Self {
        let woken = vec![false; shared.mailboxes.len()];
        Self {
            shared,
            poll,
            doors: BTreeMap::new(),
            next_door: 0,
            handshakes: VecDeque::new(),
            conns: Conns {
                index,
                slots: Slab::new(),
                dirty: Vec::new(),
                revisit: Vec::new(),
                paused: Vec::new(),
            },
            heartbeat,
            buffer: vec![0; READ_BYTES],
            woken,
            generation: 0,
            next_reactor: 0,
            accept_again_at: None,
            descriptors_logged_at: None,
            clock_at: Instant::now(),
            slack: Slack::default(),
        }
    }

    /// Turns until the process stops.
    ///
    /// # Panics
    /// When the kernel refuses to wait for events: nothing can be served then.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut next_timer = None;
        while !self.shared.is_stopping() {
            let timeout = self.timeout(next_timer);
            if let Err(error) = self.poll.poll(&mut events, Some(timeout)) {
                assert!(
                    error.kind() == io::ErrorKind::Interrupted,
                    "waiting for events: {error}"
                );
            }
            self.heartbeat.beat();
            let (readable, wants_accept) = self.sort_out(&events);
            self.take_mail();
            if self.shared.is_closing_doors.load(Ordering::Acquire) {
                self.doors.clear();
            } else if wants_accept {
                self.accept_all();
            }
            for slot in readable {
                self.serve(slot);
            }
            next_timer = self.do_due();
            self.write_all();
            self.wake_others();
        }
        self.say_goodbye();
    }

    /// Which connections are to be served, and whether somebody may be waiting to come in.
    fn sort_out(&mut self, events: &Events) -> (Vec<usize>, bool) {
        let mut wants_accept = self.accept_again_at.is_some_and(|at| at <= Instant::now());
        let mut readable = std::mem::take(&mut self.conns.revisit);
        readable.append(&mut self.conns.paused);
        for slot in &readable {
            if let Some(conn) = self.conns.slots.get_mut(*slot) {
                conn.is_revisited = false;
            }
        }
        for event in events {
            match event.token() {
                WAKER => {}
                Token(LISTENERS..) => wants_accept = true,
                Token(slot) => {
                    let Some(conn) = self.conns.slots.get_mut(slot) else {
                        continue;
                    };
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        conn.is_readable = true;
                        conn.is_read_closed |= event.is_read_closed();
                        readable.push(slot);
                    }
                    let has_something = !conn.out.is_empty() || conn.socket.has_pending();
                    if event.is_writable() && has_something && !conn.is_dirty {
                        conn.is_dirty = true;
                        self.conns.dirty.push(slot);
                    }
                }
            }
        }
        (readable, wants_accept)
    }

    fn timeout(&self, next_timer: Option<Instant>) -> Duration {
        if !self.conns.revisit.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let next = [next_timer, self.accept_again_at]
            .into_iter()
            .flatten()
            .min();
        next.map_or(TURN_TIME_MAX, |at| {
            at.saturating_duration_since(now).min(TURN_TIME_MAX)
        })
    }

    fn take_mail(&mut self) {
        let Some(mailbox) = self.shared.mailboxes.get(self.conns.index) else {
            return;
        };
        for mail in mailbox.take() {
            match mail {
                Mail::Accepted {
                    socket,
                    peer,
                    is_admin,
                } => self.admit(socket, peer, is_admin),
                Mail::Open(listener, way) => self.open_door(listener, way),
                Mail::Close(address) => self.close_door(&address),
                Mail::Send(conn, reply) => self.conns.send(conn, &reply),
                Mail::Text(conn, text) => self.conns.text(conn, &text),
                Mail::Stored(jobs) => self.with_hub(|hub, now| {
                    for job in jobs {
                        hub.server.handle(now, Input::Persisted(job));
                    }
                }),
                Mail::StoreFailed(jobs) => self.with_hub(|hub, now| {
                    for job in jobs {
                        hub.server.handle(now, Input::PersistFailed(job));
                    }
                }),
                Mail::Fetched(workloads) => self.with_hub(|hub, now| {
                    for (job, workload) in workloads {
                        let input = match workload {
                            Some(workload) => Input::Fetched(job, workload),
                            None => Input::FetchLost(job),
                        };
                        hub.server.handle(now, input);
                    }
                }),
                Mail::FetchFailed(jobs) => self.with_hub(|hub, now| {
                    for job in jobs {
                        hub.server.handle(now, Input::FetchFailed(job));
                    }
                }),
            }
        }
    }

    /// Does something with the job server and takes its outputs along.
    fn with_hub<R>(&mut self, work: impl FnOnce(&mut Hub, Instant) -> R) -> R {
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let mut hub = shared.hub();
        self.catch_up();
        let result = work(&mut hub, now);
        hub.pump(&shared, &mut self.conns, &mut self.woken);
        result
    }

    /// Puts what other reactors have left for connections of this one before what follows. They leave it under the job server's lock, and under that
    /// lock this is called: so packets reach a connection in the order in which the job server made them.
    fn catch_up(&mut self) {
        let mailboxes = &self.shared.mailboxes;
        if mailboxes.len() < 2 {
            return;
        }
        let Some(mailbox) = mailboxes.get(self.conns.index) else {
            return;
        };
        for mail in mailbox.take_packets() {
            match mail {
                Mail::Send(conn, reply) => self.conns.send(conn, &reply),
                Mail::Text(conn, text) => self.conns.text(conn, &text),
                Mail::Accepted { .. }
                | Mail::Open(..)
                | Mail::Close(_)
                | Mail::Stored(_)
                | Mail::StoreFailed(_)
                | Mail::Fetched(_)
                | Mail::FetchFailed(_) => {}
            }
        }
    }

    /// The job server's timers and the clock; says when the next timer is due.
    fn do_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.end_late_handshakes(now);
        let is_clock_due = self.conns.index == 0 && now >= self.clock_at;
        if is_clock_due {
            self.clock_at = now + TURN_TIME_MAX;
        }
        let (next_timer, held) = self.with_hub(|hub, now| {
            if is_clock_due {
                hub.server.handle(now, Input::Clock(epoch_ms()));
            }
            if hub.server.poll_timeout().is_some_and(|at| at <= now) {
                hub.server.handle_timeout(now);
            }
            (hub.server.poll_timeout(), hub.server.memory())
        });
        self.slack.saw(held);
        if is_clock_due && self.slack.is_worth_giving(held) {
            // On a thread of its own: pages by the thousand are given back, and this loop goes on where it needs no memory.
            if let Err(error) = std::thread::Builder::new()
                .name("give-back".to_owned())
                .spawn(ibex_kit::memory::give_back)
            {
                tracing::debug!(error = %error, "freed memory stays");
            }
        }
        next_timer
    }

    fn wake_others(&mut self) {
        for (index, woken) in self.woken.iter_mut().enumerate() {
            if std::mem::take(woken)
                && let Some(mailbox) = self.shared.mailboxes.get(index)
            {
                mailbox.wake();
            }
        }
    }

    /// The process stops: a last try to send what is due.
    fn say_goodbye(&mut self) {
        self.doors.clear();
        self.take_mail();
        for (_, conn) in &mut self.conns.slots {
            if let Err(error) = conn.out.write_to(&mut conn.socket) {
                tracing::debug!(conn = conn.id.0, error = %error, "write");
            }
        }
    }
}
