//! Submissions: checks, coalescing, and the first step of a new job.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_base::ascii;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Mode, Submit, limits};

use crate::headers::Headers;
use crate::io::Reply;
use crate::job::{ConnId, Job, JobId, State, Stored, Workload};
use crate::keys::Key;
use crate::server::{JobServer, Timer};

/// How often an expired job is looked at whose way into the store is still open.
const COMMIT_LOOK: Duration = Duration::from_secs(1);
/// Per job without its workload, for the bound on memory: slot, index entry and the allocation of key and workload.
pub(crate) const JOB_BYTES: u64 = 160;

impl JobServer {
    pub(crate) fn handle_submit(&mut self, now: Instant, conn: ConnId, submit: &Submit<'_>) {
        let taken = self.take_headers(conn, submit);
        let outcome =
            taken.and_then(|(submit, headers)| self.try_submit(now, conn, &submit, headers));
        if let Err((code, text)) = outcome {
            self.counters.refused += 1;
            self.error(conn, code, text);
        }
    }

    fn try_submit(
        &mut self,
        now: Instant,
        conn: ConnId,
        submit: &Submit<'_>,
        headers: Headers,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let reducer = submit.reducer.map_or(&b""[..], |[name, _]| name);
        if submit.unique.len() > limits::UNIQUE_BYTES_MAX
            || reducer.len() > limits::REDUCER_BYTES_MAX
        {
            return Err((ErrorCode::ArgumentTooLarge, error_text::UNIQUE_TOO_LARGE));
        }
        if submit.function.len() > limits::FUNCTION_BYTES_MAX {
            return Err((
                ErrorCode::InvalidFunctionName,
                error_text::FUNCTION_TOO_LARGE,
            ));
        }
        if let Some(fields) = submit.schedule {
            return self.submit_schedule(now, conn, submit, fields);
        }
        let due_ms = match submit.epoch {
            None => headers.delay.map_or(0, |delay| {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                self.wall_ms(now).saturating_add(delay_ms)
            }),
            Some(text) => due_ms(text, self.wall_ms(now))
                .ok_or((ErrorCode::InvalidArgument, error_text::BAD_EPOCH))?,
        };
        if self.is_draining {
            return Err((ErrorCode::QueueError, error_text::DRAINING));
        }
        let key = Key::of(submit.unique, submit.workload);
        let function = self.names.get(submit.function).copied();
        if let (Some(key), Some(function)) = (key, function)
            && let Some(index) = self.keys.find(&self.jobs, function, key)
        {
            self.join(Some(conn), index, submit.mode);
            return Ok(());
        }
        if let (Some(key), Some(window)) = (key, headers.dedupe)
            && let Some(id) = self.done_within(now, key, submit.function, window)
        {
            self.answer_done(conn, id, submit.mode);
            return Ok(());
        }
        self.check_room(Some(conn), submit)?;
        let index = self.create(submit, due_ms, headers);
        self.launch(now, Some(conn), index);
        Ok(())
    }

    /// The headers of a connection that asked for them: one more argument before the data. Recurring and reduced jobs have none.
    fn take_headers<'a>(
        &self,
        conn: ConnId,
        submit: &Submit<'a>,
    ) -> Result<(Submit<'a>, Headers), (ErrorCode, &'static str)> {
        let wants_headers = self.conns.get(&conn).is_some_and(|c| c.wants_headers);
        if !wants_headers || submit.schedule.is_some() || submit.reducer.is_some() {
            return Ok((*submit, Headers::default()));
        }
        let at = submit.workload.iter().position(|byte| *byte == 0);
        let taken = at.and_then(|at| {
            let headers = Headers::parse(&submit.workload[..at])?;
            let submit = Submit {
                workload: &submit.workload[at + 1..],
                ..*submit
            };
            Some((submit, headers))
        });
        taken.ok_or((ErrorCode::InvalidArgument, error_text::BAD_HEADERS))
    }

    /// A job that no worker took in its time is given up. One that is in a worker's hands is not: it was taken in time.
    pub(crate) fn expire(&mut self, now: Instant, id: JobId) {
        let Some(index) = self.jobs.index_of(id) else {
            return;
        };
        match self.jobs.get(index).state {
            State::Running(_) => return,
            // Whoever waits for the store's answer hears that first.
            State::Committing => {
                self.timers.insert(Timer::Expiry(id), now + COMMIT_LOOK);
                return;
            }
            State::Waiting | State::Scheduled => {}
        }
        self.counters.expired += 1;
        self.relay(index, |handle| Reply::WorkFail { handle });
        if self.jobs.get(index).is_background {
            self.bury(index, Bytes::from_static(b"expired"));
        } else {
            self.remove(index);
        }
    }

    pub(crate) fn check_room(
        &self,
        conn: Option<ConnId>,
        submit: &Submit<'_>,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let function = self.names.get(submit.function).map(|id| self.function(*id));
        let is_full = match function {
            Some(function) => function.is_full(submit.priority),
            // An empty function is full only with a bound below one, and those mean no bound.
            None => false,
        };
        let bytes = self.memory() + submit.workload.len() as u64 + JOB_BYTES;
        if is_full
            || self.config.jobs_max > 0 && self.jobs.len() >= self.config.jobs_max
            || self.config.workload_bytes_max > 0 && bytes > self.config.workload_bytes_max
        {
            return Err((ErrorCode::QueueError, error_text::QUEUE_FULL));
        }
        if function.is_none() && !self.may_intern(submit.function) {
            return Err((ErrorCode::QueueError, error_text::TOO_MANY_FUNCTIONS));
        }
        let wants_workers = conn
            .and_then(|conn| self.conns.get(&conn))
            .is_some_and(|c| c.wants_no_workers_error);
        if wants_workers
            && submit.mode == Mode::Foreground
            && function.is_none_or(|f| f.workers == 0)
        {
            return Err((ErrorCode::NoWorkers, error_text::NO_WORKERS));
        }
        Ok(())
    }

    /// What jobs take, for the bound on memory.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.workload_bytes + JOB_BYTES * self.jobs.len() as u64
    }

    /// A new job, committing. The admission copy is made here: from here on the job owns its bytes.
    pub(crate) fn create(&mut self, submit: &Submit<'_>, due_ms: u64, headers: Headers) -> u32 {
        let function = self.intern(submit.function);
        let id = self.take_job_id();
        let workload = Workload::Borrowed(submit.workload);
        let mut job = Job::new(id, function, submit.priority, submit.unique, workload);
        job.is_background = submit.mode == Mode::Background;
        job.is_keyed = Key::of(submit.unique, submit.workload).is_some();
        job.due_ms = due_ms;
        job.set_extra(submit.reducer.map_or(b"", |[name, _]| name), headers);
        let is_background = job.is_background;
        let index = self.admit(job);
        let submitted = if is_background {
            &mut self.counters.submitted_background
        } else {
            &mut self.counters.submitted_foreground
        };
        submitted[submit.priority.index()] += 1;
        index
    }

    /// Sends a new job into the store, or at once where jobs wait. An occurrence of a recurring job has no submitter.
    pub(crate) fn launch(&mut self, now: Instant, conn: Option<ConnId>, index: u32) {
        let job = self.jobs.get(index);
        let (id, is_background) = (job.id, job.is_background);
        if let Some(ttl) = job.headers().and_then(|headers| headers.ttl) {
            self.timers.insert(Timer::Expiry(id), now + ttl);
        }
        if is_background && self.config.durable {
            self.persist(index);
            self.wait_for_commit(conn, id, false);
            return;
        }
        if let Some(conn) = conn {
            if !is_background {
                self.attach(conn, index);
            }
            let handle = self.handles.text(id);
            self.reply(conn, Reply::JobCreated { handle });
        }
        self.leave(index);
        self.enter(now, index);
    }

    /// A submission whose key is taken: its workload, priority and time are dropped.
    pub(crate) fn join(&mut self, conn: Option<ConnId>, index: u32, mode: Mode) {
        self.counters.coalesced += 1;
        let job = self.jobs.get_mut(index);
        let id = job.id;
        let must_wait = match mode {
            Mode::Foreground => job.state == State::Committing,
            // DIFFERS(gearmand): the original forgets that a background submitter joined a foreground job.
            Mode::Background => {
                let is_new = !job.is_background;
                job.is_background = true;
                if is_new && self.config.durable {
                    self.persist(index);
                }
                self.jobs.get(index).stored == Stored::Pending
            }
        };
        if must_wait {
            self.wait_for_commit(conn, id, mode == Mode::Foreground);
            return;
        }
        let Some(conn) = conn else { return };
        if mode == Mode::Foreground {
            self.attach(conn, index);
        }
        let handle = self.handles.text(id);
        self.reply(conn, Reply::JobCreated { handle });
    }

    pub(crate) fn attach(&mut self, conn: ConnId, index: u32) {
        let job = self.jobs.get_mut(index);
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        job.clients.push(conn);
        *c.waiting_for.entry(job.id).or_insert(0) += 1;
    }
}

/// When a job with this epoch may run, in milliseconds since 1970; 0 when that time has passed.
fn due_ms(text: &[u8], wall_ms: u64) -> Option<u64> {
    let seconds = ascii::parse_i64(text)?;
    let due_ms = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    Some(if due_ms <= wall_ms { 0 } else { due_ms })
}
