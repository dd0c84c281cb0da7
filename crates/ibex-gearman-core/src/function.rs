//! One function: its queues, its bounds, who can do it and who sleeps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::{Priority, QueueLimits};

use crate::arena::Queue;
use crate::job::ConnId;

/// A function's number; free to be used again once the function is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(pub(crate) u32);

/// A token bucket over assignments, kept as the time at which it would be empty of debt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
    /// Before this time minus the burst's worth, nothing goes.
    pub(crate) full_at: Instant,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// When the next assignment may be made: at once if not later than `now`.
    pub(crate) fn free_at(self) -> Instant {
        let allowance = self.interval().saturating_mul(self.burst.saturating_sub(1));
        self.full_at.checked_sub(allowance).unwrap_or(self.full_at)
    }

    pub(crate) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval();
    }
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: Bytes,
    /// Jobs that can be handed out.
    pub(crate) queues: [Queue; 3],
    /// Those that come after them, the first of which lacks its workload; see `paging.rs`.
    pub(crate) behind: [Queue; 3],
    /// Of these, those whose workload is on its way.
    pub(crate) fetching: [u32; 3],
    /// Its place in the list of functions to look at for that is taken.
    pub(crate) is_fetch_due: bool,
    /// The store did not answer; nothing is asked for, and what comes need not wait behind.
    pub(crate) is_store_stalled: bool,
    pub(crate) committing: u32,
    pub(crate) scheduled: u32,
    pub(crate) running: u32,
    /// Connections that can do it.
    pub(crate) workers: u32,
    /// Those of them that sleep or are parked, longest first.
    pub(crate) sleepers: BTreeSet<(u64, ConnId)>,
    /// NOOPs sent for this function's jobs that no grab has answered yet.
    pub(crate) woken: u32,
    /// Reasons to look for sleepers to wake since this was last done.
    pub(crate) wakes_due: u32,
    /// Sleepers the next delayed wake-up takes.
    pub(crate) wake_step: u32,
    pub(crate) limits: QueueLimits,
    pub(crate) running_max: u32,
    pub(crate) rate: Option<Rate>,
    pub(crate) is_paused: bool,
    /// When it was first seen without any use, if it has not been used since.
    pub(crate) unused_since: Option<Instant>,
    pub(crate) submitted: u64,
    pub(crate) finished: u64,
}

impl Function {
    pub(crate) fn new(name: Bytes, limits: QueueLimits) -> Self {
        Self {
            name,
            queues: [Queue::default(); 3],
            behind: [Queue::default(); 3],
            fetching: [0; 3],
            is_fetch_due: false,
            is_store_stalled: false,
            committing: 0,
            scheduled: 0,
            running: 0,
            workers: 0,
            sleepers: BTreeSet::new(),
            woken: 0,
            wakes_due: 0,
            wake_step: 1,
            limits,
            running_max: 0,
            rate: None,
            is_paused: false,
            unused_since: None,
            submitted: 0,
            finished: 0,
        }
    }

    /// Jobs that wait, whether their workload is here or not.
    pub(crate) fn waiting(&self) -> u32 {
        let behind: u32 = self.behind.iter().map(|q| q.len).sum();
        self.at_hand() + behind
    }

    /// Jobs that wait and can be handed out.
    pub(crate) fn at_hand(&self) -> u32 {
        self.queues.iter().map(|q| q.len).sum()
    }

    /// All jobs of the function.
    pub(crate) fn total(&self) -> u32 {
        self.waiting() + self.committing + self.scheduled + self.running
    }

    /// Nothing refers to it, and an operator has said nothing of it.
    pub(crate) fn is_unused(&self) -> bool {
        self.workers == 0
            && self.total() == 0
            && !self.is_paused
            && self.rate.is_none()
            && self.running_max == 0
            && self.limits == QueueLimits::default()
    }

    /// Jobs that a worker could be given now.
    pub(crate) fn ready(&self, now: Instant) -> u32 {
        if self.is_paused || self.rate.is_some_and(|rate| rate.free_at() > now) {
            return 0;
        }
        let room = match self.running_max {
            0 => u32::MAX,
            max => max.saturating_sub(self.running),
        };
        self.at_hand().min(room)
    }

    /// The first non-empty queue, highest priority first.
    pub(crate) fn best_priority(&self) -> Option<Priority> {
        Priority::ALL
            .into_iter()
            .find(|p| self.queues[p.index()].len > 0)
    }

    /// Whether a new job of this priority is beyond `maxqueue`.
    pub(crate) fn is_full(&self, priority: Priority) -> bool {
        let limit = self.limits.0[priority.index()];
        limit > 0 && self.total() >= limit
    }
}
