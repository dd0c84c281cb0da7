//! Listeners and new connections: accepted, counted, given to a reactor, and let go when their TLS handshake does not end.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ibex_gearman_core::Input;
use ibex_kit::Listener;
use mio::{Interest, Token};

use super::{DOOR_KEYS, LISTENERS, Reactor};
use crate::conn::{Conn, Outbox, Socket};
use crate::doors::{Door, Way};
use crate::driver::{Mail, SLOTS_MAX, conn_id};
use crate::peers::Peer;

/// How long accepting rests when the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

impl Reactor {
    /// Accepts from this socket from now on.
    pub(super) fn open_door(&mut self, listener: Listener, way: Way) {
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
    pub(super) fn close_door(&mut self, address: &str) {
        let key = self.doors.iter().find(|(_, door)| door.is_at(address));
        if let Some(door) = key
            .map(|(key, _)| *key)
            .and_then(|key| self.doors.remove(&key))
        {
            self.accept_from(&door);
        }
    }

    pub(super) fn accept_all(&mut self) {
        self.accept_again_at = None;
        let doors = std::mem::take(&mut self.doors);
        for door in doors.values() {
            self.accept_from(door);
        }
        self.doors = doors;
    }

    pub(super) fn accept_from(&mut self, door: &Door) {
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
    pub(super) fn place(&mut self, socket: Socket, peer: Peer, is_admin: bool) {
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

    pub(super) fn admit(&mut self, mut socket: Socket, peer: Peer, is_admin: bool) {
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
            listing: None,
            slow_since: None,
        });
        self.with_hub(|hub, now| {
            hub.peers.insert(id, peer);
            hub.server.handle(now, Input::Connected(id));
        });
        tracing::debug!(conn = id.0, peer = %peer.address(), "connected");
        self.conns.revisit(slot);
    }

    /// A peer that has opened a connection and does not finish its handshake is let go.
    pub(super) fn end_late_handshakes(&mut self, now: Instant) {
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
