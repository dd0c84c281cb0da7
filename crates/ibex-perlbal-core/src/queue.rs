//! Requests that wait for a connection: three classes, first come first served within each.
//!
//! Owns order, counts and ages of waiting tickets. Apart from the dispatcher because removal of a ticket from the middle
//! has to be cheap: a client that leaves is only unmarked, and its entry skipped later. It decides nothing about backends.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ibex_base::rng::Rng;

use crate::dispatcher::{Class, Ticket};

/// Stale entries tolerated beyond twice the live ones before a queue is compacted.
const SLACK: usize = 64;

#[derive(Debug)]
struct Waiter {
    class: Class,
    since: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Queues {
    order: [VecDeque<Ticket>; 3],
    counts: [usize; 3],
    waiters: BTreeMap<Ticket, Waiter>,
}

impl Queues {
    pub(crate) fn push(&mut self, ticket: Ticket, class: Class, since: Instant) {
        self.enter(ticket, class, since);
        self.order[class.index()].push_back(ticket);
    }

    /// A ticket whose connection proved dead keeps its place: before all others of its class.
    pub(crate) fn push_front(&mut self, ticket: Ticket, class: Class, since: Instant) {
        self.enter(ticket, class, since);
        self.order[class.index()].push_front(ticket);
    }

    fn enter(&mut self, ticket: Ticket, class: Class, since: Instant) {
        let before = self.waiters.insert(ticket, Waiter { class, since });
        assert!(before.is_none(), "a ticket waits once");
        self.counts[class.index()] += 1;
    }

    /// Removes a ticket wherever it is; `None` if it does not wait.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<(Class, Instant)> {
        let waiter = self.waiters.remove(&ticket)?;
        let index = waiter.class.index();
        self.counts[index] -= 1;
        if self.order[index].len() > 2 * self.counts[index] + SLACK {
            let waiters = &self.waiters;
            self.order[index].retain(|t| waiters.contains_key(t));
        }
        Some((waiter.class, waiter.since))
    }

    /// The ticket that is served next. With relief, the normal queue may go before the high one.
    pub(crate) fn pop(
        &mut self,
        relief_size: usize,
        relief_percent: u64,
        rng: &mut Rng,
    ) -> Option<(Ticket, Class, Instant)> {
        let relieved = relief_size > 0
            && self.counts[Class::Normal.index()] >= relief_size
            && rng.chance(relief_percent, 100);
        let order = if relieved {
            [Class::Normal, Class::High, Class::Low]
        } else {
            Class::ALL
        };
        order.into_iter().find_map(|class| self.pop_class(class))
    }

    fn pop_class(&mut self, class: Class) -> Option<(Ticket, Class, Instant)> {
        while let Some(ticket) = self.order[class.index()].pop_front() {
            if let Some((class, since)) = self.remove(ticket) {
                return Some((ticket, class, since));
            }
        }
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn count(&self, class: Class) -> usize {
        self.counts[class.index()]
    }

    /// Age of the oldest waiting ticket of a class.
    pub(crate) fn age(&self, class: Class, now: Instant) -> Duration {
        let oldest = self.order[class.index()]
            .iter()
            .find_map(|t| self.waiters.get(t));
        oldest.map_or(Duration::ZERO, |w| now.saturating_duration_since(w.since))
    }

    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.waiters.keys().copied()
    }

    pub(crate) fn check_invariants(&self) {
        for class in Class::ALL {
            let live = self.order[class.index()]
                .iter()
                .filter(|t| self.waiters.get(t).is_some_and(|w| w.class == class))
                .count();
            assert_eq!(
                live,
                self.count(class),
                "every waiting ticket is in its queue once"
            );
        }
        assert_eq!(self.counts.iter().sum::<usize>(), self.waiters.len());
    }
}
