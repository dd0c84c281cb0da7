//! One event loop: its connections, their reads and writes, its mailbox, and the job server's timers.
//!
//! A turn: wait, take mail, accept, read what is readable and run it through the job server, do what is due, write what grew. Grabs that find nothing
//! and wake-ups are decided once per turn, when everything that came has been read: a job often finds a worker that asks in the same turn. Reads use one buffer
//! for all connections and are parsed
//! in it; only what is incomplete is copied aside. Fairness: a connection that has more than [`TURN_BYTES_MAX`] waits for the next turn.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use ibex_gearman_core::{ConnId, Input, Reply};
use ibex_gearman_proto::text::admin_text;
use ibex_gearman_proto::{AdminCommand, Incoming, Request, Step};
use ibex_kit::{Heartbeat, Listener};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::acl::{AUTH, Acl, Identity};
use crate::admin;
use crate::conn::{Conn, Outbox, Socket};
use crate::doors::{Door, Way};
use crate::driver::{Hub, Local, Mail, SLOTS_MAX, Shared, conn_id, epoch_ms, reactor_of, slot_of};
use crate::peers::Peer;

/// Bytes read from one connection in one turn: enough for thousands of packets, little enough that others do not wait a millisecond.
const TURN_BYTES_MAX: usize = 256 << 10;
/// The read buffer: a packet of this size is often read in one piece, and then parsed without a copy.
const READ_BYTES: usize = 256 << 10;
/// An incomplete packet gets room for as much again as has arrived of it, and at least this much: memory follows arrived bytes, not announced ones.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// The loop turns at least this often, so that the watchdog sees it.
const TURN_TIME_MAX: Duration = Duration::from_secs(1);
/// Replies a connection may have waiting for the store; beyond it is not read. Thousands of submissions share one commit long before.
const HELD_MAX: usize = 8192;
/// Store requests waiting in all; beyond it no connection that waits for the store is read.
const BACKLOG_MAX: usize = 1 << 17;
/// How long accepting rests when the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const WAKER: Token = Token(usize::MAX);
/// Listeners have the tokens below the waker's.
const LISTENERS: usize = usize::MAX - DOOR_KEYS;
/// Keys of listeners, given out in turn: as many reloads later the first is long gone.
const DOOR_KEYS: usize = 1 << 20;
/// Time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// The token of the waker, for whoever makes it.
pub(crate) fn waker_token() -> Token {
    WAKER
}

/// Connections of one reactor and the lists of those that want something.
struct Conns {
    index: usize,
    slots: Slab<Conn>,
    /// To be written at the end of the turn.
    dirty: Vec<usize>,
    /// To be served in the next turn, which must not wait.
    revisit: Vec<usize>,
    /// Held up; looked at in every turn, which need not come early: what frees them is an event.
    paused: Vec<usize>,
}

impl Conns {
    fn get(&mut self, id: ConnId) -> Option<(usize, &mut Conn)> {
        let slot = slot_of(id);
        let conn = self.slots.get_mut(slot).filter(|conn| conn.id == id)?;
        Some((slot, conn))
    }

    fn with_out(&mut self, id: ConnId, put: impl FnOnce(&mut Outbox)) {
        let Some((slot, conn)) = self.get(id) else {
            return;
        };
        put(&mut conn.out);
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    fn revisit(&mut self, slot: usize) {
        if let Some(conn) = self.slots.get_mut(slot)
            && !conn.is_revisited
        {
            conn.is_revisited = true;
            self.revisit.push(slot);
        }
    }

    fn pause(&mut self, slot: usize) {
        if let Some(conn) = self.slots.get_mut(slot)
            && !conn.is_revisited
        {
            conn.is_revisited = true;
            self.paused.push(slot);
        }
    }
}

impl Local for Conns {
    fn send(&mut self, conn: ConnId, reply: &Reply) {
        self.with_out(conn, |out| out.push(reply));
    }

    fn text(&mut self, conn: ConnId, text: &Bytes) {
        self.with_out(conn, |out| out.push_data(text));
    }

    fn index(&self) -> Option<usize> {
        Some(self.index)
    }
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
        }
    }

    /// Accepts from this socket from now on.
    fn open_door(&mut self, listener: Listener, way: Way) {
        if self.shared.is_closing_doors.load(Ordering::Acquire) {
            return;
        }
        let (key, address) = (self.next_door, listener.address());
        match Door::open(listener, way, self.poll.registry(), Token(LISTENERS + key)) {
            Ok(door) => {
                self.doors.insert(key, door);
                self.next_door = (key + 1) % DOOR_KEYS;
            }
            Err(error) => tracing::error!(address, error = %error, "listener cannot be watched"),
        }
    }

    /// Accepts no more from the listener there; who is in its queue already comes in.
    fn close_door(&mut self, address: &str) {
        let key = self.doors.iter().find(|(_, door)| door.is_at(address));
        if let Some(door) = key
            .map(|(key, _)| *key)
            .and_then(|key| self.doors.remove(&key))
        {
            self.accept_from(&door);
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
            let mut wants_accept = self.accept_again_at.is_some_and(|at| at <= Instant::now());
            let mut readable = std::mem::take(&mut self.conns.revisit);
            readable.append(&mut self.conns.paused);
            for slot in &readable {
                if let Some(conn) = self.conns.slots.get_mut(*slot) {
                    conn.is_revisited = false;
                }
            }
            for event in &events {
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

    fn accept_all(&mut self) {
        self.accept_again_at = None;
        let doors = std::mem::take(&mut self.doors);
        for door in doors.values() {
            self.accept_from(door);
        }
        self.doors = doors;
    }

    fn accept_from(&mut self, door: &Door) {
        loop {
            match door.accept(&self.shared) {
                Ok((socket, peer)) => self.place(socket, peer, door.is_admin()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: the waiting connections stay in the kernel's queue.
                    let now = Instant::now();
                    self.accept_again_at = Some(now + ACCEPT_REST);
                    if self
                        .descriptors_logged_at
                        .is_none_or(|at| now.duration_since(at).as_secs() >= 60)
                    {
                        self.descriptors_logged_at = Some(now);
                        tracing::warn!(error = %error, "accepting rests");
                    }
                    return;
                }
            }
        }
    }

    /// Gives a new connection to a reactor, in turn.
    fn place(&mut self, socket: Socket, peer: Peer, is_admin: bool) {
        let traffic = &self.shared.traffic;
        traffic.accepted.fetch_add(1, Ordering::Relaxed);
        let connections_max =
            usize::try_from(self.shared.kit.common().limits.connections).unwrap_or(usize::MAX);
        if traffic.open.load(Ordering::Relaxed) >= connections_max {
            traffic.shed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if !self.shared.origins.enter(peer.addr) {
            traffic.shed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %peer.address(), "too many connections from there");
            return;
        }
        traffic.open.fetch_add(1, Ordering::Relaxed);
        let to = self.next_reactor;
        self.next_reactor = (to + 1) % self.shared.mailboxes.len();
        if to == self.conns.index {
            self.admit(socket, peer, is_admin);
        } else if let Some(mailbox) = self.shared.mailboxes.get(to) {
            mailbox.push(Mail::Accepted {
                socket,
                peer,
                is_admin,
            });
            self.woken[to] = true;
        }
    }

    fn admit(&mut self, mut socket: Socket, peer: Peer, is_admin: bool) {
        let slot = self.conns.slots.vacant_key();
        let interests = Interest::READABLE | Interest::WRITABLE;
        if slot >= SLOTS_MAX
            || self
                .poll
                .registry()
                .register(&mut socket, Token(slot), interests)
                .is_err()
        {
            self.shared.traffic.open.fetch_sub(1, Ordering::Relaxed);
            self.shared.traffic.shed.fetch_add(1, Ordering::Relaxed);
            self.shared.origins.leave(peer.addr);
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        let id = conn_id(self.conns.index, slot, self.generation);
        let is_local = peer
            .addr
            .is_none_or(|addr| addr.ip().to_canonical().is_loopback());
        if socket.is_handshaking() {
            self.handshakes
                .push_back((Instant::now() + HANDSHAKE_TIME_MAX, id));
        }
        self.conns.slots.insert(Conn {
            id,
            socket,
            unread: bytes::BytesMut::new(),
            need: 1,
            out: Outbox::default(),
            is_readable: true,
            is_read_closed: false,
            is_ended: false,
            is_dirty: false,
            is_revisited: false,
            is_local,
            is_admin,
            identity: None,
            slow_since: None,
        });
        self.with_hub(|hub, now| {
            hub.peers.insert(id, peer);
            hub.server.handle(now, Input::Connected(id));
        });
        tracing::debug!(conn = id.0, peer = %peer.address(), "connected");
        self.conns.revisit(slot);
    }

    /// Reads a connection and runs what came through the job server.
    fn serve(&mut self, slot: usize) {
        let mut turn_bytes = 0;
        loop {
            let Some(conn) = self.conns.slots.get_mut(slot) else {
                return;
            };
            if conn.is_ended || !conn.is_readable && conn.unread.len() < conn.need {
                return;
            }
            if turn_bytes >= TURN_BYTES_MAX {
                self.conns.revisit(slot);
                return;
            }
            if self.is_held_up(slot) {
                self.conns.pause(slot);
                let waiting = self.conns.slots.get(slot).map_or(0, |conn| conn.out.len());
                self.judge_slowness(slot, waiting);
                return;
            }
            let Some(conn) = self.conns.slots.get_mut(slot) else {
                return;
            };
            if conn.unread.len() >= conn.need && conn.need > 0 && !conn.unread.is_empty() {
                // Left over from a turn in which the connection was held up.
                let bytes = conn.unread.split().freeze();
                self.run_bytes(slot, &bytes);
                turn_bytes += bytes.len();
                continue;
            }
            if !conn.is_readable {
                return;
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let outcome = conn.socket.read(&mut buffer);
            match outcome {
                Ok(0) => self.end(slot),
                Ok(count) => {
                    turn_bytes += count;
                    // A short read emptied the socket; the kernel tells of the next byte. Of an end that came together
                    // with those bytes it has told already.
                    conn.is_readable = count == buffer.len()
                        || conn.is_read_closed
                        || !conn.socket.is_empty_after_short_read();
                    self.shared
                        .traffic
                        .received_bytes
                        .fetch_add(count as u64, Ordering::Relaxed);
                    self.take_bytes(slot, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.is_readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(conn = conn.id.0, error = %error, "read");
                    if conn.socket.is_handshaking() {
                        let traffic = &self.shared.traffic;
                        traffic.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                    }
                    self.close(slot);
                }
            }
            self.buffer = buffer;
        }
    }

    /// Whether a connection must wait before more of its requests are run: too much unsent, or too much waiting for the store.
    fn is_held_up(&mut self, slot: usize) -> bool {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return false;
        };
        if conn.out.len() > self.shared.bounds.output_max {
            return true;
        }
        let requests = self.shared.store_backlog.requests.load(Ordering::Relaxed);
        let bytes = self.shared.store_backlog.bytes.load(Ordering::Relaxed);
        let bytes_max = self.shared.bounds.committing_bytes_max;
        let is_large = bytes_max > 0 && bytes >= bytes_max;
        if requests < HELD_MAX && !is_large {
            return false;
        }
        let held = self.shared.hub().server.held_replies(conn.id);
        held >= HELD_MAX || held > 0 && (is_large || requests >= BACKLOG_MAX)
    }

    /// New bytes of a connection: parsed where they lie if nothing is left over from before.
    fn take_bytes(&mut self, slot: usize, bytes: &[u8]) {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return;
        };
        if conn.unread.is_empty() {
            self.run_bytes(slot, bytes);
            return;
        }
        keep(&mut conn.unread, bytes, conn.need);
        if conn.unread.len() >= conn.need {
            let bytes = conn.unread.split().freeze();
            self.run_bytes(slot, &bytes);
        }
    }

    /// Parses and runs messages; keeps the incomplete rest.
    fn run_bytes(&mut self, slot: usize, bytes: &[u8]) {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return;
        };
        let (id, is_local, is_admin) = (conn.id, conn.is_local || conn.is_admin, conn.is_admin);
        let shared = Arc::clone(&self.shared);
        // Whoever may use the operators' socket may do everything.
        let acl = shared.acl().filter(|_| !is_admin);
        let mut identity = conn.identity.take();
        let mut hub = shared.hub();
        if acl.is_some() && identity.is_none() {
            let addr = hub.peers.get(&id).and_then(|peer| peer.addr);
            identity = Some(Box::new(Identity {
                addr: addr.map(|addr| addr.ip()),
                name: conn.socket.common_name(),
                token: None,
            }));
        }
        self.catch_up();
        let now = Instant::now();
        let mut rest = bytes;
        let (need, error) = loop {
            match shared.decoder.parse(rest) {
                Ok(Step::Need(need)) => break (need, None),
                Ok(Step::Frame { message, consumed }) => {
                    match message {
                        Incoming::Request(request) => {
                            let is_allowed = match (&acl, identity.as_deref_mut()) {
                                (Some(acl), Some(peer)) => {
                                    ask(&mut hub, acl, peer, &shared, id, &request)
                                }
                                _ => true,
                            };
                            if is_allowed {
                                hub.server.handle(now, Input::Packet(id, request));
                            }
                        }
                        Incoming::Refused(refusal) => {
                            hub.server.handle(now, Input::Refused(id, refusal))
                        }
                        Incoming::Admin(command) => {
                            let is_allowed = match (&acl, identity.as_deref()) {
                                (Some(acl), Some(peer)) => acl.allows_command(peer, &command),
                                _ => true,
                            };
                            // With rules, being on this machine is no right of its own.
                            let rights = admin::Rights {
                                is_local: is_local || acl.is_some(),
                                is_admin,
                            };
                            run_admin(&mut hub, &shared, now, id, command, rights, is_allowed);
                        }
                    }
                    rest.advance(consumed);
                    // The end of the turn decides what other connections may still change.
                    hub.pump_early(&shared, &mut self.conns, &mut self.woken);
                    let waiting = self.conns.slots.get(slot).map_or(0, |conn| conn.out.len());
                    if waiting > shared.bounds.output_max {
                        // Seven bytes of `status` may be answered by a megabyte: the rest waits until the peer has read.
                        break (1, None);
                    }
                }
                Err(error) => break (usize::MAX, Some(error)),
            }
        };
        drop(hub);
        if let Some(error) = error {
            shared.traffic.malformed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(conn = id.0, error = %error, "malformed input");
            self.conns.with_out(id, |out| {
                let mut farewell = Vec::new();
                error.encode_farewell(&mut farewell);
                out.put_bytes(&farewell);
            });
            self.end(slot);
            return;
        }
        if let Some(conn) = self.conns.slots.get_mut(slot) {
            conn.identity = identity;
            conn.need = need;
            if rest.is_empty() {
                conn.unread = bytes::BytesMut::new();
            } else {
                keep(&mut conn.unread, rest, need);
            }
        }
    }

    /// No more input: what is due is still written, then the connection is closed.
    fn end(&mut self, slot: usize) {
        if let Some(conn) = self.conns.slots.get_mut(slot) {
            conn.is_ended = true;
            if !conn.is_dirty {
                conn.is_dirty = true;
                self.conns.dirty.push(slot);
            }
        }
    }

    fn close(&mut self, slot: usize) {
        if !self.conns.slots.contains(slot) {
            return;
        }
        let mut conn = self.conns.slots.remove(slot);
        conn.socket.close();
        if let Err(error) = self.poll.registry().deregister(&mut conn.socket) {
            tracing::debug!(conn = conn.id.0, error = %error, "deregister");
        }
        self.shared.traffic.open.fetch_sub(1, Ordering::Relaxed);
        let id = conn.id;
        debug_assert_eq!(reactor_of(id), self.conns.index);
        let shared = Arc::clone(&self.shared);
        self.with_hub(|hub, now| {
            if let Some(peer) = hub.peers.remove(&id) {
                shared.origins.leave(peer.addr);
            }
            hub.server.handle(now, Input::Closed(id));
        });
        tracing::debug!(conn = id.0, "closed");
    }

    /// The job server's timers and the clock; says when the next timer is due.
    fn do_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.end_late_handshakes(now);
        let is_clock_due = self.conns.index == 0 && now >= self.clock_at;
        if is_clock_due {
            self.clock_at = now + TURN_TIME_MAX;
        }
        self.with_hub(|hub, now| {
            if is_clock_due {
                hub.server.handle(now, Input::Clock(epoch_ms()));
            }
            if hub.server.poll_timeout().is_some_and(|at| at <= now) {
                hub.server.handle_timeout(now);
            }
            hub.server.poll_timeout()
        })
    }

    /// A peer that has opened a connection and does not finish its handshake is let go.
    fn end_late_handshakes(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.handshakes.front().copied() {
            let is_late = deadline <= now;
            match self.conns.get(id) {
                Some((slot, conn)) if conn.socket.is_handshaking() => {
                    if !is_late {
                        return;
                    }
                    let traffic = &self.shared.traffic;
                    traffic.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                    self.close(slot);
                }
                _ => {}
            }
            self.handshakes.pop_front();
        }
    }

    fn write_all(&mut self) {
        // Closing a connection can give others something to write.
        while !self.conns.dirty.is_empty() {
            for slot in std::mem::take(&mut self.conns.dirty) {
                self.write(slot);
            }
        }
    }

    fn write(&mut self, slot: usize) {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return;
        };
        conn.is_dirty = false;
        let outcome =
            conn.out
                .write_to(&mut conn.socket)
                .and_then(|count| match conn.socket.flush() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(count),
                });
        match outcome {
            Ok(count) => {
                self.shared
                    .traffic
                    .sent_bytes
                    .fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::debug!(conn = conn.id.0, error = %error, "write");
                self.close(slot);
                return;
            }
        }
        let (id, is_ended, waiting) = (conn.id, conn.is_ended, conn.out.len());
        let is_written = waiting == 0 && !conn.socket.has_pending();
        if is_ended && is_written && self.shared.hub().server.held_replies(id) == 0 {
            self.close(slot);
            return;
        }
        self.judge_slowness(slot, waiting);
    }

    /// Closes a connection that does not take what it is sent.
    fn judge_slowness(&mut self, slot: usize, waiting: usize) {
        let bounds = self.shared.bounds;
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return;
        };
        if waiting <= bounds.output_max {
            conn.slow_since = None;
            return;
        }
        let now = Instant::now();
        let since = *conn.slow_since.get_or_insert(now);
        if waiting > bounds.output_max.saturating_mul(2)
            || now.duration_since(since) > bounds.slow_client_timeout
        {
            tracing::debug!(conn = conn.id.0, waiting, "closed: does not read");
            self.shared
                .traffic
                .slow_closed
                .fetch_add(1, Ordering::Relaxed);
            self.close(slot);
        }
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

/// Adds to what of a packet of `need` bytes has arrived.
fn keep(unread: &mut bytes::BytesMut, bytes: &[u8], need: usize) {
    let arrived = unread.len() + bytes.len();
    let room = need
        .saturating_sub(arrived)
        .min(arrived.max(ROOM_BYTES_MIN));
    unread.reserve(bytes.len() + room);
    unread.extend_from_slice(bytes);
}

/// Whether a packet is to be run; answers those that are not, and takes tokens.
fn ask(
    hub: &mut Hub,
    acl: &Acl,
    peer: &mut Identity,
    shared: &Shared,
    id: ConnId,
    request: &Request<'_>,
) -> bool {
    if let Request::Option { name } = *request
        && let Some((auth, token)) = name.split_at_checked(AUTH.len())
        && auth.eq_ignore_ascii_case(AUTH)
    {
        if acl.knows(token) {
            peer.token = Some(Bytes::copy_from_slice(token));
            hub.server.grant_option(id, name);
            return false;
        }
    } else if acl.allows(peer, request) {
        return true;
    }
    shared.traffic.denied.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(conn = id.0, "denied");
    hub.server.deny(id);
    false
}

fn run_admin(
    hub: &mut Hub,
    shared: &Shared,
    now: Instant,
    id: ConnId,
    command: AdminCommand<'_>,
    rights: admin::Rights,
    is_allowed: bool,
) {
    let text = if is_allowed {
        admin::run(hub, shared, now, command, rights)
    } else {
        shared.traffic.denied.fetch_add(1, Ordering::Relaxed);
        admin_text::UNAUTHORIZED.into()
    };
    hub.server.answer(id, text);
}

/// Errors of one connection that went away before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
