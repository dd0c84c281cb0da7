//! What the world may expect of the job server: a small model of each connection, held against every output.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_core::{ConnId, End, JobId, Output, Reply};
use ibex_gearman_proto::Mode;

use super::{Sim, number_of};

/// What a connection still has to hear, and what it holds.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Replies due, in order.
    pub(super) expected: VecDeque<Due>,
    /// Jobs assigned to it and not yet reported.
    pub(super) holding: Vec<JobId>,
    /// Foreground submissions of this connection that have not ended, by job.
    pub(super) open: BTreeMap<JobId, u32>,
    pub(super) wants_headers: bool,
    wants_results: bool,
    /// Jobs may come unasked, or late.
    may_be_pushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Created(Mode),
    /// Answer to a grab, with the step and the time at which it was sent.
    Job(usize, Instant),
    Status,
    Echo,
    Option,
    /// A report that may or may not be answered by an ERROR.
    MaybeError,
}

impl Peer {
    /// It asks for an option.
    pub(super) fn learn(&mut self, option: &str) {
        match option {
            "headers" => self.wants_headers = true,
            "results" => self.wants_results = true,
            "wait" | "push=2" => self.may_be_pushed = true,
            _ => {}
        }
    }

    /// The next thing that is certain to be answered is a grab.
    fn is_job_next(&self) -> bool {
        let next = self.expected.iter().find(|due| **due != Due::MaybeError);
        matches!(next, Some(Due::Job(..)))
    }

    /// What `reply` answers: the next thing that is due and among `wanted`; everything before it was never certain to be answered.
    fn answered(&mut self, reply: &Reply, wanted: impl Fn(Due) -> bool) -> Due {
        loop {
            let next = self.expected.pop_front();
            let next = next.unwrap_or_else(|| panic!("{reply:?} was not asked for"));
            if wanted(next) {
                return next;
            }
            let may_be_late = self.may_be_pushed && matches!(next, Due::Job(..));
            assert!(
                next == Due::MaybeError || may_be_late,
                "{reply:?} came out of order, before {next:?}"
            );
        }
    }
}

impl Sim {
    /// What may leave amid a batch goes through the model; nothing is decided yet, so invariants wait.
    pub(super) fn settle_early(&mut self) {
        while let Some(output) = self.server.poll_output_early() {
            self.take_output(output);
        }
        // What may answer a report has answered.
        for (conn, peer) in &mut self.peers {
            if self.server.held_replies(*conn) == 0 {
                peer.expected.retain(|due| *due != Due::MaybeError);
            }
        }
    }

    /// Drains the outputs through the model, then checks the invariants.
    pub(super) fn settle(&mut self) {
        while let Some(output) = self.server.poll_output() {
            self.take_output(output);
        }
        for dead in self.server.dead() {
            self.acknowledged.remove(&number_of(dead.handle.as_ref()));
        }
        self.server.check_invariants(self.now);
        // A grab may be held: for a brisk worker, or for a workload on its way.
        let fetch_hold = Duration::from_secs(u64::from(self.config.durable));
        let (now, hold) = (self.now, self.config.grab_hold.max(fetch_hold));
        for (conn, peer) in &mut self.peers {
            if self.server.held_replies(*conn) > 0 {
                continue;
            }
            let may_wait = peer.may_be_pushed;
            peer.expected.retain(|due| match due {
                Due::MaybeError => false,
                // Answered later, or not at all.
                Due::Job(..) => !may_wait,
                Due::Created(_) | Due::Status | Due::Echo | Due::Option => true,
            });
            let is_held = |due: &Due| matches!(due, Due::Job(_, at) if *at + hold > now);
            assert!(
                peer.expected.iter().all(is_held) && peer.expected.len() <= 1,
                "{} still waits for {:?}",
                conn.0,
                peer.expected
            );
        }
        self.check_model();
    }

    /// What must hold between what was said and what there is.
    fn check_model(&self) {
        for id in &self.acknowledged {
            let handle = format!("H:s:{}", id.0);
            let job = self.server.job(self.now, handle.as_bytes());
            assert!(job.is_some(), "acknowledged job {} is nowhere", id.0);
        }
        assert_eq!(self.server.counters().completed, self.completed);
        let mut clients: BTreeMap<JobId, usize> = BTreeMap::new();
        for (conn, peer) in &self.peers {
            if self.server.held_replies(*conn) > 0 {
                // Some of its replies have not come: only the server knows.
                return;
            }
            for (job, count) in &peer.open {
                *clients.entry(*job).or_default() += *count as usize;
            }
        }
        for job in self.server.jobs(self.now) {
            let id = number_of(job.handle.as_ref());
            let waiting = clients.remove(&id).unwrap_or(0);
            assert_eq!(job.clients, waiting, "clients of job {}", id.0);
        }
        assert!(
            clients.is_empty(),
            "clients of jobs that are gone: {clients:?}"
        );
    }

    fn take_output(&mut self, output: Output) {
        self.note(format_args!("  {output:?}"));
        match output {
            Output::Send(conn, reply) => self.hear(conn, &reply),
            Output::Text(..) => unreachable!("nobody asked for text"),
            Output::Fetch(jobs) => {
                assert!(!jobs.is_empty() && self.config.durable);
                self.fetches.extend(jobs);
            }
            store @ (Output::Persist(_)
            | Output::Revive(_)
            | Output::Attempt { .. }
            | Output::Forget(_)
            | Output::Bury { .. }
            | Output::KeepResult(_)
            | Output::ForgetResult(_)
            | Output::KeepSchedule(_)
            | Output::RestoreSchedule(_)
            | Output::MoveSchedule { .. }
            | Output::DropSchedule { .. }) => {
                self.note_request(&store);
                self.store_queue.push_back(store);
            }
        }
    }

    fn note_request(&mut self, request: &Output) {
        if let Output::KeepSchedule(schedule) = request {
            self.schedule_ids.insert(schedule.id);
        }
        if let Output::Persist(job) = request {
            self.workloads.insert(job.id, job.workload.clone());
        }
        if let Output::Bury { job, .. } = request {
            self.buried.insert(*job);
            self.acknowledged.remove(job);
        }
        if let Output::Revive(job) = request {
            self.buried.remove(job);
        }
        if let Output::KeepResult(result) = request {
            assert!(self.config.durable, "results of durable jobs only");
            assert!(result.until_ms > result.ended_ms);
        }
    }

    fn is_schedule(&self, reply: &Reply) -> bool {
        let Reply::JobCreated { handle } = reply else {
            return false;
        };
        let handle = handle.as_ref();
        self.schedule_ids.contains(&number_of(handle))
            || self.server.schedules().any(|s| s.handle.as_ref() == handle)
    }

    fn hear(&mut self, conn: ConnId, reply: &Reply) {
        let is_schedule = self.is_schedule(reply);
        let peer = self
            .peers
            .get_mut(&conn)
            .expect("nothing is sent to the gone");
        match reply {
            Reply::JobCreated { handle } => {
                let id = number_of(handle.as_ref());
                let due = peer.answered(reply, |due| matches!(due, Due::Created(_)));
                if due == Due::Created(Mode::Foreground) {
                    *peer.open.entry(id).or_insert(0) += 1;
                } else if !is_schedule {
                    self.hear_accepted(id);
                }
            }
            Reply::Error { .. } => {
                let is_refusable = |due| !matches!(due, Due::Job(..) | Due::Echo);
                peer.answered(reply, is_refusable);
            }
            Reply::JobAssign {
                handle, workload, ..
            } => self.hear_assigned(conn, reply, number_of(handle.as_ref()), workload),
            Reply::JobAssignUnique {
                handle, workload, ..
            } => {
                // With the option `headers` there is one more argument. It was made before the connection asked if it was held back since.
                let at = workload.iter().position(|b| *b == 0);
                let workload = workload.slice(at.map_or(0, |at| at + 1)..);
                self.hear_assigned(conn, reply, number_of(handle.as_ref()), &workload);
            }
            Reply::JobAssignAll { .. } => unreachable!("nobody submits reduced jobs"),
            Reply::NoJob => {
                if !peer.may_be_pushed || peer.is_job_next() {
                    peer.answered(reply, |due| matches!(due, Due::Job(..)));
                }
            }
            Reply::Status { .. } | Reply::StatusUnique { .. } => {
                peer.answered(reply, |due| due == Due::Status);
            }
            Reply::Echo { .. } => drop(peer.answered(reply, |due| due == Due::Echo)),
            Reply::Option { .. } => drop(peer.answered(reply, |due| due == Due::Option)),
            Reply::WorkComplete { handle, .. }
            | Reply::WorkFail { handle }
            | Reply::WorkException { handle, .. } => {
                let id = number_of(handle.as_ref());
                let was_open = peer.close(id);
                let wants_results = peer.wants_results;
                self.hear_end(reply, id, was_open, wants_results);
            }
            Reply::WorkStatus { handle, .. }
            | Reply::WorkData { handle, .. }
            | Reply::WorkWarning { handle, .. } => {
                assert!(
                    peer.open.contains_key(&number_of(handle.as_ref())),
                    "a relay for somebody who does not wait"
                );
            }
            // It may come late, behind held replies, to somebody who is no worker any more.
            Reply::Noop => {}
        }
    }

    /// JOB_CREATED of a background job.
    fn hear_accepted(&mut self, id: JobId) {
        let is_over = self.ended.contains_key(&id) || self.buried.contains(&id);
        if is_over || self.vanished.contains(&id) {
            return;
        }
        if self.config.durable && !self.dead_rows.contains_key(&id) {
            assert!(
                self.rows.contains_key(&id),
                "job {} was acknowledged before it was stored",
                id.0
            );
        }
        self.acknowledged.insert(id);
    }

    fn hear_assigned(&mut self, conn: ConnId, reply: &Reply, id: JobId, workload: &Bytes) {
        let step = self.step;
        let peer = self.peers.get_mut(&conn).expect("looked up by the caller");
        let mut asked = step;
        if (peer.is_job_next() || !peer.may_be_pushed)
            && let Due::Job(at, _) = peer.answered(reply, |due| matches!(due, Due::Job(..)))
        {
            asked = at;
        }
        // Behind a held reply an assignment may come after the job was taken back and ended; never one of a job that was gone when the grab came.
        let is_pushed = peer.may_be_pushed;
        peer.holding.push(id);
        let is_late = self.server.held_replies(conn) > 0 || is_pushed;
        let ended = self.ended.get(&id);
        assert!(
            ended.is_none_or(|ended| *ended >= asked) || is_late,
            "job {} ended and was handed out again",
            id.0
        );
        if let Some(stored) = self.workloads.get(&id) {
            assert_eq!(workload, stored, "the workload of job {}", id.0);
        }
    }

    /// The end of a job for somebody who waits; or, with the option `results`, a result that was kept; or, with `cancel`, word to the worker.
    fn hear_end(&mut self, reply: &Reply, id: JobId, was_open: bool, wants_results: bool) {
        let said = if let Reply::WorkComplete { data, .. } = reply {
            End::Complete(data.clone())
        } else if let Reply::WorkException { data, .. } = reply {
            End::Exception(data.clone())
        } else {
            End::Fail
        };
        if said == End::Fail {
            // An exception, for those who did not ask for it; a job that was given up; a worker that is to stop.
            return;
        }
        assert!(
            was_open || wants_results,
            "a result for somebody who did not ask"
        );
        if let Some(end) = self.ends.get(&id) {
            assert_eq!(end, &said, "the result of job {}", id.0);
        }
    }
}

impl Peer {
    /// An end was heard: of a submission that waited, or else of a job it holds and is to give up.
    fn close(&mut self, id: JobId) -> bool {
        match self.open.get_mut(&id) {
            Some(1) => {
                self.open.remove(&id);
                true
            }
            Some(count) => {
                *count -= 1;
                true
            }
            None => {
                self.holding.retain(|job| *job != id);
                false
            }
        }
    }
}
