//! Waking sleepers: enough that no job waits beside a sleeper, few enough that one job does not wake a herd.
//!
//! A woken worker is a credit of the function it was woken for. The credit ends when the worker grabs, sleeps again or goes; then the function is
//! looked at again, so a
//! worker that took something else never leaves the job it was woken for alone.

use std::time::Instant;

use crate::config::Wakeup;
use crate::conn::Rest;
use crate::function::FunctionId;
use crate::io::Reply;
use crate::job::ConnId;
use crate::server::{JobServer, Timer};

/// Sleepers one delayed wake-up takes at most: by then something else is wrong than a silent worker.
const WAKE_STEP_MAX: u32 = 1024;

impl JobServer {
    /// Wakes whom the function's ready jobs need.
    pub(crate) fn wake_due(&mut self, now: Instant, function: FunctionId) {
        let Some(f) = self
            .functions
            .get_mut(function.0 as usize)
            .and_then(Option::as_mut)
        else {
            // Dropped meanwhile.
            return;
        };
        let reasons = std::mem::take(&mut f.wakes_due);
        let mut woken_now = 0;
        loop {
            let f = self.function(function);
            let ready = f.ready(now);
            if ready == 0 {
                self.arm_rate_timer(now, function);
                return;
            }
            let Some((_, conn)) = f.sleepers.first().copied() else {
                return;
            };
            let wants_more = match self.config.wakeup {
                Wakeup::Auto => f.woken < ready,
                Wakeup::All => true,
                Wakeup::Count(count) => woken_now < count.saturating_mul(reasons),
            };
            if !wants_more {
                return;
            }
            woken_now += 1;
            self.rouse(now, conn, function);
        }
    }

    /// Ends one sleeper's rest: a NOOP, or the job itself if it is parked for that.
    fn rouse(&mut self, now: Instant, conn: ConnId, function: FunctionId) {
        let Some(rest) = self.conns.get(&conn).map(|c| c.rest) else {
            return;
        };
        // A sleeper has no credit to give back.
        self.leave_rest(conn);
        match rest {
            Rest::Parked(_, form) => {
                if let Some(index) = self.choose(now, conn) {
                    self.assign(now, conn, index, form);
                }
                self.refill(now, conn);
            }
            Rest::Asleep(_) | Rest::Awake | Rest::Woken(_) | Rest::Grabbing(_) => {
                self.wake(now, conn, function);
            }
        }
    }

    /// Sends a NOOP for `function` to a worker that does not rest any more.
    pub(crate) fn wake(&mut self, now: Instant, conn: ConnId, function: FunctionId) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        c.rest = Rest::Woken(function);
        let hold = self.config.grab_hold;
        let is_soon = |at| now.saturating_duration_since(at) <= hold;
        c.is_brisk = c.empty_at.is_some_and(is_soon);
        self.function_mut(function).woken += 1;
        self.counters.noops += 1;
        self.reply(conn, Reply::Noop);
        if self.timers.deadline(&Timer::Wake(function)).is_none() {
            self.timers
                .insert(Timer::Wake(function), now + self.config.wakeup_delay);
        }
    }

    /// Woken workers have had their time: if jobs still wait, wakes the next ones, twice as many each time.
    pub(crate) fn wake_more(&mut self, now: Instant, function: FunctionId) {
        let Some(f) = self
            .functions
            .get_mut(function.0 as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        if f.ready(now) == 0 || f.sleepers.is_empty() {
            f.wake_step = 1;
            return;
        }
        let step = f.wake_step;
        f.wake_step = (step * 2).min(WAKE_STEP_MAX);
        for _ in 0..step {
            let f = self.function(function);
            let Some((_, conn)) = f.sleepers.first().copied() else {
                break;
            };
            if f.ready(now) == 0 {
                break;
            }
            self.rouse(now, conn, function);
        }
    }

    /// Jobs wait for the function's rate: comes back when it allows the next.
    fn arm_rate_timer(&mut self, now: Instant, function: FunctionId) {
        let f = self.function(function);
        if let Some(rate) = f.rate
            && rate.free_at() > now
            && f.at_hand() > 0
        {
            self.timers.insert(Timer::Rate(function), rate.free_at());
        }
    }
}
