//! What must always hold, checked against a recount. Costs a walk over everything: for tests and debug builds.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::arena::{NIL, Queue};
use crate::config::Wakeup;
use crate::conn::{Held, Rest};
use crate::function::{Function, FunctionId};
use crate::job::{Job, State, Stored};
use crate::keys::BY_WORKLOAD;
use crate::server::JobServer;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Recount {
    queued: [u32; 3],
    committing: u32,
    scheduled: u32,
    running: u32,
}

impl JobServer {
    /// Checks the invariants listed in the crate's documentation.
    ///
    /// # Panics
    /// When one does not hold: a bug in this crate.
    pub fn check_invariants(&self, now: Instant) {
        assert!(self.is_settled(), "checked between two drains");
        self.check_jobs();
        self.check_queues();
        self.schedules.check_invariants();
        self.results.check_invariants();
        self.check_conns();
        self.check_wakeups(now);
    }

    fn check_jobs(&self) {
        let mut recounts: BTreeMap<FunctionId, Recount> = BTreeMap::new();
        let (mut workload_bytes, mut away) = (0, (0, 0));
        for (index, job) in self.jobs.iter() {
            assert_eq!(
                self.jobs.index_of(job.id),
                Some(index),
                "the index by number finds the job"
            );
            workload_bytes += job.resident_bytes();
            self.check_away(job);
            if job.is_away() {
                away.0 += 1;
                away.1 += u64::from(job.workload_len());
            }
            let recount = recounts.entry(job.function).or_default();
            match job.state {
                State::Committing => {
                    recount.committing += 1;
                    assert!(
                        self.commits.contains_key(&job.id),
                        "somebody waits for a committing job"
                    );
                    assert!(
                        job.is_background && self.config.has_store,
                        "only durable background jobs commit"
                    );
                }
                State::Scheduled => {
                    recount.scheduled += 1;
                    assert!(
                        self.schedule.contains(&(job.due_ms, job.id)),
                        "a scheduled job is in the schedule"
                    );
                }
                State::Waiting => recount.queued[job.priority.index()] += 1,
                State::Running(worker) => {
                    recount.running += 1;
                    let worker = self
                        .conns
                        .get(&worker)
                        .expect("a running job's worker is connected");
                    assert!(
                        worker.holding.contains(&job.id),
                        "a running job is in its worker's hands"
                    );
                }
            }
            if !matches!(job.state, State::Waiting) {
                assert!(
                    job.previous == NIL && job.next == NIL,
                    "only waiting jobs have neighbours"
                );
            }
            let is_wanted = job.is_background
                || !job.clients.is_empty()
                || matches!(job.state, State::Running(_));
            assert!(
                is_wanted,
                "nobody wants job {:?} in state {:?}",
                job.id, job.state
            );
            for client in job.clients.as_slice() {
                let c = self
                    .conns
                    .get(client)
                    .expect("a job's clients are connected");
                let count = job.clients.as_slice();
                let count = count.iter().filter(|other| *other == client).count();
                assert_eq!(
                    c.waiting_for.get(&job.id).map(|n| *n as usize),
                    Some(count),
                    "client and job agree"
                );
            }
        }
        assert_eq!(workload_bytes, self.workload_bytes);
        assert_eq!(away, (self.away.jobs, self.away.bytes));
        self.check_indices(&recounts);
    }

    fn check_indices(&self, recounts: &BTreeMap<FunctionId, Recount>) {
        assert_eq!(
            self.schedule.len(),
            recounts
                .values()
                .map(|r| r.scheduled as usize)
                .sum::<usize>()
        );
        self.keys.check_invariants(&self.jobs);
        assert_eq!(
            self.keys.len(),
            self.jobs.iter().filter(|(_, job)| job.is_keyed).count()
        );
        for (index, function) in self.functions.iter().enumerate() {
            let Some(function) = function else { continue };
            let id = FunctionId(u32::try_from(index).expect("function numbers are small"));
            let recount = recounts.get(&id).copied().unwrap_or_default();
            let counted = Recount {
                queued: [0, 1, 2].map(|p| function.queues[p].len + function.behind[p].len),
                committing: function.committing,
                scheduled: function.scheduled,
                running: function.running,
            };
            assert_eq!(counted, recount, "function {:?}", function.name);
            assert_eq!(
                self.names.get(&function.name),
                Some(&id),
                "a function is found by its name"
            );
        }
    }

    /// A workload is away only where it may be.
    fn check_away(&self, job: &Job) {
        if !job.is_away() {
            assert!(!job.is_fetching, "what is here is not asked for");
            return;
        }
        assert!(job.stored != Stored::No && job.unique() != BY_WORKLOAD);
        match job.state {
            State::Committing | State::Scheduled => assert!(!job.is_fetching),
            State::Waiting => assert!(job.is_behind, "jobs in queues have their workload"),
            State::Running(_) => panic!("a worker got a job without its workload"),
        }
    }

    fn check_queues(&self) {
        for function in self.functions.iter().flatten() {
            for p in 0..3 {
                self.check_queue(function.queues[p], false);
                self.check_queue(function.behind[p], true);
                let behind = function.behind[p].indices(&self.jobs);
                let fetching = behind.filter(|index| self.jobs.get(*index).is_fetching);
                assert_eq!(fetching.count(), function.fetching[p] as usize);
                self.check_head(function, p);
            }
        }
    }

    fn check_queue(&self, queue: Queue, is_behind: bool) {
        let (mut count, mut previous) = (0, NIL);
        for index in queue.indices(&self.jobs) {
            let job = self.jobs.get(index);
            assert_eq!((job.state, job.is_behind), (State::Waiting, is_behind));
            assert_eq!(job.previous, previous);
            previous = index;
            count += 1;
        }
        assert_eq!((count, previous), (queue.len, queue.tail));
    }

    /// Jobs wait behind only because of workloads that are not here; those are on their way when a worker may want them.
    fn check_head(&self, function: &Function, p: usize) {
        let Some(head) = function.behind[p].indices(&self.jobs).next() else {
            return;
        };
        assert!(
            self.jobs.get(head).is_away(),
            "nothing keeps the first one behind"
        );
        let is_idle = function.workers == 0 || function.is_store_stalled;
        assert!(
            is_idle || function.queues[p].len > 0 || function.fetching[p] > 0,
            "workers wait for workloads that nobody fetches"
        );
    }

    fn check_conns(&self) {
        let mut workers: BTreeMap<FunctionId, (u32, u32, u32)> = BTreeMap::new();
        for (conn, c) in &self.conns {
            for ability in &c.abilities {
                let (can, sleep, _) = workers.entry(ability.function).or_default();
                *can += 1;
                if let Rest::Asleep(number) | Rest::Parked(number, _) = c.rest {
                    *sleep += 1;
                    let function = self.function(ability.function);
                    assert!(
                        function.sleepers.contains(&(number, *conn)),
                        "a sleeper is known to all its functions"
                    );
                }
            }
            assert!(
                !matches!(c.rest, Rest::Grabbing(_)),
                "an open grab is decided when the batch is"
            );
            if let Rest::Woken(function) = c.rest {
                assert!(c.can_do(function), "a worker is woken for what it can do");
                workers.entry(function).or_default().2 += 1;
            }
            for id in &c.holding {
                let index = self.jobs.index_of(*id).expect("held jobs exist");
                assert_eq!(self.jobs.get(index).state, State::Running(*conn));
            }
            for id in c.waiting_for.keys() {
                let index = self
                    .jobs
                    .index_of(*id)
                    .expect("no client waits for a gone job");
                assert!(self.jobs.get(index).clients.as_slice().contains(conn));
            }
            assert!(
                !matches!(c.held.front(), Some(Held::Ready(_))),
                "a reply that may leave has left"
            );
        }
        for (index, function) in self.functions.iter().enumerate() {
            let Some(function) = function else { continue };
            let id = FunctionId(u32::try_from(index).expect("function numbers are small"));
            let (can, sleep, woken) = workers.get(&id).copied().unwrap_or_default();
            assert_eq!(
                (function.workers, function.woken),
                (can, woken),
                "function {:?}",
                function.name
            );
            assert_eq!(function.sleepers.len(), sleep as usize);
        }
    }

    /// No lost wake-up: while a job may run, every sleeper that could take it lies behind a NOOP that is still to be answered.
    fn check_wakeups(&self, now: Instant) {
        for function in self.functions.iter().flatten() {
            let ready = function.ready(now);
            if ready == 0 || function.sleepers.is_empty() {
                continue;
            }
            let parked = function
                .sleepers
                .iter()
                .any(|(_, conn)| matches!(self.conns[conn].rest, Rest::Parked(..)));
            match self.config.wakeup {
                Wakeup::Auto => assert!(
                    function.woken >= ready,
                    "{ready} ready, {} woken, and sleepers",
                    function.woken
                ),
                Wakeup::All => panic!("somebody sleeps beside a ready job"),
                Wakeup::Count(_) => assert!(function.woken > 0, "nobody was woken for a ready job"),
            }
            assert!(
                !parked || function.woken >= ready,
                "a parked worker waits beside a ready job"
            );
        }
    }
}
