//! Submissions: checks, coalescing, the way into the store, and the queue at its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_base::ascii;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Mode, Submit, limits};

use crate::control::Dead;
use crate::headers::Headers;
use crate::job::{ConnId, Extra, Job, JobId, State, Stored, StoredJob};
use crate::server::{JobServer, Key, Output, Reply, Timer};

/// Who waits until a job is durable.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) waiters: Vec<Waiter>,
    /// The dead job that is being revived, to put back if the store refuses.
    pub(crate) revived: Option<Dead>,
    /// The recurring job of which it is an occurrence, to come again if the store refuses.
    pub(crate) occurrence_of: Option<JobId>,
}

#[derive(Debug)]
pub(crate) struct Waiter {
    conn: ConnId,
    place: u64,
    /// A foreground submission: it wants the job's packets.
    is_foreground: bool,
}

/// How often an expired job is looked at whose way into the store is still open.
const COMMIT_LOOK: Duration = Duration::from_secs(1);
/// Per job without its workload, for the bound on memory: slot, index entry and allocator overhead.
const JOB_BYTES: u64 = 256;

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
        let key = key_of(submit);
        let function = self.names.get(submit.function).copied();
        if let (Some(key), Some(function)) = (&key, function)
            && let Some(index) = self.by_key.get(&(key.clone(), function)).copied()
        {
            self.join(Some(conn), index, submit.mode);
            return Ok(());
        }
        if let (Some(key), Some(window)) = (&key, headers.dedupe)
            && let Some(id) = self.done_within(now, key, submit.function, window)
        {
            self.answer_done(conn, id, submit.mode);
            return Ok(());
        }
        self.check_room(Some(conn), submit)?;
        let index = self.create(submit, key, due_ms, headers);
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
        let bytes = self.workload_bytes
            + submit.workload.len() as u64
            + JOB_BYTES * (self.jobs.len() as u64 + 1);
        if is_full
            || self.config.jobs_max > 0 && self.jobs.len() >= self.config.jobs_max
            || self.config.workload_bytes_max > 0 && bytes > self.config.workload_bytes_max
        {
            return Err((ErrorCode::QueueError, error_text::QUEUE_FULL));
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

    /// A new job, committing.
    pub(crate) fn create(
        &mut self,
        submit: &Submit<'_>,
        key: Option<Key>,
        due_ms: u64,
        headers: Headers,
    ) -> u32 {
        let function = self.intern(submit.function);
        let id = self.take_job_id();
        // The admission copy: from here on the job owns its bytes. The key and the job share theirs.
        let (unique, workload) = match &key {
            Some(Key::Unique(unique)) => (unique.clone(), Bytes::copy_from_slice(submit.workload)),
            Some(Key::Workload(workload)) => (Bytes::from_static(b"-"), workload.clone()),
            None => (
                Bytes::copy_from_slice(submit.unique),
                Bytes::copy_from_slice(submit.workload),
            ),
        };
        let mut job = Job::new(id, function, submit.priority, unique, workload);
        job.is_background = submit.mode == Mode::Background;
        job.is_keyed = key.is_some();
        job.due_ms = due_ms;
        let reducer = submit.reducer.map_or(&b""[..], |[name, _]| name);
        job.extra = Extra::boxed(Bytes::copy_from_slice(reducer), headers);
        let is_background = job.is_background;
        let index = self.admit(job, key);
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

    /// Gives a new job its slot, its key and its place among the committing.
    pub(crate) fn admit(&mut self, job: Job, key: Option<Key>) -> u32 {
        debug_assert_eq!(job.state, State::Committing);
        let function = job.function;
        self.workload_bytes += job.workload.len() as u64;
        let index = self.jobs.insert(job);
        if let Some(key) = key {
            let before = self.by_key.insert((key, function), index);
            debug_assert!(before.is_none(), "a taken key is joined");
        }
        let function = self.function_mut(function);
        function.committing += 1;
        function.submitted += 1;
        function.unused_since = None;
        index
    }

    fn persist(&mut self, index: u32) {
        let stored = self.stored(index);
        self.jobs.get_mut(index).stored = Stored::Pending;
        self.output(Output::Persist(stored));
    }

    pub(crate) fn stored(&self, index: u32) -> StoredJob {
        let job = self.jobs.get(index);
        StoredJob {
            id: job.id,
            function: self.function(job.function).name.clone(),
            unique: job.unique.clone(),
            priority: job.priority,
            due_ms: job.due_ms,
            attempts: job.attempts,
            reducer: job.reducer(),
            headers: job
                .headers()
                .map_or_else(Bytes::new, |headers| headers.text.clone()),
            workload: job.workload.clone(),
        }
    }

    fn wait_for_commit(&mut self, conn: Option<ConnId>, id: JobId, is_foreground: bool) {
        let waiter = conn.map(|conn| Waiter {
            conn,
            place: self.hold_place(conn),
            is_foreground,
        });
        self.commits.entry(id).or_default().waiters.extend(waiter);
    }

    /// Remembers which recurring job to come back to if the store refuses this one.
    pub(crate) fn note_occurrence(&mut self, index: u32, schedule: JobId) {
        let job = self.jobs.get(index);
        if job.stored == Stored::Pending {
            self.commits.entry(job.id).or_default().occurrence_of = Some(schedule);
        }
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

    pub(crate) fn handle_persisted(&mut self, now: Instant, id: JobId) {
        let commit = self.commits.remove(&id).unwrap_or_default();
        let handle = self.handles.text(id);
        let index = self.jobs.index_of(id);
        if let Some(index) = index {
            self.jobs.get_mut(index).stored = Stored::Yes;
        }
        for waiter in commit.waiters {
            if let Some(index) = index.filter(|_| waiter.is_foreground) {
                self.attach(waiter.conn, index);
            }
            // A job that ended meanwhile has run or was cancelled: the submission was accepted all the same.
            self.fill_place(waiter.conn, waiter.place, Reply::JobCreated { handle });
        }
        if let Some(index) = index
            && self.jobs.get(index).state == State::Committing
        {
            self.leave(index);
            self.enter(now, index);
        }
    }

    pub(crate) fn handle_persist_failed(&mut self, now: Instant, id: JobId) {
        let commit = self.commits.remove(&id).unwrap_or_default();
        let handle = self.handles.text(id);
        // A job that was buried meanwhile is neither done nor stored: nobody may be told that it was accepted.
        let is_dead = self.dead.remove(&id).is_some();
        let index = self.jobs.index_of(id);
        if index.is_none() && !is_dead {
            for waiter in commit.waiters {
                self.fill_place(waiter.conn, waiter.place, Reply::JobCreated { handle });
            }
            return;
        }
        if let Some(schedule) = commit.occurrence_of {
            self.retry_occurrence(now, schedule);
        }
        for waiter in commit.waiters {
            self.counters.refused += 1;
            self.counters.errors += 1;
            let error = Reply::Error {
                code: Bytes::from_static(ErrorCode::QueueError.as_str().as_bytes()),
                text: Bytes::from_static(error_text::STORE_FAILED.as_bytes()),
            };
            self.fill_place(waiter.conn, waiter.place, error);
        }
        let Some(index) = index else { return };
        let job = self.jobs.get_mut(index);
        job.stored = Stored::No;
        if job.state == State::Committing {
            self.remove(index);
            if let Some(dead) = commit.revived {
                self.dead.insert(id, dead);
            }
            return;
        }
        // A background submission that joined a foreground job was refused; the job is what it was.
        job.is_background = false;
        if job.clients.is_empty() && !matches!(job.state, State::Running(_)) {
            self.counters.abandoned += 1;
            self.remove(index);
        }
    }

    pub(crate) fn handle_restored(&mut self, now: Instant, stored: StoredJob) {
        self.skip_job_id(stored.id);
        if self.jobs.index_of(stored.id).is_some() {
            return;
        }
        let index = self.admit_stored(stored);
        let job = self.jobs.get_mut(index);
        job.stored = Stored::Yes;
        if let Some(ttl) = job.headers().and_then(|headers| headers.ttl) {
            let id = job.id;
            self.timers.insert(Timer::Expiry(id), now + ttl);
        }
        self.leave(index);
        self.enter(now, index);
    }

    /// A background job out of the store, committing.
    pub(crate) fn admit_stored(&mut self, stored: StoredJob) -> u32 {
        let function = self.intern(&stored.function);
        let key = key_from(stored.unique.clone(), &stored.workload)
            .filter(|key| !self.by_key.contains_key(&(key.clone(), function)));
        let mut job = Job::new(
            stored.id,
            function,
            stored.priority,
            stored.unique,
            stored.workload,
        );
        job.is_background = true;
        job.is_keyed = key.is_some();
        job.attempts = stored.attempts;
        job.due_ms = stored.due_ms;
        // What an older version stored is as it was then; what cannot be read any more steers nothing.
        let headers = Headers::parse(&stored.headers).unwrap_or_default();
        job.extra = Extra::boxed(stored.reducer, headers);
        self.admit(job, key)
    }

    /// Whether another job of the same function has the same key.
    pub(crate) fn is_key_taken(&self, job: &StoredJob) -> bool {
        let function = self.names.get(&job.function).copied();
        let key = key_from(job.unique.clone(), &job.workload);
        key.zip(function)
            .is_some_and(|key| self.by_key.contains_key(&key))
    }

    /// Puts a job that is nowhere into the schedule or at the end of its queue.
    pub(crate) fn enter(&mut self, now: Instant, index: u32) {
        let due_ms = self.jobs.get(index).due_ms;
        if due_ms > self.wall_ms(now) {
            let job = self.jobs.get_mut(index);
            job.state = State::Scheduled;
            self.schedule.insert((due_ms, job.id));
            let function = job.function;
            self.function_mut(function).scheduled += 1;
        } else {
            self.enter_queue(now, index, false);
        }
    }

    /// Puts a job that is nowhere into its queue, in front if it has waited before, and wakes somebody for it.
    pub(crate) fn enter_queue(&mut self, now: Instant, index: u32, is_front: bool) {
        let since_us = self.life_us(now);
        let job = self.jobs.get_mut(index);
        job.state = State::Waiting;
        job.since_us = since_us;
        let (function, priority) = (job.function, job.priority.index());
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a job's function exists");
        let queue = &mut f.queues[priority];
        if is_front {
            queue.push_front(&mut self.jobs, index);
        } else {
            queue.push_back(&mut self.jobs, index);
        }
        self.wake_ready(now, function);
    }

    /// Takes a job out of wherever it is. Its state is stale until it enters somewhere or is removed.
    pub(crate) fn leave(&mut self, index: u32) {
        let job = self.jobs.get(index);
        let (id, function, state) = (job.id, job.function, job.state);
        let (priority, due_ms) = (job.priority.index(), job.due_ms);
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a job's function exists");
        match state {
            State::Committing => f.committing -= 1,
            State::Scheduled => {
                f.scheduled -= 1;
                self.schedule.remove(&(due_ms, id));
            }
            State::Waiting => f.queues[priority].unlink(&mut self.jobs, index),
            State::Running(worker) => {
                f.running -= 1;
                self.timers.remove(&Timer::Job(id));
                if let Some(c) = self.conns.get_mut(&worker) {
                    c.holding.remove(&id);
                }
            }
        }
    }

    /// Ends a job: takes it out of its place, frees its key, lets its clients and the store go.
    pub(crate) fn remove(&mut self, index: u32) -> Job {
        self.leave(index);
        let job = self.jobs.remove(index);
        if job.headers().is_some_and(|headers| headers.ttl.is_some()) {
            self.timers.remove(&Timer::Expiry(job.id));
        }
        self.workload_bytes -= job.workload.len() as u64;
        if job.is_keyed
            && let Some(key) = key_from(job.unique.clone(), &job.workload)
        {
            self.by_key.remove(&(key, job.function));
        }
        for client in &job.clients {
            if let Some(c) = self.conns.get_mut(client) {
                c.waiting_for.remove(&job.id);
            }
        }
        if job.stored != Stored::No {
            self.output(Output::Forget(job.id));
        }
        self.function_mut(job.function).finished += 1;
        job
    }
}

pub(crate) fn key_of(submit: &Submit<'_>) -> Option<Key> {
    match submit.unique {
        b"" => None,
        b"-" if submit.workload.is_empty() => None,
        b"-" => Some(Key::Workload(Bytes::copy_from_slice(submit.workload))),
        unique => Some(Key::Unique(Bytes::copy_from_slice(unique))),
    }
}

pub(crate) fn key_from(unique: Bytes, workload: &Bytes) -> Option<Key> {
    match &unique[..] {
        b"" => None,
        b"-" if workload.is_empty() => None,
        b"-" => Some(Key::Workload(workload.clone())),
        _ => Some(Key::Unique(unique)),
    }
}

/// When a job with this epoch may run, in milliseconds since 1970; 0 when that time has passed.
fn due_ms(text: &[u8], wall_ms: u64) -> Option<u64> {
    let seconds = ascii::parse_i64(text)?;
    let due_ms = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    Some(if due_ms <= wall_ms { 0 } else { due_ms })
}
