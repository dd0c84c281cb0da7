//! The way into the store: who waits for which job's commit, and what becomes of jobs whose commit succeeds, fails or happened in an earlier life.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::ErrorCode;
use ibex_gearman_proto::text::error_text;

use crate::control::Dead;
use crate::headers::Headers;
use crate::io::{Output, Reply};
use crate::job::{ConnId, Job, JobId, State, Stored, StoredJob, Workload};
use crate::keys::Key;
use crate::server::{JobServer, Timer};

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

impl JobServer {
    pub(crate) fn persist(&mut self, index: u32) {
        let stored = self.stored(index);
        self.jobs.get_mut(index).stored = Stored::Pending;
        self.output(Output::Persist(stored));
    }

    pub(crate) fn stored(&self, index: u32) -> StoredJob {
        let job = self.jobs.get(index);
        let headers = job.headers();
        StoredJob {
            id: job.id,
            function: self.function(job.function).name.clone(),
            unique: Bytes::copy_from_slice(job.unique()),
            priority: job.priority,
            due_ms: job.due_ms,
            attempts: job.attempts,
            reducer: job.reducer(),
            headers: headers.map_or_else(Bytes::new, |headers| headers.text.clone()),
            workload: job.workload_bytes(),
        }
    }

    pub(crate) fn wait_for_commit(&mut self, conn: Option<ConnId>, id: JobId, is_foreground: bool) {
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

    pub(crate) fn handle_restored(
        &mut self,
        now: Instant,
        stored: &StoredJob,
        workload: Workload<'_>,
    ) {
        self.skip_job_id(stored.id);
        if self.jobs.index_of(stored.id).is_some() {
            return;
        }
        let index = self.admit_stored(stored, workload);
        let job = self.jobs.get_mut(index);
        job.stored = Stored::Yes;
        if let Some(ttl) = job.headers().and_then(|headers| headers.ttl) {
            let id = job.id;
            self.timers.insert(Timer::Expiry(id), now + ttl);
        }
        self.leave(index);
        self.enter(now, index);
    }

    /// A background job out of the store, committing. `workload` is looked at instead of the row's.
    pub(crate) fn admit_stored(&mut self, stored: &StoredJob, workload: Workload<'_>) -> u32 {
        let function = self.intern(&stored.function);
        let is_taken = self.is_key_taken(stored);
        let mut job = Job::new(
            stored.id,
            function,
            stored.priority,
            &stored.unique,
            workload,
        );
        job.is_background = true;
        job.is_keyed = !is_taken && Key::of(&stored.unique, &stored.workload).is_some();
        job.attempts = stored.attempts;
        job.due_ms = stored.due_ms;
        // What an older version stored is as it was then; what cannot be read any more steers nothing.
        let headers = Headers::parse(&stored.headers).unwrap_or_default();
        job.set_extra(&stored.reducer, headers);
        self.admit(job)
    }

    /// Whether another job of the same function has the same key.
    pub(crate) fn is_key_taken(&self, job: &StoredJob) -> bool {
        let function = self.names.get(&job.function).copied();
        let key = Key::of(&job.unique, &job.workload);
        key.zip(function)
            .is_some_and(|(key, function)| self.keys.find(&self.jobs, function, key).is_some())
    }
}
