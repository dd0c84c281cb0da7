//! What workers report, and what becomes of jobs whose worker does not.

use std::time::Instant;

use bytes::Bytes;
use ibex_base::ascii;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Request, limits};

use crate::config::{RetryPolicy, TimeoutAction};
use crate::job::{ConnId, JobId, State, Stored};
use crate::results::End;
use crate::server::{JobServer, Loss, Output, Reply, Timer};

/// Bytes of an exception's text that are kept with a dead job.
const REASON_BYTES_MAX: usize = 1024;

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
        job.numerator = leading_number(numerator);
        job.denominator = leading_number(denominator);
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
        for client in &clients {
            self.reply(*client, packet(handle));
        }
        self.jobs.get_mut(index).clients = clients;
    }

    fn relay_exception(&mut self, index: u32, data: &[u8]) {
        let job = self.jobs.get_mut(index);
        let handle = self.handles.text(job.id);
        let data = Bytes::copy_from_slice(data);
        let clients = std::mem::take(&mut job.clients);
        for client in &clients {
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
    fn after_end(&mut self, now: Instant, worker: ConnId, function: crate::function::FunctionId) {
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

    pub(crate) fn time_out(&mut self, now: Instant, id: JobId) {
        self.counters.timed_out += 1;
        self.take_back(now, id, Loss::Timeout);
    }

    /// A failure that is the end of an attempt only: the job is background, and its function has a retry policy.
    fn comes_again(&mut self, now: Instant, index: u32, request: &Request<'_>) -> bool {
        let job = self.jobs.get(index);
        let id = job.id;
        if !job.is_background || self.retry_policy(index).is_none() {
            return false;
        }
        let reason = if let Request::WorkException { data, .. } = request {
            self.counters.excepted += 1;
            Bytes::copy_from_slice(data.get(..REASON_BYTES_MAX).unwrap_or(data))
        } else if let Request::WorkFail { .. } = request {
            self.counters.failed += 1;
            Bytes::from_static(b"failed")
        } else {
            return false;
        };
        self.take_back_for(now, id, Loss::Failed, reason);
        true
    }

    /// The job's own, or its function's.
    fn retry_policy(&self, index: u32) -> Option<RetryPolicy> {
        let job = self.jobs.get(index);
        let own = job.headers().and_then(|headers| headers.retry);
        if own.is_some() || self.config.retry.is_empty() {
            return own;
        }
        let function = job.function;
        self.config
            .retry
            .get(&self.function(function).name)
            .copied()
    }

    /// Takes a running job out of its worker's hands and decides what becomes of it.
    pub(crate) fn take_back(&mut self, now: Instant, id: JobId, loss: Loss) {
        let reason = match loss {
            Loss::Worker => &b"worker lost"[..],
            Loss::Timeout => b"timeout",
            Loss::Failed => b"failed",
            Loss::Nack { .. } => b"given back",
        };
        self.take_back_for(now, id, loss, Bytes::from_static(reason));
    }

    /// The same; `reason` is kept if the job dies of it.
    fn take_back_for(&mut self, now: Instant, id: JobId, loss: Loss, reason: Bytes) {
        let Some(index) = self.jobs.index_of(id) else {
            return;
        };
        let job = self.jobs.get_mut(index);
        let State::Running(worker) = job.state else {
            return;
        };
        job.attempts += 1;
        (job.numerator, job.denominator) = (0, 0);
        let (attempts, function) = (job.attempts, job.function);
        let is_foreground = !job.is_background;
        let is_orphan = is_foreground && job.clients.is_empty();
        if let Some(c) = self.conns.get_mut(&worker) {
            c.bury(id);
        }
        let is_failure = match loss {
            Loss::Timeout => is_foreground && self.config.timeout_action == TimeoutAction::Fail,
            Loss::Worker => is_foreground && self.config.is_loss_failure,
            Loss::Failed | Loss::Nack { .. } => false,
        };
        let attempts_max = match self.retry_policy(index) {
            Some(policy) => Some(policy.attempts),
            None => self.config.retries_max,
        };
        let is_exhausted = attempts_max.is_some_and(|max| attempts >= max.max(1));
        if is_orphan {
            self.counters.abandoned += 1;
            self.remove(index);
        } else if is_failure || is_foreground && is_exhausted {
            self.relay(index, |handle| Reply::WorkFail { handle });
            self.remove(index);
        } else if is_exhausted {
            self.relay(index, |handle| Reply::WorkFail { handle });
            self.bury(index, reason);
        } else {
            self.requeue(now, index, loss);
        }
        self.after_end(now, worker, function);
    }

    fn requeue(&mut self, now: Instant, index: u32, loss: Loss) {
        self.counters.requeued += 1;
        self.leave(index);
        let wall_ms = self.wall_ms(now);
        let policy = self.retry_policy(index);
        let job = self.jobs.get_mut(index);
        job.due_ms = match (loss, policy) {
            (Loss::Nack { due_ms }, _) if due_ms > wall_ms => due_ms,
            (Loss::Failed, Some(policy)) => {
                wall_ms.saturating_add(policy.pause_ms(job.id, job.attempts))
            }
            (Loss::Nack { .. } | Loss::Worker | Loss::Timeout | Loss::Failed, _) => 0,
        };
        if job.stored != Stored::No {
            let (job, attempts, due_ms) = (job.id, job.attempts, job.due_ms);
            self.output(Output::Attempt {
                job,
                attempts,
                due_ms,
            });
        }
        if self.jobs.get(index).due_ms > 0 {
            self.enter(now, index);
        } else {
            // DIFFERS(gearmand): to the front, it has waited longest; the original puts it to the end.
            self.enter_queue(now, index, true);
        }
    }

    /// A client of `job` is gone.
    pub(crate) fn client_left(&mut self, id: JobId, client: ConnId) {
        let Some(index) = self.jobs.index_of(id) else {
            return;
        };
        let job = self.jobs.get_mut(index);
        job.clients.retain(|c| *c != client);
        if job.is_background || !job.clients.is_empty() {
            return;
        }
        match job.state {
            // DIFFERS(gearmand): the original keeps it, flagged, until a worker looks at it.
            State::Waiting | State::Scheduled => {
                self.counters.abandoned += 1;
                self.remove(index);
            }
            State::Running(worker) => self.tell_cancelled(worker, id),
            // Only background jobs commit.
            State::Committing => {}
        }
    }

    /// Tells a worker that asked for it (option `cancel`) that nobody wants the job any more.
    pub(crate) fn tell_cancelled(&mut self, worker: ConnId, id: JobId) {
        if self.conns.get(&worker).is_some_and(|c| c.wants_cancel) {
            let handle = self.handles.text(id);
            self.reply(worker, Reply::WorkFail { handle });
        }
    }

    pub(crate) fn handle_get_status(&mut self, conn: ConnId, handle: &[u8]) {
        if handle.len() > limits::HANDLE_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::ArgumentTooLarge,
                error_text::HANDLE_TOO_LARGE,
            );
            return;
        }
        let id = self.handles.parse(handle);
        let recurs = id.is_some_and(|id| self.schedules.is_known(id));
        let job = id
            .and_then(|id| self.jobs.index_of(id))
            .map(|index| self.jobs.get(index));
        let (known, running, numerator, denominator) = job.map_or((recurs, false, 0, 0), |job| {
            (
                true,
                matches!(job.state, State::Running(_)),
                job.numerator,
                job.denominator,
            )
        });
        let handle = Bytes::copy_from_slice(handle);
        self.reply(
            conn,
            Reply::Status {
                handle,
                known,
                running,
                numerator,
                denominator,
            },
        );
        if let Some(id) = id.filter(|_| !known)
            && self.conns.get(&conn).is_some_and(|c| c.wants_results)
        {
            self.send_result(conn, id);
        }
    }

    pub(crate) fn handle_get_status_unique(&mut self, conn: ConnId, unique: &[u8]) {
        if unique.len() > limits::UNIQUE_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::ArgumentTooLarge,
                error_text::UNIQUE_TOO_LARGE,
            );
            return;
        }
        let unique = Bytes::copy_from_slice(unique);
        let job = self
            .first_with_unique(&unique)
            .map(|index| self.jobs.get(index));
        let (known, running, numerator, denominator, clients) =
            job.map_or((false, false, 0, 0, 0), |job| {
                let clients = u32::try_from(job.clients.len()).unwrap_or(u32::MAX);
                (
                    true,
                    matches!(job.state, State::Running(_)),
                    job.numerator,
                    job.denominator,
                    clients,
                )
            });
        let ended = self.result_with_unique(&unique).filter(|_| !known);
        self.reply(
            conn,
            Reply::StatusUnique {
                unique,
                known,
                running,
                numerator,
                denominator,
                clients,
            },
        );
        if let Some(id) = ended
            && self.conns.get(&conn).is_some_and(|c| c.wants_results)
        {
            self.send_result(conn, id);
        }
    }

    pub(crate) fn handle_attach(&mut self, conn: ConnId, handle: &[u8]) {
        let ended = self.handles.parse(handle);
        let wants_results = self.conns.get(&conn).is_some_and(|c| c.wants_results);
        if let Some(id) = ended.filter(|id| wants_results && self.results.get(*id).is_some()) {
            let handle = self.handles.text(id);
            self.reply(conn, Reply::JobCreated { handle });
            self.send_result(conn, id);
            return;
        }
        match self
            .handles
            .parse(handle)
            .and_then(|id| self.jobs.index_of(id))
        {
            // A job on its way into the store has told its handle to nobody.
            Some(index) if self.jobs.get(index).state != State::Committing => {
                self.attach(conn, index);
                let handle = self.handles.text(self.jobs.get(index).id);
                self.reply(conn, Reply::JobCreated { handle });
            }
            _ => self.error(conn, ErrorCode::JobNotFound, error_text::NO_JOB),
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
