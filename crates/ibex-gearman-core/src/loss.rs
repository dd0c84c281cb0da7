//! Jobs whose worker does not finish them, and jobs whose clients do not wait: attempts, pauses, the dead, the forgotten.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::Request;

use crate::config::{RetryPolicy, TimeoutAction};
use crate::io::{Output, Reply};
use crate::job::{ConnId, JobId, State, Stored};
use crate::server::JobServer;

/// Bytes of an exception's text that are kept with a dead job.
const REASON_BYTES_MAX: usize = 1024;

/// Why a job leaves its worker's hands without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection is gone, or the worker took its registration back.
    Worker,
    /// It took too long.
    Timeout,
    /// It failed, and its function has a retry policy.
    Failed,
    /// The worker gave it back, not to be tried before that time (wall clock, ms).
    Nack { due_ms: u64 },
}

impl JobServer {
    pub(crate) fn time_out(&mut self, now: Instant, id: JobId) {
        self.counters.timed_out += 1;
        self.take_back(now, id, Loss::Timeout);
    }

    /// A failure that is the end of an attempt only: the job is background, and its function has a retry policy.
    pub(crate) fn comes_again(&mut self, now: Instant, index: u32, request: &Request<'_>) -> bool {
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
        job.set_progress(0, 0);
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
        job.clients.forget(client);
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
}
