//! Workers: what they can do, and which job a grab gets.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Grab, Priority, limits};

use crate::conn::{Ability, Conn, Rest};
use crate::function::FunctionId;
use crate::io::Reply;
use crate::job::{ConnId, State};
use crate::loss::Loss;
use crate::server::{JobServer, Timer};

/// How long a grab waits for the store to read a workload: long for any disk, and short beside what workers wait for an answer.
const FETCH_HOLD: Duration = Duration::from_secs(1);

/// Functions one connection may register: a grab looks at all of them under the lock, some ten microseconds for so many. Beyond: ERROR `QUEUE_ERROR`.
pub(crate) const ABILITIES_MAX: usize = 10_000;

impl JobServer {
    fn is_able(&self, conn: &Conn, name: &[u8]) -> bool {
        let known = self.names.get(name);
        known.is_some_and(|function| conn.can_do(*function))
    }

    pub(crate) fn handle_can_do(
        &mut self,
        now: Instant,
        conn: ConnId,
        name: &[u8],
        timeout: Option<Duration>,
    ) {
        if name.len() > limits::FUNCTION_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::InvalidFunctionName,
                error_text::FUNCTION_TOO_LARGE,
            );
            return;
        }
        let Some(c) = self.conns.get(&conn) else {
            return;
        };
        if c.abilities.len() >= ABILITIES_MAX && !self.is_able(c, name) || !self.may_intern(name) {
            let text = error_text::TOO_MANY_FUNCTIONS;
            self.error(conn, ErrorCode::QueueError, text);
            return;
        }
        let function = self.intern(name);
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if let Some(ability) = c.abilities.iter_mut().find(|a| a.function == function) {
            ability.timeout = timeout;
            return;
        }
        c.abilities.push(Ability { function, timeout });
        let rest = c.rest;
        let f = self.function_mut(function);
        f.workers += 1;
        f.unused_since = None;
        if f.behind.iter().any(|queue| queue.len > 0) {
            self.want_fetch(function);
        }
        if let Rest::Asleep(number) | Rest::Parked(number, _) = rest {
            self.function_mut(function).sleepers.insert((number, conn));
            self.wake_ready(now, function);
        } else {
            self.refill(now, conn);
        }
    }

    pub(crate) fn handle_cant_do(&mut self, now: Instant, conn: ConnId, name: &[u8]) {
        if let Some(function) = self.names.get(name).copied() {
            self.unregister(now, conn, function);
        }
    }

    pub(crate) fn handle_reset_abilities(&mut self, now: Instant, conn: ConnId) {
        let functions: Vec<FunctionId> = match self.conns.get(&conn) {
            Some(c) => c.abilities.iter().map(|a| a.function).collect(),
            None => return,
        };
        for function in functions {
            self.unregister(now, conn, function);
        }
    }

    fn unregister(&mut self, now: Instant, conn: ConnId, function: FunctionId) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(at) = c.abilities.iter().position(|a| a.function == function) else {
            return;
        };
        c.abilities.remove(at);
        let rest = c.rest;
        let held: Vec<_> = c.holding.iter().rev().copied().collect();
        let f = self.function_mut(function);
        f.workers -= 1;
        match rest {
            Rest::Asleep(number) | Rest::Parked(number, _) => {
                f.sleepers.remove(&(number, conn));
            }
            Rest::Woken(woken_for) if woken_for == function => {
                f.woken -= 1;
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.rest = Rest::Awake;
                }
                self.wake_ready(now, function);
            }
            Rest::Woken(_) | Rest::Awake | Rest::Grabbing(_) => {}
        }
        for job in held {
            let is_of_function = self
                .jobs
                .index_of(job)
                .is_some_and(|index| self.jobs.get(index).function == function);
            if is_of_function {
                self.take_back(now, job, Loss::Worker);
            }
        }
    }

    pub(crate) fn handle_grab(&mut self, now: Instant, conn: ConnId, form: Grab) {
        let credit = self.leave_rest(conn);
        match self.choose(now, conn) {
            Some(index) => self.assign(now, conn, index, form),
            None => self.open_grab(now, conn, form),
        }
        if let Some(function) = credit {
            self.wake_ready(now, function);
        }
    }

    /// Answers a grab that was left open.
    pub(crate) fn decide(&mut self, now: Instant, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let Rest::Grabbing(form) = c.rest else {
            return;
        };
        c.rest = Rest::Awake;
        let wants_wait = c.wants_wait;
        match self.choose(now, conn) {
            Some(index) => self.assign(now, conn, index, form),
            None if wants_wait => self.park(now, conn, form),
            None => self.hold_or_refuse(now, conn, form),
        }
    }

    /// No job for a grab: NO_JOB, or for a brisk worker a moment's patience first. While a workload for it is on its way, that is waited for: a worker
    /// that goes home at its first NO_JOB must not leave a queue behind.
    fn hold_or_refuse(&mut self, now: Instant, conn: ConnId, form: Grab) {
        let is_fetching = self.is_fetching_for(conn);
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let hold = match is_fetching {
            true => FETCH_HOLD,
            false if c.is_brisk => self.config.grab_hold,
            false => Duration::ZERO,
        };
        if !hold.is_zero() {
            c.is_held = true;
            self.timers.insert(Timer::Hold(conn), now + hold);
            self.park(now, conn, form);
        } else {
            c.empty_at = Some(now);
            self.counters.grabs_empty += 1;
            self.reply(conn, Reply::NoJob);
        }
    }

    /// Answers a grab that was held in vain: the time is over, or the worker has something else to say.
    pub(crate) fn end_hold(&mut self, now: Instant, conn: ConnId) {
        if !self.conns.get(&conn).is_some_and(|c| c.is_held) {
            return;
        }
        // A parked worker has no credit to give back.
        self.leave_rest(conn);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.is_brisk = false;
            c.empty_at = Some(now);
        }
        self.counters.grabs_empty += 1;
        self.reply(conn, Reply::NoJob);
    }

    pub(crate) fn handle_pre_sleep(&mut self, now: Instant, conn: ConnId) {
        let credit = self.leave_rest(conn);
        let ready = match self.conns.get(&conn) {
            Some(c) => c
                .abilities
                .iter()
                .map(|a| a.function)
                .find(|f| self.function(*f).ready(now) > 0),
            None => return,
        };
        match ready {
            Some(function) => self.wake(now, conn, function),
            None => {
                let number = self.take_sleep_number();
                self.rest(now, conn, Rest::Asleep(number), number);
            }
        }
        if let Some(function) = credit {
            self.wake_ready(now, function);
        }
    }

    /// Lets a worker wait for a job itself.
    pub(crate) fn park(&mut self, now: Instant, conn: ConnId, form: Grab) {
        let number = self.take_sleep_number();
        self.rest(now, conn, Rest::Parked(number, form), number);
    }

    fn rest(&mut self, now: Instant, conn: ConnId, rest: Rest, number: u64) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        c.rest = rest;
        for ability in &c.abilities {
            let f = self.functions[ability.function.0 as usize]
                .as_mut()
                .expect("registered functions exist");
            f.sleepers.insert((number, conn));
            // Jobs that only their rate holds back must wake this sleeper in time.
            if let Some(rate) = f.rate
                && rate.free_at() > now
                && f.at_hand() > 0
            {
                self.timers
                    .insert(Timer::Rate(ability.function), rate.free_at());
            }
        }
    }

    #[expect(
        clippy::unwrap_in_result,
        reason = "a registered function exists; `None` says something else"
    )]
    /// Ends a worker's rest. Says for which function it was woken, if it was: that function may need another.
    pub(crate) fn leave_rest(&mut self, conn: ConnId) -> Option<FunctionId> {
        let c = self.conns.get_mut(&conn)?;
        match std::mem::replace(&mut c.rest, Rest::Awake) {
            Rest::Awake | Rest::Grabbing(_) => None,
            Rest::Asleep(number) | Rest::Parked(number, _) => {
                for ability in &c.abilities {
                    let f = self.functions[ability.function.0 as usize]
                        .as_mut()
                        .expect("registered functions exist");
                    f.sleepers.remove(&(number, conn));
                }
                if std::mem::take(&mut c.is_held) {
                    self.timers.remove(&Timer::Hold(conn));
                }
                None
            }
            Rest::Woken(function) => {
                self.function_mut(function).woken -= 1;
                Some(function)
            }
        }
    }

    /// The job this worker gets next: highest priority over all its functions, functions in turn, first in first out.
    pub(crate) fn choose(&mut self, now: Instant, conn: ConnId) -> Option<u32> {
        let c = self.conns.get(&conn)?;
        let count = c.abilities.len();
        let mut best: Option<(Priority, usize, u32)> = None;
        for step in 0..count {
            let at = if self.config.is_round_robin {
                (c.turn + step) % count
            } else {
                count - 1 - step
            };
            let function = self.function(c.abilities[at].function);
            let Some(priority) = function.best_priority() else {
                continue;
            };
            if best.is_none_or(|(found, ..)| priority < found) && function.ready(now) > 0 {
                best = Some((priority, at, function.queues[priority.index()].head));
                if priority == Priority::High {
                    break;
                }
            }
        }
        let (_, at, index) = best?;
        if let Some(c) = self.conns.get_mut(&conn) {
            c.turn = at + 1;
        }
        Some(index)
    }

    /// Puts a waiting job into a worker's hands.
    pub(crate) fn assign(&mut self, now: Instant, conn: ConnId, index: u32, form: Grab) {
        self.leave(index);
        let now_us = self.life_us(now);
        let job = self.jobs.get_mut(index);
        self.counters.assigned += 1;
        self.counters.wait.observe(now_us - job.since_us);
        job.state = State::Running(conn);
        job.since_us = now_us;
        let (id, function) = (job.id, job.function);
        let own_timeout = job.headers().and_then(|headers| headers.timeout);
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a job's function exists");
        f.running += 1;
        if let Some(rate) = &mut f.rate {
            rate.take(now);
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            c.holding.insert(id);
            let of_function = c.abilities.iter().find(|a| a.function == function);
            let timeout = own_timeout.or_else(|| of_function.and_then(|a| a.timeout));
            if let Some(timeout) = timeout {
                self.timers.insert(Timer::Job(id), now + timeout);
            }
        }
        let wants_headers = self.conns.get(&conn).is_some_and(|c| c.wants_headers);
        let reply = self.assignment(index, form, wants_headers);
        self.reply(conn, reply);
    }

    fn assignment(&self, index: u32, form: Grab, wants_headers: bool) -> Reply {
        let job = self.jobs.get(index);
        let (handle, function) = (
            self.handles.text(job.id),
            self.function(job.function).name.clone(),
        );
        debug_assert!(!job.is_away(), "jobs in queues have their workload");
        let mut workload = job.workload_bytes();
        let reducer = Some(job.reducer()).filter(|reducer| !reducer.is_empty());
        let unique = match form {
            Grab::Plain => Bytes::new(),
            Grab::Unique | Grab::All => Bytes::copy_from_slice(job.unique()),
        };
        match (form, reducer) {
            (Grab::Plain, _) => Reply::JobAssign {
                handle,
                function,
                workload,
            },
            (Grab::Unique, _) | (Grab::All, None) => {
                if wants_headers {
                    // One more argument before the data.
                    let headers = job.headers().map_or(&b""[..], |headers| &headers.text);
                    workload = [headers, b"\0", &workload].concat().into();
                }
                Reply::JobAssignUnique {
                    handle,
                    function,
                    unique,
                    workload,
                }
            }
            (Grab::All, Some(reducer)) => Reply::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload,
            },
        }
    }

    /// Gives a worker with the option `push` jobs until it is full, then lets it wait for more.
    pub(crate) fn refill(&mut self, now: Instant, conn: ConnId) {
        let Some((jobs_max, form)) = self.conns.get(&conn).and_then(|c| c.push) else {
            return;
        };
        // What it asked for itself counts among what it may hold.
        self.decide(now, conn);
        let credit = self.leave_rest(conn);
        loop {
            let has_room = self
                .conns
                .get(&conn)
                .is_some_and(|c| c.holding.len() < jobs_max as usize);
            if !has_room {
                break;
            }
            match self.choose(now, conn) {
                Some(index) => self.assign(now, conn, index, form),
                None => {
                    self.park(now, conn, form);
                    break;
                }
            }
        }
        if let Some(function) = credit {
            self.wake_ready(now, function);
        }
    }
}
