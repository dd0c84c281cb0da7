//! What is remembered of every backend address: attempts, connects, last answers.
//!
//! Owns the counters behind `nodes`. Apart from the dispatchers, because an address that serves two services is one node to
//! an operator. It decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Responses remembered per node, as in the original.
const RESPONSES_KEPT: usize = 500;

#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFacts {
    pub(crate) attempts: u64,
    pub(crate) connects: u64,
    pub(crate) requests: u64,
    pub(crate) last_attempt: u64,
    pub(crate) last_connect: u64,
    pub(crate) last_response: u64,
    codes: VecDeque<u16>,
}

impl NodeFacts {
    /// Status and how often among the last responses, by status.
    pub(crate) fn codes(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for code in &self.codes {
            *counts.entry(*code).or_insert(0) += 1;
        }
        counts
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct NodeBook(Mutex<BTreeMap<Arc<str>, NodeFacts>>);

impl NodeBook {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, NodeFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, node: &Arc<str>, change: impl FnOnce(&mut NodeFacts, u64)) {
        let now = crate::clock::unix_secs();
        let mut book = self.lock();
        match book.get_mut(node) {
            Some(facts) => change(facts, now),
            None => change(book.entry(Arc::clone(node)).or_default(), now),
        }
    }

    pub(crate) fn attempted(&self, node: &Arc<str>) {
        self.note(node, |facts, now| {
            facts.attempts += 1;
            facts.last_attempt = now;
        });
    }

    pub(crate) fn connected(&self, node: &Arc<str>) {
        self.note(node, |facts, now| {
            facts.connects += 1;
            facts.last_connect = now;
        });
    }

    pub(crate) fn responded(&self, node: &Arc<str>, status: u16) {
        self.note(node, |facts, now| {
            facts.requests += 1;
            facts.last_response = now;
            if facts.codes.len() == RESPONSES_KEPT {
                facts.codes.pop_front();
            }
            facts.codes.push_back(status);
        });
    }

    /// All nodes by address.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, NodeFacts)> {
        self.lock()
            .iter()
            .map(|(a, f)| (Arc::clone(a), f.clone()))
            .collect()
    }

    pub(crate) fn requests(&self, node: &str) -> u64 {
        self.lock().get(node).map_or(0, |f| f.requests)
    }

    /// Forgets nodes no pool names any more and nobody talked to lately.
    pub(crate) fn keep(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|address, _| is_wanted(address));
    }
}
