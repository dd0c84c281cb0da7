//! Where a job is: the ways into and out of its function's queues, the schedule, and the store's books.
//!
//! Every move of a job goes through [`JobServer::enter`], [`JobServer::leave`] and [`JobServer::remove`], so that the counts of its function, the queues
//! threaded through the jobs and the bytes held agree at all times.

use std::time::Instant;

use crate::io::Output;
use crate::job::{Job, State, Stored};
use crate::keys::key_of;
use crate::server::{JobServer, Timer};

impl JobServer {
    /// Gives a new job its slot, its place among the committing and, where `is_keyed` says so, its key.
    pub(crate) fn admit(&mut self, job: Job) -> u32 {
        debug_assert_eq!(job.state, State::Committing);
        let (function, is_keyed) = (job.function, job.is_keyed);
        self.workload_bytes += job.resident_bytes();
        if job.is_away() {
            self.away.count(&job);
        }
        let index = self.jobs.insert(job);
        if is_keyed && let Some(key) = key_of(self.jobs.get(index)) {
            self.keys.insert(function, key, index);
        }
        let function = self.function_mut(function);
        function.committing += 1;
        function.submitted += 1;
        function.unused_since = None;
        index
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
            self.spare_memory(index);
        } else {
            self.enter_queue(now, index, false);
        }
    }

    /// Puts a job that is nowhere into its queue, in front if it has waited before, and wakes somebody for it.
    pub(crate) fn enter_queue(&mut self, now: Instant, index: u32, is_front: bool) {
        let since_us = self.life_us(now);
        if !is_front {
            self.spare_memory(index);
        }
        let job = self.jobs.get_mut(index);
        job.state = State::Waiting;
        job.since_us = since_us;
        let (function, priority) = (job.function, job.priority.index());
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a job's function exists");
        if is_front {
            f.queues[priority].push_front(&mut self.jobs, index);
        } else if job.is_away() || f.behind[priority].len > 0 && !f.is_store_stalled {
            job.is_behind = true;
            f.behind[priority].push_back(&mut self.jobs, index);
            self.want_fetch(function);
        } else {
            f.queues[priority].push_back(&mut self.jobs, index);
        }
        self.wake_ready(now, function);
    }

    /// Takes a job out of wherever it is. Its state is stale until it enters somewhere or is removed.
    pub(crate) fn leave(&mut self, index: u32) {
        let job = self.jobs.get_mut(index);
        let (id, function, state) = (job.id, job.function, job.state);
        let (priority, due_ms) = (job.priority.index(), job.due_ms);
        let is_behind = std::mem::take(&mut job.is_behind);
        let is_fetching = std::mem::take(&mut job.is_fetching);
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a job's function exists");
        match state {
            State::Committing => f.committing -= 1,
            State::Scheduled => {
                f.scheduled -= 1;
                self.schedule.remove(&(due_ms, id));
            }
            State::Waiting => {
                let queue = if is_behind {
                    &mut f.behind[priority]
                } else {
                    &mut f.queues[priority]
                };
                queue.unlink(&mut self.jobs, index);
                f.fetching[priority] -= u32::from(is_fetching);
                if f.behind[priority].len > 0 {
                    self.want_fetch(function);
                }
            }
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
        self.workload_bytes -= job.resident_bytes();
        if job.is_away() {
            self.away.uncount(&job);
        }
        if job.is_keyed {
            self.keys.remove(&job, index);
        }
        for client in job.clients.as_slice() {
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
