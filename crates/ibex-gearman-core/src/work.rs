//! What workers report of the jobs they hold: progress, data, the end. What becomes of jobs whose worker does not is in `loss.rs`.

use std::time::Instant;

use bytes::Bytes;
use ibex_base::ascii;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Request, limits};

use crate::io::Reply;
use crate::job::{ConnId, State};
use crate::loss::Loss;
use crate::results::End;
use crate::server::{JobServer, Timer};

impl JobServer {
    /// Any report about a job. The worker must hold it.
    pub(crate) fn handle_work(&mut self, now: Instant, conn: ConnId, request: &Request<'_>) {
        let Some((handle, missing)) = about(request) else {
            return;
        };
        if handle.len() > limits::HANDLE_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::ArgumentTooLarge,
                error_text::HANDLE_TOO_LARGE,
            );
            return;
        }
        let id = self.handles.parse(handle);
        let held = id
            .and_then(|id| self.jobs.index_of(id))
            .filter(|index| self.jobs.get(*index).state == State::Running(conn));
        let Some(index) = held else {
            let is_buried = id.is_some_and(|id| {
                self.conns
                    .get(&conn)
                    .is_some_and(|c| c.tombstones.contains(&id))
            });
            if !is_buried {
                self.error(conn, ErrorCode::JobNotFound, missing);
            }
            return;
        };
        if self.comes_again(now, index, request) {
            return;
        }
        match *request {
            Request::WorkStatus {
                numerator,
                denominator,
                ..
            } => self.report_status(now, conn, index, numerator, denominator),
            Request::WorkData { data, .. } => {
                let data = Bytes::copy_from_slice(data);
                self.relay(index, |handle| Reply::WorkData {
                    handle,
                    data: data.clone(),
                });
                self.heartbeat(now, conn, index);
            }
            Request::WorkWarning { data, .. } => {
                let data = Bytes::copy_from_slice(data);
                self.relay(index, |handle| Reply::WorkWarning {
                    handle,
                    data: data.clone(),
                });
            }
            Request::WorkComplete { .. }
            | Request::WorkFail { .. }
            | Request::WorkException { .. } => self.report_end(now, conn, index, request),
            Request::Touch { .. } => self.restart_timer(now, conn, index),
            Request::Nack { delay, .. } => match ascii::parse_u64(delay) {
                Some(seconds) => {
                    let due_ms = self
                        .wall_ms(now)
                        .saturating_add(seconds.saturating_mul(1000));
                    let id = self.jobs.get(index).id;
                    self.take_back(now, id, Loss::Nack { due_ms });
                }
                None => self.error(conn, ErrorCode::InvalidArgument, error_text::BAD_DELAY),
            },
            Request::CanDo { .. }
            | Request::CanDoTimeout { .. }
            | Request::CantDo { .. }
            | Request::ResetAbilities
            | Request::PreSleep
            | Request::Submit(_)
            | Request::GrabJob(_)
            | Request::GetStatus { .. }
            | Request::GetStatusUnique { .. }
            | Request::Echo { .. }
            | Request::SetClientId { .. }
            | Request::AllYours
            | Request::Option { .. }
            | Request::Attach { .. } => {}
        }
    }

    /// The worker is done with it, well or not.
    fn report_end(&mut self, now: Instant, conn: ConnId, index: u32, request: &Request<'_>) {
        let is_kept = self.result_time(index).is_some();
        if let Request::WorkComplete { data, .. } = *request {
            self.counters.completed += 1;
            if is_kept || !self.jobs.get(index).clients.is_empty() {
                let data = Bytes::copy_from_slice(data);
                self.relay(index, |handle| Reply::WorkComplete {
                    handle,
                    data: data.clone(),
                });
                self.keep_result(now, index, End::Complete(data));
            }
        } else if let Request::WorkException { data, .. } = *request {
            self.counters.excepted += 1;
            self.relay_exception(index, data);
            if is_kept {
                let data = Bytes::copy_from_slice(data);
                self.keep_result(now, index, End::Exception(data));
            }
            let id = self.jobs.get(index).id;
            if let Some(c) = self.conns.get_mut(&conn) {
                // COMPAT(Gearman::Worker): it sends WORK_FAIL after WORK_EXCEPTION and dies of any ERROR.
                c.bury(id);
            }
        } else {
            self.counters.failed += 1;
            self.relay(index, |handle| Reply::WorkFail { handle });
            self.keep_result(now, index, End::Fail);
        }
        self.end(now, conn, index);
    }

    fn report_status(
        &mut self,
        now: Instant,
        conn: ConnId,
        index: u32,
        numerator: &[u8],
        denominator: &[u8],
    ) {
        let job = self.jobs.get_mut(index);
        job.set_progress(leading_number(numerator), leading_number(denominator));
        let (numerator, denominator) = (
            Bytes::copy_from_slice(numerator),
            Bytes::copy_from_slice(denominator),
        );
        self.relay(index, |handle| Reply::WorkStatus {
            handle,
            numerator: numerator.clone(),
            denominator: denominator.clone(),
        });
        self.heartbeat(now, conn, index);
    }

    /// Sends a packet to every attached submission.
    pub(crate) fn relay(
        &mut self,
        index: u32,
        packet: impl Fn(crate::handle::HandleText) -> Reply,
    ) {
        let job = self.jobs.get_mut(index);
        let handle = self.handles.text(job.id);
        let clients = std::mem::take(&mut job.clients);
        for client in clients.as_slice() {
            self.reply(*client, packet(handle));
        }
        self.jobs.get_mut(index).clients = clients;
    }

    fn relay_exception(&mut self, index: u32, data: &[u8]) {
        let job = self.jobs.get_mut(index);
        let handle = self.handles.text(job.id);
        let data = Bytes::copy_from_slice(data);
        let clients = std::mem::take(&mut job.clients);
        for client in clients.as_slice() {
            let wants_exceptions = self.config.exceptions_for_all
                || self.conns.get(client).is_some_and(|c| c.wants_exceptions);
            let reply = if wants_exceptions {
                Reply::WorkException {
                    handle,
                    data: data.clone(),
                }
            } else {
                // DIFFERS(gearmand): the original appends a NUL to the handle here.
                Reply::WorkFail { handle }
            };
            self.reply(*client, reply);
        }
        self.jobs.get_mut(index).clients = clients;
    }

    /// A job ended in its worker's hands.
    fn end(&mut self, now: Instant, worker: ConnId, index: u32) {
        let now_us = self.life_us(now);
        let job = self.remove(index);
        self.counters.run.observe(now_us - job.since_us);
        self.after_end(now, worker, job.function);
    }

    /// A worker has one job less: it, or others of a bounded function, may take the next.
    pub(crate) fn after_end(
        &mut self,
        now: Instant,
        worker: ConnId,
        function: crate::function::FunctionId,
    ) {
        if self.function(function).running_max > 0 {
            self.wake_ready(now, function);
        }
        self.refill(now, worker);
    }

    fn heartbeat(&mut self, now: Instant, conn: ConnId, index: u32) {
        if self.conns.get(&conn).is_some_and(|c| c.wants_heartbeat) {
            self.restart_timer(now, conn, index);
        }
    }

    fn restart_timer(&mut self, now: Instant, conn: ConnId, index: u32) {
        let job = self.jobs.get(index);
        let (id, function) = (job.id, job.function);
        let own_timeout = job.headers().and_then(|headers| headers.timeout);
        let of_function = || {
            let c = self.conns.get(&conn)?;
            c.abilities.iter().find(|a| a.function == function)?.timeout
        };
        let timeout = own_timeout.or_else(of_function);
        if let Some(timeout) = timeout {
            self.timers.insert(Timer::Job(id), now + timeout);
        }
    }
}

/// The handle a report is about, and the text of the ERROR when nobody here holds it.
fn about<'a>(request: &Request<'a>) -> Option<(&'a [u8], &'static str)> {
    match *request {
        Request::WorkData { handle, .. } | Request::WorkWarning { handle, .. } => {
            Some((handle, error_text::NO_JOB_FOR_DATA))
        }
        // COMPAT(libgearman): some senders end the handle with a NUL.
        Request::WorkFail { handle } => Some((
            handle.strip_suffix(b"\0").unwrap_or(handle),
            error_text::NO_JOB_FOR_RESULT,
        )),
        Request::WorkStatus { handle, .. } | Request::WorkComplete { handle, .. } => {
            Some((handle, error_text::NO_JOB_FOR_RESULT))
        }
        Request::WorkException { handle, .. } => Some((handle, error_text::NO_JOB_FOR_EXCEPTION)),
        Request::Touch { handle } | Request::Nack { handle, .. } => {
            Some((handle, error_text::NO_JOB))
        }
        Request::CanDo { .. }
        | Request::CanDoTimeout { .. }
        | Request::CantDo { .. }
        | Request::ResetAbilities
        | Request::PreSleep
        | Request::Submit(_)
        | Request::GrabJob(_)
        | Request::GetStatus { .. }
        | Request::GetStatusUnique { .. }
        | Request::Echo { .. }
        | Request::SetClientId { .. }
        | Request::AllYours
        | Request::Option { .. }
        | Request::Attach { .. } => None,
    }
}

/// Leading decimal digits, saturating; garbage is 0.
fn leading_number(text: &[u8]) -> u32 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    match text.get(..digits).filter(|d| !d.is_empty()) {
        None => 0,
        Some(digits) => {
            ascii::parse_u64(digits).map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX))
        }
    }
}
