//! What lists, pages and metrics show. Reads only; orders are fixed: functions by age, jobs and connections by number.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::{Priority, QueueLimits};

use crate::conn::Rest;
use crate::counters::Counters;
use crate::handle::HandleText;
use crate::job::{ConnId, Job, JobId, State, Stored};
use crate::server::JobServer;

/// A function.
#[derive(Debug, Clone)]
pub struct FunctionView {
    /// Its name.
    pub name: Bytes,
    /// Waiting jobs by [`Priority::index`].
    pub waiting: [u32; 3],
    /// Of these, jobs whose workload is in the store only, and jobs that came after them.
    pub behind: u32,
    /// Jobs whose time has not come.
    pub scheduled: u32,
    /// Jobs on their way into the store.
    pub committing: u32,
    /// Jobs in workers' hands.
    pub running: u32,
    /// Connections that can do it.
    pub workers: u32,
    /// Of these, how many sleep.
    pub sleeping: u32,
    /// Age of the job at the head of the longest-waiting queue, in microseconds.
    pub oldest_us: u64,
    /// `maxqueue`.
    pub limits: QueueLimits,
    /// Bound on running jobs; 0 none.
    pub running_max: u32,
    /// Bound on assignments per second; 0 none.
    pub rate: u32,
    /// Hands out nothing.
    pub is_paused: bool,
    /// Jobs accepted since the function was made.
    pub submitted: u64,
    /// Jobs gone since the function was made.
    pub finished: u64,
}

impl FunctionView {
    /// Waiting, scheduled, committing and running jobs.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.waiting.iter().sum::<u32>() + self.scheduled + self.committing + self.running
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// On its way into the store.
    Committing,
    /// Its time has not come.
    Scheduled,
    /// In its queue.
    Waiting,
    /// In a worker's hands.
    Running(ConnId),
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Its handle.
    pub handle: HandleText,
    /// Its function.
    pub function: Bytes,
    /// Unique key as submitted.
    pub unique: Bytes,
    /// Queue.
    pub priority: Priority,
    /// Where it is.
    pub state: JobState,
    /// Attempts that ended without a result.
    pub attempts: u32,
    /// It does not depend on clients.
    pub is_background: bool,
    /// It is in the store.
    pub is_stored: bool,
    /// Nobody waits for it and it will not be run again.
    pub is_ignored: bool,
    /// Attached foreground submissions.
    pub clients: usize,
    /// Progress.
    pub numerator: u32,
    /// Progress.
    pub denominator: u32,
    /// Milliseconds since 1970 before which it is not handed out; 0 at once.
    pub due_ms: u64,
    /// Bytes of its workload.
    pub workload_bytes: usize,
    /// Its workload is in the store only.
    pub is_away: bool,
    /// How long it has been waiting or running, in microseconds.
    pub age_us: u64,
}

/// A dead job.
#[derive(Debug, Clone)]
pub struct DeadView {
    /// Its handle.
    pub handle: HandleText,
    /// Its function.
    pub function: Bytes,
    /// Unique key as submitted.
    pub unique: Bytes,
    /// Attempts that ended without a result.
    pub attempts: u32,
    /// Why it died.
    pub reason: Bytes,
}

/// A recurring job.
#[derive(Debug, Clone)]
pub struct ScheduleView {
    /// Its handle.
    pub handle: HandleText,
    /// Its function.
    pub function: Bytes,
    /// Unique key as submitted.
    pub unique: Bytes,
    /// Minute, hour, day of month, month, day of week, as sent; UTC.
    pub fields: [Bytes; 5],
    /// Milliseconds since 1970 of the next occurrence.
    pub next_ms: u64,
    /// Bytes of its workload.
    pub workload_bytes: usize,
}

/// A connection.
#[derive(Debug, Clone)]
pub struct ConnView {
    /// Its number.
    pub conn: ConnId,
    /// The name it gave itself.
    pub id: Bytes,
    /// What it can do, last registered first, as the original lists it.
    pub functions: Vec<Bytes>,
    /// Handles of jobs it holds.
    pub holding: Vec<HandleText>,
    /// Jobs it waits for as a client.
    pub waiting_for: usize,
    /// It sleeps.
    pub is_sleeping: bool,
}

impl JobServer {
    /// All functions, in the order in which they were made.
    pub fn functions(&self, now: Instant) -> impl Iterator<Item = FunctionView> {
        self.functions_from(now, 0).map(|(_, function)| function)
    }

    /// Functions with their places, from a place on: for lists that are made piece by piece.
    pub fn functions_from(
        &self,
        now: Instant,
        place: usize,
    ) -> impl Iterator<Item = (usize, FunctionView)> {
        (place..self.functions.len())
            .filter_map(move |place| Some((place, self.function_view(now, place)?)))
    }

    /// The place behind the last function.
    #[must_use]
    pub fn function_places(&self) -> usize {
        self.functions.len()
    }

    fn function_view(&self, now: Instant, index: usize) -> Option<FunctionView> {
        let (_, function) = self.function_at(index)?;
        let heads = function
            .queues
            .iter()
            .chain(&function.behind)
            .filter(|q| q.len > 0)
            .map(|q| self.jobs.get(q.head).since_us);
        let oldest_us = heads
            .min()
            .map_or(0, |since_us| self.life_us(now).saturating_sub(since_us));
        Some(FunctionView {
            name: function.name.clone(),
            waiting: [0, 1, 2].map(|p| function.queues[p].len + function.behind[p].len),
            behind: function.behind.iter().map(|q| q.len).sum(),
            scheduled: function.scheduled,
            committing: function.committing,
            running: function.running,
            workers: function.workers,
            sleeping: u32::try_from(function.sleepers.len()).unwrap_or(u32::MAX),
            oldest_us,
            limits: function.limits,
            running_max: function.running_max,
            rate: function.rate.map_or(0, |r| r.per_second),
            is_paused: function.is_paused,
            submitted: function.submitted,
            finished: function.finished,
        })
    }

    /// All jobs, by number.
    pub fn jobs(&self, now: Instant) -> impl Iterator<Item = JobView> {
        self.jobs_from(now, JobId(0))
    }

    /// Jobs by number, from a number on: for lists that are made piece by piece.
    pub fn jobs_from(&self, now: Instant, id: JobId) -> impl Iterator<Item = JobView> {
        self.jobs.from(id).map(move |job| self.job_view(now, job))
    }

    /// The largest number of a job.
    #[must_use]
    pub fn last_job(&self) -> Option<JobId> {
        self.jobs.last().map(|job| job.id)
    }

    /// Whether nothing is ever sent to a connection but answers to what it asks: it can do nothing and waits for no job.
    #[must_use]
    pub fn is_bystander(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| {
            c.abilities.is_empty() && c.holding.is_empty() && c.waiting_for.is_empty()
        })
    }

    /// The job with that handle.
    #[must_use]
    pub fn job(&self, now: Instant, handle: &[u8]) -> Option<JobView> {
        let index = self
            .handles
            .parse(handle)
            .and_then(|id| self.jobs.index_of(id))?;
        Some(self.job_view(now, self.jobs.get(index)))
    }

    fn job_view(&self, now: Instant, job: &Job) -> JobView {
        let (numerator, denominator) = job.progress();
        JobView {
            id: job.id,
            handle: self.handles.text(job.id),
            function: self.function(job.function).name.clone(),
            unique: Bytes::copy_from_slice(job.unique()),
            priority: job.priority,
            state: match job.state {
                State::Committing => JobState::Committing,
                State::Scheduled => JobState::Scheduled,
                State::Waiting => JobState::Waiting,
                State::Running(worker) => JobState::Running(worker),
            },
            attempts: job.attempts,
            is_background: job.is_background,
            is_stored: job.stored == Stored::Yes,
            is_ignored: !job.is_background && job.clients.is_empty(),
            clients: job.clients.len(),
            numerator,
            denominator,
            due_ms: job.due_ms,
            workload_bytes: job.workload_len() as usize,
            is_away: job.is_away(),
            age_us: self.life_us(now).saturating_sub(job.since_us),
        }
    }

    /// All connections, by number.
    pub fn conns(&self) -> impl Iterator<Item = ConnView> {
        let mut ids: Vec<ConnId> = self.conns.keys().copied().collect();
        ids.sort_unstable();
        let conns = ids
            .into_iter()
            .filter_map(|id| Some((id, self.conns.get(&id)?)));
        conns.map(|(conn, c)| ConnView {
            conn,
            id: c.id.clone(),
            functions: c
                .abilities
                .iter()
                .rev()
                .map(|a| self.function(a.function).name.clone())
                .collect(),
            holding: c.holding.iter().map(|id| self.handles.text(*id)).collect(),
            waiting_for: c.waiting_for.len(),
            is_sleeping: matches!(c.rest, Rest::Asleep(_) | Rest::Parked(..)),
        })
    }

    /// The dead, by number.
    pub fn dead(&self) -> impl Iterator<Item = DeadView> {
        self.dead.values().map(|dead| DeadView {
            handle: self.handles.text(dead.job.id),
            function: dead.job.function.clone(),
            unique: dead.job.unique.clone(),
            attempts: dead.job.attempts,
            reason: dead.reason.clone(),
        })
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Jobs there are, dead ones not counted.
    #[must_use]
    pub fn job_count(&self) -> usize {
        self.jobs.len()
    }

    /// Jobs in workers' hands.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.functions
            .iter()
            .flatten()
            .map(|f| f.running as usize)
            .sum()
    }

    /// Bytes of workload in memory.
    #[must_use]
    pub fn workload_bytes(&self) -> u64 {
        self.workload_bytes
    }

    /// New submissions are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// The jobs a connection waits for as a client, by number.
    pub fn jobs_of_client(&self, now: Instant, conn: ConnId) -> impl Iterator<Item = JobView> {
        let ids = self
            .conns
            .get(&conn)
            .into_iter()
            .flat_map(|c| c.waiting_for.keys());
        ids.filter_map(move |id| Some(self.job_view(now, self.jobs.get(self.jobs.index_of(*id)?))))
    }
}
