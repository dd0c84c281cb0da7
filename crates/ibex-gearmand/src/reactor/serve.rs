//! Reading a connection and running what came: in place where a packet is whole, bounded per turn, held up while too much waits.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Buf, Bytes};
use ibex_gearman_core::{ConnId, Input};
use ibex_gearman_proto::text::admin_text;
use ibex_gearman_proto::{AdminCommand, Incoming, Request, Step};

use super::Reactor;
use crate::acl::{AUTH, Acl, Identity};
use crate::admin;
use crate::driver::{Hub, Shared};
use crate::lists::Listing;

/// Bytes read from one connection in one turn: enough for thousands of packets, little enough that others do not wait a millisecond.
const TURN_BYTES_MAX: usize = 256 << 10;
/// An incomplete packet gets room for as much again as has arrived of it, and at least this much: memory follows arrived bytes, not announced ones.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// Replies a connection may have waiting for the store; beyond it is not read. Thousands of submissions share one commit long before.
const HELD_MAX: usize = 8192;
/// Store requests waiting in all; beyond it no connection that waits for the store is read.
const BACKLOG_MAX: usize = 1 << 17;
/// Bytes of a list that may wait for its peer before the next piece is made: what a socket takes at once, twice.
const LIST_AHEAD_BYTES: usize = 256 << 10;

impl Reactor {
    /// Reads a connection and runs what came through the job server.
    pub(super) fn serve(&mut self, slot: usize) {
        let mut turn_bytes = 0;
        loop {
            let Some(conn) = self.conns.slots.get_mut(slot) else {
                return;
            };
            if conn.listing.is_some() {
                self.list_on(slot);
                return;
            }
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

    /// The next piece of a list, once the peer has read most of what was before; the end of the turn writes it.
    fn list_on(&mut self, slot: usize) {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return;
        };
        if conn.out.len() > LIST_AHEAD_BYTES {
            self.conns.pause(slot);
            return;
        }
        let id = conn.id;
        let Some(listing) = conn.listing.take() else {
            return;
        };
        let rest = self.with_hub(|hub, now| {
            let (text, rest) = listing.piece(hub, now);
            hub.server.answer(id, text);
            rest
        });
        if let Some(conn) = self.conns.slots.get_mut(slot) {
            conn.listing = rest;
        }
        self.conns.revisit(slot);
    }

    /// Whether a connection must wait before more of its requests are run: too much unsent, or too much waiting for the store.
    pub(super) fn is_held_up(&mut self, slot: usize) -> bool {
        let Some(conn) = self.conns.slots.get_mut(slot) else {
            return false;
        };
        if conn.out.len() > self.shared.bounds.output_max {
            return true;
        }
        let requests = self.shared.store_backlog.requests.load(Ordering::Relaxed);
        let bytes = self.shared.store_backlog.bytes.load(Ordering::Relaxed);
        let bytes_max = self.shared.store_backlog.bytes_max.load(Ordering::Relaxed);
        let is_large = bytes_max > 0 && bytes >= bytes_max;
        if requests < HELD_MAX && !is_large {
            return false;
        }
        let held = self.shared.hub().server.held_replies(conn.id);
        held >= HELD_MAX || held > 0 && (is_large || requests >= BACKLOG_MAX)
    }

    /// New bytes of a connection: parsed where they lie if nothing is left over from before.
    pub(super) fn take_bytes(&mut self, slot: usize, bytes: &[u8]) {
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
    pub(super) fn run_bytes(&mut self, slot: usize, bytes: &[u8]) {
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
        let mut listing = None;
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
                            listing = if is_allowed && hub.server.is_bystander(id) {
                                Listing::of(&hub, &command)
                            } else {
                                None
                            };
                            if listing.is_none() {
                                run_admin(&mut hub, &shared, now, id, command, rights, is_allowed);
                            }
                        }
                    }
                    rest.advance(consumed);
                    if listing.is_some() {
                        // What follows it is answered behind it.
                        break (1, None);
                    }
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
            conn.listing = listing;
            conn.need = need;
            if rest.is_empty() {
                conn.unread = bytes::BytesMut::new();
            } else {
                keep(&mut conn.unread, rest, need);
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
    } else if acl.allows(peer, request) && may_follow(hub, acl, peer, request) {
        return true;
    }
    shared.traffic.denied.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(conn = id.0, "denied");
    hub.server.deny(id);
    false
}

/// Waiting for a job, and results that are kept, are for those who may.
fn may_follow(hub: &Hub, acl: &Acl, peer: &Identity, request: &Request<'_>) -> bool {
    if let Request::Attach { handle } = *request {
        let job = hub.server.job(Instant::now(), handle);
        return acl.may_follow(peer, job.as_ref().map(|job| &job.function[..]));
    }
    if let Request::Option { name } = *request
        && name.eq_ignore_ascii_case(b"results")
    {
        return acl.may_follow(peer, None);
    }
    true
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
