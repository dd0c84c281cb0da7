//! Requests by their kind: each goes to the part that owns it. Options of a connection, and its end.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Grab, Request, limits};

use crate::conn::Rest;
use crate::io::Reply;
use crate::job::ConnId;
use crate::loss::Loss;
use crate::server::JobServer;

/// Jobs a pushing worker may ask to hold at once.
const PUSH_MAX: u64 = 10_000;

impl JobServer {
    pub(crate) fn handle_request(&mut self, now: Instant, conn: ConnId, request: Request<'_>) {
        match request {
            Request::Submit(submit) => self.handle_submit(now, conn, &submit),
            Request::GrabJob(form) => self.handle_grab(now, conn, form),
            Request::PreSleep => self.handle_pre_sleep(now, conn),
            Request::CanDo { function } => self.handle_can_do(now, conn, function, None),
            Request::CanDoTimeout { function, timeout } => {
                let timeout = self.config.job_timeout(timeout);
                self.handle_can_do(now, conn, function, timeout);
            }
            Request::CantDo { function } => self.handle_cant_do(now, conn, function),
            Request::ResetAbilities => self.handle_reset_abilities(now, conn),
            Request::WorkStatus { .. }
            | Request::WorkComplete { .. }
            | Request::WorkFail { .. }
            | Request::WorkException { .. }
            | Request::WorkData { .. }
            | Request::WorkWarning { .. }
            | Request::Touch { .. }
            | Request::Nack { .. } => self.handle_work(now, conn, &request),
            Request::GetStatus { handle } => self.handle_get_status(conn, handle),
            Request::GetStatusUnique { unique } => self.handle_get_status_unique(conn, unique),
            Request::Attach { handle } => self.handle_attach(conn, handle),
            Request::Echo { data } => {
                let data = Bytes::copy_from_slice(data);
                self.reply(conn, Reply::Echo { data });
            }
            Request::SetClientId { id } => {
                let id = id.get(..limits::CLIENT_ID_BYTES_MAX).unwrap_or(id);
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.id = Bytes::copy_from_slice(id);
                }
            }
            // DIFFERS(gearmand): the original answers ERROR INVALID_COMMAND.
            Request::AllYours => {}
            Request::Option { name } => self.handle_option(now, conn, name),
        }
    }

    fn handle_option(&mut self, now: Instant, conn: ConnId, name: &[u8]) {
        let lower = name.to_ascii_lowercase();
        let mut ends_push = false;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let is_known = match &lower[..] {
            _ if lower.len() > limits::OPTION_BYTES_MAX => false,
            b"exceptions" => {
                c.wants_exceptions = true;
                true
            }
            b"heartbeat" => {
                c.wants_heartbeat = true;
                true
            }
            b"no-workers-fail" => {
                c.wants_no_workers_error = true;
                true
            }
            b"cancel" => {
                c.wants_cancel = true;
                true
            }
            b"wait" => {
                c.wants_wait = true;
                true
            }
            b"headers" => {
                c.wants_headers = true;
                true
            }
            b"results" => {
                c.wants_results = true;
                true
            }
            // Served to everybody; asking only tells the peer that it may send them.
            b"nack" | b"touch" | b"subscribe" => true,
            _ => match push_option(&lower) {
                // No more by itself; what it holds stays with it.
                Some((0, _)) => {
                    ends_push = c.push.take().is_some() && matches!(c.rest, Rest::Parked(..));
                    true
                }
                Some(push) => {
                    c.push = Some(push);
                    true
                }
                None => false,
            },
        };
        if ends_push {
            self.leave_rest(conn);
        }
        if is_known {
            let name = Bytes::copy_from_slice(name);
            self.reply(conn, Reply::Option { name });
            self.refill(now, conn);
        } else {
            self.error(conn, ErrorCode::UnknownOption, error_text::UNKNOWN_OPTION);
        }
    }

    pub(crate) fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        let credit = self.leave_rest(conn);
        let Some(gone) = self.conns.remove(&conn) else {
            return;
        };
        for ability in &gone.abilities {
            self.function_mut(ability.function).workers -= 1;
        }
        // The youngest first: each goes to the front of its queue, so the oldest ends up foremost.
        for job in gone.holding.iter().rev() {
            self.take_back(now, *job, Loss::Worker);
        }
        for job in gone.waiting_for.keys() {
            self.client_left(*job, conn);
        }
        if let Some(function) = credit {
            self.wake_ready(now, function);
        }
    }
}

/// `push=N` and `push-all=N`; 0 ends it.
fn push_option(name: &[u8]) -> Option<(u32, Grab)> {
    let (form, number) = match name.strip_prefix(b"push=") {
        Some(number) => (Grab::Unique, number),
        None => (Grab::All, name.strip_prefix(b"push-all=")?),
    };
    let count = ibex_base::ascii::parse_u64(number).filter(|n| *n <= PUSH_MAX)?;
    Some((u32::try_from(count).ok()?, form))
}
