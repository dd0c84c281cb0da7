//! Outputs and their order: replies of one connection leave in the order of its requests, and what other input of the same moment could make needless is
//! decided only when a batch of inputs is over.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::{ErrorCode, Grab};

use crate::conn::{Held, Rest};
use crate::function::FunctionId;
use crate::io::{Output, Reply};
use crate::job::ConnId;
use crate::server::JobServer;

/// Something for a peer that may have to wait its turn.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Reply),
    Text(Bytes),
}

impl JobServer {
    /// The next thing to do outside. Drain until `None` after every `handle*` and every control call, or after a batch of them.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.settle();
        }
        self.outputs.pop_front()
    }

    /// The next thing to do outside that more input of the same moment cannot make needless. A shell that takes several inputs at once drains this
    /// between them and [`poll_output`](Self::poll_output) after the last: a worker that asks for a job in the same batch in which one is submitted
    /// gets it, in whatever order the two came, instead of hearing NO_JOB beside somebody else's NOOP.
    pub fn poll_output_early(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Decides what was left open, in this order: workloads that came, grabs, sleepers for what is left.
    fn settle(&mut self) {
        let now = self.settle_at;
        self.fetch_due(now);
        while let Some(conn) = self.open_grabs.pop_front() {
            self.decide(now, conn);
        }
        loop {
            self.fetch_due(now);
            let Some(function) = self.due_wakes.pop_front() else {
                return;
            };
            self.wake_due(now, function);
        }
    }

    /// Leaves a grab that found nothing open until the batch is over.
    pub(crate) fn open_grab(&mut self, now: Instant, conn: ConnId, form: Grab) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.rest = Rest::Grabbing(form);
            self.open_grabs.push_back(conn);
            self.settle_at = now;
        }
    }

    /// Sees to it that sleepers of the function are woken once the batch is over, if jobs are ready then.
    pub(crate) fn wake_ready(&mut self, now: Instant, function: FunctionId) {
        self.settle_at = now;
        let f = self.function_mut(function);
        f.wakes_due += 1;
        if f.wakes_due == 1 {
            self.due_wakes.push_back(function);
        }
    }

    /// Everything is decided: the last drain went through [`poll_output`](Self::poll_output) to its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.open_grabs.is_empty() && self.due_wakes.is_empty() && self.due_fetches.is_empty()
    }

    /// Sends `text` to a connection, after the replies it still waits for.
    pub fn answer(&mut self, conn: ConnId, text: Bytes) {
        self.reply_outgoing(conn, Outgoing::Text(text));
    }

    /// Replies a connection has waiting behind a job that is on its way into the store. A shell stops reading a connection that has too many.
    #[must_use]
    pub fn held_replies(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, |c| c.held.len())
    }

    /// Sends a packet after what the connection still waits for.
    pub(crate) fn reply(&mut self, conn: ConnId, reply: Reply) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.held.is_empty() {
            self.outputs.push_back(Output::Send(conn, reply));
        } else {
            c.held.push_back(Held::Ready(Outgoing::Packet(reply)));
        }
    }

    fn reply_outgoing(&mut self, conn: ConnId, outgoing: Outgoing) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.held.is_empty() {
            self.output_to(conn, outgoing);
        } else {
            c.held.push_back(Held::Ready(outgoing));
        }
    }

    /// Keeps a place in the connection's order for a reply that the store decides.
    pub(crate) fn hold_place(&mut self, conn: ConnId) -> u64 {
        let Some(c) = self.conns.get_mut(&conn) else {
            return 0;
        };
        c.held.push_back(Held::Committing);
        c.held_from + c.held.len() as u64 - 1
    }

    /// Fills a place kept by [`hold_place`](Self::hold_place) and lets go what now may leave.
    pub(crate) fn fill_place(&mut self, conn: ConnId, place: u64, reply: Reply) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let index = usize::try_from(place - c.held_from).unwrap_or(usize::MAX);
        if let Some(slot) = c.held.get_mut(index) {
            *slot = Held::Ready(Outgoing::Packet(reply));
        }
        let mut free = Vec::new();
        while let Some(Held::Ready(_)) = c.held.front() {
            c.held_from += 1;
            if let Some(Held::Ready(outgoing)) = c.held.pop_front() {
                free.push(outgoing);
            }
        }
        for outgoing in free {
            self.output_to(conn, outgoing);
        }
    }

    fn output_to(&mut self, conn: ConnId, outgoing: Outgoing) {
        self.outputs.push_back(match outgoing {
            Outgoing::Packet(reply) => Output::Send(conn, reply),
            Outgoing::Text(text) => Output::Text(conn, text),
        });
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn error(&mut self, conn: ConnId, code: ErrorCode, text: &'static str) {
        self.counters.errors += 1;
        let (code, text) = (
            Bytes::from_static(code.as_str().as_bytes()),
            Bytes::from_static(text.as_bytes()),
        );
        self.reply(conn, Reply::Error { code, text });
    }
}
