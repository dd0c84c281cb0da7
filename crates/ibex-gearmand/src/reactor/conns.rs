//! The connections of one reactor, and the lists of those that want something.

use bytes::Bytes;
use ibex_gearman_core::{ConnId, Reply};
use slab::Slab;

use crate::conn::{Conn, Outbox};
use crate::driver::{Local, slot_of};

/// Connections of one reactor and the lists of those that want something.
pub(super) struct Conns {
    pub(super) index: usize,
    pub(super) slots: Slab<Conn>,
    /// To be written at the end of the turn.
    pub(super) dirty: Vec<usize>,
    /// To be served in the next turn, which must not wait.
    pub(super) revisit: Vec<usize>,
    /// Held up; looked at in every turn, which need not come early: what frees them is an event.
    pub(super) paused: Vec<usize>,
}

impl Conns {
    pub(super) fn get(&mut self, id: ConnId) -> Option<(usize, &mut Conn)> {
        let slot = slot_of(id);
        let conn = self.slots.get_mut(slot).filter(|conn| conn.id == id)?;
        Some((slot, conn))
    }

    pub(super) fn with_out(&mut self, id: ConnId, put: impl FnOnce(&mut Outbox)) {
        let Some((slot, conn)) = self.get(id) else {
            return;
        };
        put(&mut conn.out);
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    pub(super) fn revisit(&mut self, slot: usize) {
        if let Some(conn) = self.slots.get_mut(slot)
            && !conn.is_revisited
        {
            conn.is_revisited = true;
            self.revisit.push(slot);
        }
    }

    pub(super) fn pause(&mut self, slot: usize) {
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
