//! What operators want of workers: to take nothing more (quiet), or to end (stop). A worker hears of it in its next fetch.
//!
//! Apart from leases, because a worker without a job can be told, too. The databases hold them for all daemons; here is what was read last, so that no
//! fetch asks for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Workers with an order. Policy: more are refused.
const ORDERS_MAX: usize = 10_000;

/// What a worker shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take nothing more.
    Quiet,
    /// End when what is in hand is finished.
    Stop,
}

impl Order {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Stop => "stop",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Quiet, Self::Stop]
            .into_iter()
            .find(|order| order.as_str() == word)
    }
}

/// All orders.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    orders: Mutex<BTreeMap<String, Order>>,
    changed: Notify,
    /// Orders given at this daemon so far.
    changes: AtomicU64,
}

impl Orders {
    /// Gives an order, or takes it back; `false` when there are too many.
    pub(crate) fn set(&self, worker: &str, order: Option<Order>) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        match order {
            Some(_) if orders.len() >= ORDERS_MAX && !orders.contains_key(worker) => return false,
            Some(order) => drop(orders.insert(worker.to_owned(), order)),
            None => drop(orders.remove(worker)),
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        drop(orders);
        self.changed.notify_waiters();
        true
    }

    /// A count that grows with every order given here.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Takes what the databases hold, unless an order was given here since `before` was counted: that is read the next time.
    pub(crate) fn learn(&self, before: u64, read: BTreeMap<String, String>) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if self.changes() != before {
            return;
        }
        let new: BTreeMap<String, Order> = read
            .into_iter()
            .filter_map(|(worker, word)| Some((worker, Order::from_word(&word)?)))
            .take(ORDERS_MAX)
            .collect();
        if *orders != new {
            *orders = new;
            drop(orders);
            self.changed.notify_waiters();
        }
    }

    /// The worker's order.
    pub(crate) fn of(&self, worker: &str) -> Option<Order> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.get(worker).copied()
    }

    /// Waits until the worker has an order.
    pub(crate) async fn given(&self, worker: &str) -> Order {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // In the list before the look, so that none is missed.
            changed.as_mut().enable();
            if let Some(order) = self.of(worker) {
                return order;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_reaches_who_waits_and_can_be_taken_back() {
        let orders = std::sync::Arc::new(Orders::default());
        let waiting = tokio::spawn({
            let orders = std::sync::Arc::clone(&orders);
            async move { orders.given("w").await }
        });
        assert!(orders.set("other", Some(Order::Stop)));
        assert!(orders.set("w", Some(Order::Quiet)));
        assert_eq!(waiting.await.unwrap(), Order::Quiet);
        assert!(orders.set("w", None));
        assert_eq!(orders.of("w"), None);
        for n in 0..ORDERS_MAX - 1 {
            assert!(orders.set(&n.to_string(), Some(Order::Quiet)));
        }
        assert!(!orders.set("one too many", Some(Order::Quiet)));
        assert!(
            orders.set("other", Some(Order::Quiet)),
            "known ones may change"
        );
    }

    #[test]
    fn what_the_databases_hold_does_not_undo_an_order_of_this_moment() {
        let orders = Orders::default();
        let read = |word: &str| BTreeMap::from([("w".to_owned(), word.to_owned())]);
        orders.learn(orders.changes(), read("stop"));
        assert_eq!(orders.of("w"), Some(Order::Stop));
        let before = orders.changes();
        assert!(orders.set("w", Some(Order::Quiet)));
        orders.learn(before, read("stop"));
        assert_eq!(orders.of("w"), Some(Order::Quiet));
        orders.learn(orders.changes(), read("nonsense"));
        assert_eq!(orders.of("w"), None);
    }
}
