//! The nodes of one service and the choice among them.
//!
//! Owns which node a new connection goes to (spec parts A4, A6.5 and C5), backoff after failed connects, and the counters
//! an operator sees. Apart from the dispatcher, which decides whether a connection is wanted. It knows addresses as names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ibex_base::rng::Rng;

/// First pause after a failed connect.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause: a node that comes back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a node is used without verification after one failed there.
const NOVERIFY: Duration = Duration::from_secs(60);

/// How the node of a new connection is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// By chance, in proportion to the weights.
    #[default]
    Random,
    /// In turn; a weight of n means n turns.
    RoundRobin,
    /// The node with the fewest busy and pending connections.
    LeastConn,
    /// The less busy of two random nodes.
    P2c,
}

impl Balance {
    /// The method of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "random" => Some(Self::Random),
            "round_robin" => Some(Self::RoundRobin),
            "least_conn" => Some(Self::LeastConn),
            "p2c" => Some(Self::P2c),
            _ => None,
        }
    }

    /// Name in the language.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::P2c => "p2c",
        }
    }
}

/// A node as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Name and address, `ip:port` or `unix:/path`.
    pub address: Arc<str>,
    /// Share of new connections; 0 = none.
    pub weight: u32,
    /// Most connections, 0 = no limit.
    pub connections_max: usize,
    /// Used only when no other node can be.
    pub is_backup: bool,
    /// Gets no new requests.
    pub is_drained: bool,
}

impl NodeSpec {
    /// A node with weight 1 and no limits.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: Arc::from(address),
            weight: 1,
            connections_max: 0,
            is_backup: false,
            is_drained: false,
        }
    }
}

/// What an operator sees of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Connects tried.
    pub attempts: u64,
    /// Connects that succeeded.
    pub connects: u64,
    /// Verifications that succeeded.
    pub verifies: u64,
    /// Requests given.
    pub requests: u64,
    /// Connections being made or verified.
    pub pending: usize,
    /// Connections that serve a request.
    pub busy: usize,
    /// Connections without work.
    pub idle: usize,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    /// False once the node left the pool; it is forgotten with its last connection.
    pub(crate) is_member: bool,
    pub(crate) counters: NodeCounters,
    failures: u32,
    pub(crate) resting_until: Option<Instant>,
    pub(crate) noverify_until: Option<Instant>,
    credit: i64,
}

impl Node {
    pub(crate) fn takes_requests(&self) -> bool {
        self.is_member && !self.spec.is_drained
    }

    pub(crate) fn connections(&self) -> usize {
        self.counters.pending + self.counters.busy + self.counters.idle
    }
}

#[derive(Debug, Default)]
pub(crate) struct Nodes {
    by_address: BTreeMap<Arc<str>, Node>,
}

impl Nodes {
    /// Replaces the membership. Nodes that stay keep their counters and backoff.
    pub(crate) fn set(&mut self, specs: Vec<NodeSpec>) {
        for node in self.by_address.values_mut() {
            node.is_member = false;
        }
        for spec in specs {
            let node = self
                .by_address
                .entry(Arc::clone(&spec.address))
                .or_insert_with(|| Node {
                    spec: spec.clone(),
                    is_member: true,
                    counters: NodeCounters::default(),
                    failures: 0,
                    resting_until: None,
                    noverify_until: None,
                    credit: 0,
                });
            node.spec = spec;
            node.is_member = true;
        }
        self.forget_unused();
    }

    pub(crate) fn forget_unused(&mut self) {
        self.by_address
            .retain(|_, n| n.is_member || n.connections() > 0);
    }

    pub(crate) fn get(&self, address: &str) -> Option<&Node> {
        self.by_address.get(address)
    }

    pub(crate) fn node(&mut self, address: &Arc<str>) -> &mut Node {
        self.by_address
            .get_mut(address)
            .expect("a node is kept while it has connections")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.by_address.values()
    }

    pub(crate) fn members(&self) -> usize {
        self.by_address.values().filter(|n| n.is_member).count()
    }

    /// The node for a new connection, or `None` if none may get one now.
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        balance: Balance,
        pending_max: usize,
        rng: &mut Rng,
    ) -> Option<Arc<str>> {
        let mut usable = self.usable(now, pending_max, false);
        if usable.is_empty() {
            usable = self.usable(now, pending_max, true);
        }
        // A node with a connection under way already is second choice: hedging must not hit the same busy node again.
        let fewest = usable
            .iter()
            .map(|a| self.by_address[a].counters.pending)
            .min()?;
        usable.retain(|a| self.by_address[a].counters.pending == fewest);
        match balance {
            Balance::Random => self.weighted(&usable, rng),
            Balance::RoundRobin => self.in_turn(&usable),
            Balance::LeastConn => usable.iter().min_by_key(|a| self.load(a)).cloned(),
            Balance::P2c => {
                let (a, b) = (self.weighted(&usable, rng)?, self.weighted(&usable, rng)?);
                Some(if self.load(&b) < self.load(&a) { b } else { a })
            }
        }
    }

    fn usable(&self, now: Instant, pending_max: usize, backups: bool) -> Vec<Arc<str>> {
        let fine = |n: &&Node| {
            n.takes_requests()
                && n.spec.weight > 0
                && n.spec.is_backup == backups
                && n.counters.pending < pending_max.max(1)
                && n.resting_until.is_none_or(|t| t <= now)
                && (n.spec.connections_max == 0 || n.connections() < n.spec.connections_max)
        };
        self.by_address
            .values()
            .filter(fine)
            .map(|n| Arc::clone(&n.spec.address))
            .collect()
    }

    fn load(&self, address: &Arc<str>) -> (u64, u64) {
        let node = &self.by_address[address];
        let connections = (node.counters.busy + node.counters.pending) as u64;
        (
            connections * 1000 / u64::from(node.spec.weight.max(1)),
            node.counters.requests,
        )
    }

    fn weighted(&self, usable: &[Arc<str>], rng: &mut Rng) -> Option<Arc<str>> {
        let total: u64 = usable
            .iter()
            .map(|a| u64::from(self.by_address[a].spec.weight))
            .sum();
        let mut at = rng.below(total.max(1));
        for address in usable {
            let weight = u64::from(self.by_address[address].spec.weight);
            if at < weight {
                return Some(Arc::clone(address));
            }
            at -= weight;
        }
        usable.last().cloned()
    }

    /// Smooth weighted round robin: each candidate earns its weight, the richest pays the total.
    fn in_turn(&mut self, usable: &[Arc<str>]) -> Option<Arc<str>> {
        let total: i64 = usable
            .iter()
            .map(|a| i64::from(self.by_address[a].spec.weight))
            .sum();
        let mut best: Option<(i64, Arc<str>)> = None;
        for address in usable {
            let node = self.by_address.get_mut(address)?;
            node.credit += i64::from(node.spec.weight);
            if best
                .as_ref()
                .is_none_or(|(credit, _)| node.credit > *credit)
            {
                best = Some((node.credit, Arc::clone(address)));
            }
        }
        let (_, address) = best?;
        self.by_address.get_mut(&address)?.credit -= total;
        Some(address)
    }

    pub(crate) fn connect_failed(&mut self, address: &Arc<str>, now: Instant) {
        let node = self.node(address);
        let pause = BACKOFF_FIRST
            .saturating_mul(1_u32.checked_shl(node.failures.min(8)).unwrap_or(1))
            .min(BACKOFF_MAX);
        node.failures = node.failures.saturating_add(1);
        node.resting_until = Some(now + pause);
    }

    pub(crate) fn connected(&mut self, address: &Arc<str>) {
        let node = self.node(address);
        node.failures = 0;
        node.resting_until = None;
        node.counters.connects += 1;
    }

    pub(crate) fn verify_failed(&mut self, address: &Arc<str>, now: Instant) {
        self.node(address).noverify_until = Some(now + NOVERIFY);
    }
}
