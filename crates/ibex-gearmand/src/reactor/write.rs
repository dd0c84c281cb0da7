//! Writing what grew, once a turn, and the ends of connections: by the peer, by an error, by not reading.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ibex_gearman_core::Input;

use super::Reactor;
use crate::driver::reactor_of;

impl Reactor {
    pub(super) fn write_all(&mut self) {
        // Closing a connection can give others something to write.
        while !self.conns.dirty.is_empty() {
            for slot in std::mem::take(&mut self.conns.dirty) {
                self.write(slot);
            }
        }
    }

    pub(super) fn write(&mut self, slot: usize) {
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
    pub(super) fn judge_slowness(&mut self, slot: usize, waiting: usize) {
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

    /// No more input: what is due is still written, then the connection is closed.
    pub(super) fn end(&mut self, slot: usize) {
        if let Some(conn) = self.conns.slots.get_mut(slot) {
            conn.is_ended = true;
            if !conn.is_dirty {
                conn.is_dirty = true;
                self.conns.dirty.push(slot);
            }
        }
    }

    pub(super) fn close(&mut self, slot: usize) {
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
}
