//! The store of the simulation: does what it was asked, in order, late, or not; and dies with the server.

use ibex_gearman_core::{Config, Input, JobServer, Output, StoredJob};

use super::Sim;

impl Sim {
    /// The store does some of what it was asked, in order; workloads it reads as it likes.
    pub(super) fn store_act(&mut self) {
        for _ in 0..=self.rng.below(6) {
            if self.rng.chance(1, 2) {
                self.answer_fetch(true);
            }
            let Some(request) = self.store_queue.pop_front() else {
                return;
            };
            self.note(format_args!("store does {request:?}"));
            self.carry_out(request);
            self.settle();
        }
    }

    /// A healthy store does everything.
    pub(super) fn calm_the_store(&mut self) {
        while !self.store_queue.is_empty() || !self.fetches.is_empty() {
            self.answer_fetch(false);
            self.store_act();
        }
    }

    fn carry_out(&mut self, request: Output) {
        match request {
            Output::Persist(job) => {
                let id = job.id;
                if self.rng.chance(1, 8) {
                    self.server.handle(self.now, Input::PersistFailed(id));
                } else {
                    self.rows.insert(id, job);
                    self.server.handle(self.now, Input::Persisted(id));
                }
            }
            Output::Revive(id) => {
                if self.rng.chance(1, 8) {
                    self.server.handle(self.now, Input::PersistFailed(id));
                } else {
                    if let Some(mut row) = self.dead_rows.remove(&id) {
                        (row.attempts, row.due_ms) = (0, 0);
                        self.rows.insert(id, row);
                    }
                    self.server.handle(self.now, Input::Persisted(id));
                }
            }
            Output::Attempt {
                job,
                attempts,
                due_ms,
            } => {
                if let Some(row) = self.rows.get_mut(&job) {
                    (row.attempts, row.due_ms) = (attempts, due_ms);
                }
            }
            Output::Forget(job) => {
                self.rows.remove(&job);
                self.dead_rows.remove(&job);
            }
            Output::Bury { job, .. } => {
                if let Some(row) = self.rows.remove(&job) {
                    self.dead_rows.insert(job, row);
                }
            }
            Output::KeepResult(result) => {
                self.result_rows.insert(result.id, result);
            }
            Output::ForgetResult(job) => {
                self.result_rows.remove(&job);
            }
            Output::KeepSchedule(schedule) => {
                let is_refused = self.rng.chance(1, 8);
                let id = schedule.id;
                // A commit that failed for the server may have been done all the same.
                if !is_refused || self.rng.chance(1, 2) {
                    let name = (schedule.function.clone(), schedule.unique.clone());
                    self.schedule_rows.insert(name, schedule);
                }
                let outcome = if is_refused {
                    Input::PersistFailed(id)
                } else {
                    Input::Persisted(id)
                };
                self.server.handle(self.now, outcome);
            }
            Output::RestoreSchedule(schedule) => {
                let name = (schedule.function.clone(), schedule.unique.clone());
                self.schedule_rows.insert(name, schedule);
            }
            Output::MoveSchedule {
                function,
                unique,
                next_ms,
            } => {
                if let Some(row) = self.schedule_rows.get_mut(&(function, unique)) {
                    row.next_ms = next_ms;
                }
            }
            Output::DropSchedule { function, unique } => {
                self.schedule_rows.remove(&(function, unique));
            }
            Output::Send(..) | Output::Text(..) | Output::Fetch(_) => {
                unreachable!("not in the queue")
            }
        }
    }

    /// Answers one question for a workload, if there is one.
    fn answer_fetch(&mut self, may_fail: bool) {
        if self.fetches.is_empty() {
            return;
        }
        let at = self.rng.index(self.fetches.len());
        let id = self.fetches.swap_remove(at);
        self.note(format_args!("store is asked for {}", id.0));
        let input = match self.rows.get(&id) {
            _ if may_fail && self.rng.chance(1, 6) => Input::FetchFailed(id),
            Some(_) if may_fail && self.rng.chance(1, 40) => {
                // Somebody deletes the row.
                self.rows.remove(&id);
                self.vanished.insert(id);
                Input::FetchLost(id)
            }
            Some(row) => Input::Fetched(id, row.workload.clone()),
            None => Input::FetchLost(id),
        };
        self.server.handle(self.now, input);
        self.settle();
    }

    /// kill -9: connections and everything in memory are gone, and so is what the store had not done.
    pub(super) fn crash(&mut self) {
        self.note(format_args!("crash"));
        if self.config.durable {
            for s in self.server.schedules() {
                let name = (s.function, s.unique);
                assert!(
                    self.schedule_rows.contains_key(&name),
                    "an acknowledged recurring job is not in the store"
                );
            }
        }
        self.peers.clear();
        self.store_queue.clear();
        self.fetches.clear();
        self.completed = 0;
        // A burial that had not reached the disk did not happen.
        self.buried.clear();
        let first_job = self.server.next_job_number() + 1000;
        let config = Config {
            first_job,
            ..self.config.clone()
        };
        self.server = JobServer::new(config, self.now, self.clock_ms);
        if !self.config.durable {
            self.acknowledged.clear();
            self.rows.clear();
            self.result_rows.clear();
            self.schedule_rows.clear();
            return;
        }
        for (id, row) in self.rows.clone() {
            // A worker's end that had not reached the disk comes back: at least once, never lost.
            self.ended.remove(&id);
            let restored = self.restored(row);
            self.server.handle(self.now, restored);
        }
        for (_, row) in self.result_rows.clone() {
            self.server.handle(self.now, Input::RestoredResult(row));
        }
        for (_, row) in self.schedule_rows.clone() {
            self.server.handle(self.now, Input::RestoredSchedule(row));
        }
        for (_, row) in self.dead_rows.clone() {
            let len = u32::try_from(row.workload.len()).unwrap();
            let row = if row.unique == "-" {
                row
            } else {
                without_workload(row)
            };
            let dead = Input::RestoredDead(row, len, "before".into());
            self.server.handle(self.now, dead);
        }
        for id in &self.acknowledged {
            assert!(
                self.rows.contains_key(id) || self.dead_rows.contains_key(id),
                "acknowledged job {} is not in the store",
                id.0
            );
        }
    }

    /// A row as a start reads it: its workload may stay where it is.
    fn restored(&mut self, row: StoredJob) -> Input<'static> {
        let len = u32::try_from(row.workload.len()).unwrap();
        if len > 0 && row.unique != "-" && self.rng.chance(1, 2) {
            Input::RestoredAway(without_workload(row), len)
        } else {
            Input::Restored(row)
        }
    }
}

fn without_workload(row: StoredJob) -> StoredJob {
    StoredJob {
        workload: bytes::Bytes::new(),
        ..row
    }
}
