//! What operators do: cancel, bound, pause, purge, drain, and the dead.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Priority, QueueLimits};

use crate::function::{Function, FunctionId, Rate};
use crate::io::{Output, Reply};
use crate::job::{ConnId, JobId, State, Stored, StoredJob, Workload};
use crate::keys::BY_WORKLOAD;
use crate::paging::AWAY_BYTES_MIN;
use crate::server::JobServer;

/// What became of a `cancel job`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job is gone; its clients were told WORK_FAIL.
    Cancelled,
    /// There is no such job.
    Unknown,
}

/// What became of a `drop function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropOutcome {
    /// The function is forgotten.
    Dropped,
    /// There is no such function.
    Unknown,
    /// It has workers or jobs.
    InUse,
}

/// A job that was given up.
#[derive(Debug, Clone)]
pub(crate) struct Dead {
    /// Without its workload if that is in the store, unless it is the job's key.
    pub(crate) job: StoredJob,
    pub(crate) workload_len: u32,
    pub(crate) reason: Bytes,
    pub(crate) is_stored: bool,
}

/// Bounds of functions that do not exist yet, kept for when they do. More than any configuration script sets; beyond it they are forgotten, as in the original.
const PRESETS_MAX: usize = 4096;

impl JobServer {
    /// Ends a job whatever its state; its clients get WORK_FAIL. Of a recurring job, its coming again.
    pub fn cancel_job(&mut self, now: Instant, handle: &[u8]) -> CancelOutcome {
        match self
            .handles
            .parse(handle)
            .and_then(|id| self.jobs.index_of(id))
        {
            Some(index) => {
                self.cancel(now, index);
                CancelOutcome::Cancelled
            }
            None => {
                let id = self.handles.parse(handle);
                if id.is_some_and(|id| self.drop_schedule_numbered(id)) {
                    CancelOutcome::Cancelled
                } else {
                    CancelOutcome::Unknown
                }
            }
        }
    }

    fn cancel(&mut self, now: Instant, index: u32) {
        self.settle_at = now;
        self.counters.cancelled += 1;
        let job = self.jobs.get(index);
        let (id, state, function) = (job.id, job.state, job.function);
        self.relay(index, |handle| Reply::WorkFail { handle });
        self.remove(index);
        if let State::Running(worker) = state {
            if let Some(c) = self.conns.get_mut(&worker) {
                c.bury(id);
            }
            self.tell_cancelled(worker, id);
            self.wake_ready(now, function);
            self.refill(now, worker);
        }
    }

    /// Makes a function known; `false` when there are as many as there may be.
    pub fn create_function(&mut self, name: &[u8]) -> bool {
        let has_room = self.may_intern(name);
        if has_room {
            self.intern(name);
        }
        has_room
    }

    /// Forgets a function that nobody uses.
    pub fn drop_function(&mut self, name: &[u8]) -> DropOutcome {
        let Some(id) = self.names.get(name).copied() else {
            return DropOutcome::Unknown;
        };
        let function = self.function(id);
        // DIFFERS(gearmand): the original drops a function with waiting jobs and leaves them dangling.
        if function.workers > 0 || function.total() > 0 {
            return DropOutcome::InUse;
        }
        self.names.remove(name);
        self.functions[id.0 as usize] = None;
        self.timers.remove(&crate::server::Timer::Wake(id));
        self.timers.remove(&crate::server::Timer::Rate(id));
        self.timers.remove(&crate::server::Timer::Fetch(id));
        DropOutcome::Dropped
    }

    /// Forgets functions that have been unused for the configured time; looks at all of them, so it is called once a second.
    pub(crate) fn forget_unused(&mut self, now: Instant) {
        let Some(ttl) = self.config.function_ttl else {
            return;
        };
        let mut forgotten = Vec::new();
        for function in self.functions.iter_mut().flatten() {
            if !function.is_unused() {
                function.unused_since = None;
                continue;
            }
            let since = *function.unused_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= ttl {
                forgotten.push(function.name.clone());
            }
        }
        for name in forgotten {
            self.drop_function(&name);
        }
    }

    /// What the store does not have: background jobs, and dead ones with their reasons. For a shell that keeps its queue in memory and writes it at a
    /// stop. Jobs in workers' hands are among them.
    #[must_use]
    pub fn unstored(&self) -> (Vec<StoredJob>, Vec<(StoredJob, Bytes)>) {
        let mut jobs: Vec<StoredJob> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.is_background && job.stored == Stored::No)
            .map(|(index, _)| self.stored(index))
            .collect();
        jobs.sort_unstable_by_key(|job| job.id);
        let dead = self.dead.values().filter(|dead| !dead.is_stored);
        let dead = dead.map(|dead| (dead.job.clone(), dead.reason.clone()));
        (jobs, dead.collect())
    }

    /// Answers a packet that the peer was not allowed to send.
    pub fn deny(&mut self, conn: ConnId) {
        self.error(conn, ErrorCode::Unauthorized, error_text::UNAUTHORIZED);
    }

    /// Answers an option that the shell serves.
    pub fn grant_option(&mut self, conn: ConnId, name: &[u8]) {
        let name = Bytes::copy_from_slice(name);
        self.reply(conn, Reply::Option { name });
    }

    /// Bounds a function's queue; kept for later if the function does not exist yet.
    pub fn limit_queue(&mut self, name: &[u8], limits: QueueLimits) {
        if let Some(id) = self.names.get(name).copied() {
            self.function_mut(id).limits = limits;
        } else if self.presets.len() < PRESETS_MAX || self.presets.contains_key(name) {
            // DIFFERS(gearmand): the original forgets bounds of functions it does not know.
            self.presets.insert(Bytes::copy_from_slice(name), limits);
        }
    }

    /// Bounds how many jobs of a function run at once; 0 lifts the bound.
    pub fn limit_running(&mut self, now: Instant, name: &[u8], running_max: u32) {
        let id = self.intern(name);
        self.function_mut(id).running_max = running_max;
        self.wake_ready(now, id);
    }

    /// Bounds how many jobs of a function are handed out per second; 0 lifts the bound.
    pub fn limit_rate(&mut self, now: Instant, name: &[u8], per_second: u32, burst: u32) {
        let id = self.intern(name);
        self.function_mut(id).rate = (per_second > 0).then_some(Rate {
            per_second,
            burst: burst.max(1),
            full_at: now,
        });
        self.wake_ready(now, id);
    }

    /// Stops (or starts again) handing out a function's jobs; it goes on accepting them.
    pub fn pause(&mut self, now: Instant, name: &[u8], is_paused: bool) {
        let id = self.intern(name);
        self.function_mut(id).is_paused = is_paused;
        self.wake_ready(now, id);
    }

    /// Cancels a function's waiting jobs, of one queue or all; says how many.
    pub fn purge(&mut self, now: Instant, name: &[u8], priority: Option<Priority>) -> usize {
        let Some(id) = self.names.get(name).copied() else {
            return 0;
        };
        let function: &Function = self.function(id);
        let waiting: Vec<u32> = Priority::ALL
            .into_iter()
            .filter(|p| priority.is_none_or(|wanted| wanted == *p))
            .flat_map(|p| [function.queues[p.index()], function.behind[p.index()]])
            .flat_map(|queue| queue.indices(&self.jobs).collect::<Vec<_>>())
            .collect();
        for index in &waiting {
            self.cancel(now, *index);
        }
        waiting.len()
    }

    /// Whether new submissions are refused.
    pub fn drain(&mut self, is_draining: bool) {
        self.is_draining = is_draining;
    }

    /// Gives a job up: out of its function, among the dead.
    pub(crate) fn bury(&mut self, index: u32, reason: Bytes) {
        self.counters.buried += 1;
        let (job, workload_len) = (self.stored(index), self.jobs.get(index).workload_len());
        let (id, attempts) = (job.id, job.attempts);
        let is_stored = self.jobs.get(index).stored != Stored::No;
        // The row is moved, not forgotten.
        self.jobs.get_mut(index).stored = Stored::No;
        self.remove(index);
        if is_stored {
            self.output(Output::Bury {
                job: id,
                attempts,
                reason: reason.clone(),
            });
        }
        self.keep_dead(Dead {
            job,
            workload_len,
            reason,
            is_stored,
        });
    }

    fn keep_dead(&mut self, mut dead: Dead) {
        let may_go = dead.is_stored && dead.job.unique != BY_WORKLOAD;
        if may_go && dead.workload_len >= AWAY_BYTES_MIN {
            dead.job.workload = Bytes::new();
        }
        self.dead.insert(dead.job.id, dead);
        while self.dead.len() > self.config.dead_max {
            if let Some((id, dead)) = self.dead.pop_first()
                && dead.is_stored
            {
                self.output(Output::Forget(id));
            }
        }
    }

    pub(crate) fn handle_restored_dead(
        &mut self,
        job: StoredJob,
        workload_len: u32,
        reason: Bytes,
    ) {
        self.skip_job_id(job.id);
        self.keep_dead(Dead {
            job,
            workload_len,
            reason,
            is_stored: true,
        });
    }

    /// Makes dead jobs wait again: the one with this handle, those of this function, or all (`None`). Says how many. A job whose key is taken stays dead.
    pub fn retry_dead(&mut self, now: Instant, target: Option<&[u8]>) -> usize {
        let mut count = 0;
        for id in self.dead_named(target) {
            // One whose way into the store is still open would take the answer to its first Persist for that to its revival.
            let is_committing = self.commits.contains_key(&id);
            let is_taken = self
                .dead
                .get(&id)
                .is_none_or(|dead| self.is_key_taken(&dead.job));
            if is_committing || is_taken {
                continue;
            }
            let Some(dead) = self.dead.remove(&id) else {
                continue;
            };
            count += 1;
            let mut job = dead.job.clone();
            job.attempts = 0;
            job.due_ms = 0;
            let workload = if job.workload.len() < dead.workload_len as usize {
                Workload::Away(dead.workload_len)
            } else {
                Workload::Owned(job.workload.clone())
            };
            let index = self.admit_stored(&job, workload);
            if dead.is_stored {
                self.jobs.get_mut(index).stored = Stored::Pending;
                self.commits.entry(id).or_default().revived = Some(dead);
                self.output(Output::Revive(id));
            } else {
                self.leave(index);
                self.enter(now, index);
            }
        }
        count
    }

    /// Forgets dead jobs: the one with this handle, those of this function, or all. Says how many.
    pub fn drop_dead(&mut self, target: Option<&[u8]>) -> usize {
        let ids = self.dead_named(target);
        for id in &ids {
            if let Some(dead) = self.dead.remove(id)
                && dead.is_stored
            {
                self.output(Output::Forget(*id));
            }
        }
        ids.len()
    }

    fn dead_named(&self, target: Option<&[u8]>) -> Vec<JobId> {
        let by_handle = target.and_then(|t| self.handles.parse(t));
        match (target, by_handle) {
            (Some(_), Some(id)) => self
                .dead
                .contains_key(&id)
                .then_some(id)
                .into_iter()
                .collect(),
            (Some(function), None) => self
                .dead
                .values()
                .filter(|d| d.job.function == function)
                .map(|d| d.job.id)
                .collect(),
            (None, _) => self.dead.keys().copied().collect(),
        }
    }

    /// The function of that number, for views.
    pub(crate) fn function_at(&self, index: usize) -> Option<(FunctionId, &Function)> {
        let function = self.functions.get(index)?.as_ref()?;
        Some((FunctionId(u32::try_from(index).ok()?), function))
    }
}
