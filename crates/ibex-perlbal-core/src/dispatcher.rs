//! The dispatcher of one service: tickets of waiting requests on one side, backend connections on the other.
//!
//! Owns the life of both (spec part A6, points 3 to 8). Apart from `queue` and `nodes`, which it combines. The shell calls
//! [`Dispatcher::handle`], drains [`Dispatcher::poll_output`], and comes back at [`Dispatcher::poll_timeout`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ibex_base::deadline::DeadlineHeap;
use ibex_base::rng::Rng;

use crate::nodes::Nodes;
pub use crate::nodes::{Balance, NodeCounters, NodeSpec};
use crate::queue::Queues;

/// One request's turn in the queue; numbers are given by the shell and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One backend connection; numbers are given by the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Priority of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Served first.
    High,
    /// The rest.
    Normal,
    /// Served when nobody else waits.
    Low,
}

impl Class {
    /// In the order in which they are served.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }
}

/// Tunables of a service as far as they are about connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Keep connections after a response.
    pub persist: bool,
    /// Idle used connections kept.
    pub persist_cache: usize,
    /// Spare connections kept ready.
    pub connect_ahead: usize,
    /// Requests per connection, 0 = no limit.
    pub uses_max: u64,
    /// Verify new connections.
    pub verify: bool,
    /// Normal requests waiting before relief starts, 0 = none.
    pub relief_size: usize,
    /// Chance of relief in percent.
    pub relief_percent: u64,
    /// Most waiting requests, 0 = no limit.
    pub queue_max: usize,
    /// Longest wait, zero = no limit.
    pub queue_timeout: Duration,
    /// Connections being made to one node at a time.
    pub pending_per_node_max: usize,
    /// Age of a pending connection from which it does not count any more when connections are wanted; zero = never.
    pub hedge_after: Duration,
    /// Choice of nodes.
    pub balance: Balance,
    /// A failed connect refuses everyone who waits: for single targets with an alternative elsewhere.
    pub fail_fast: bool,
    /// Idle connections older than this are closed; zero = no limit.
    pub idle_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            persist: false,
            persist_cache: 2,
            connect_ahead: 0,
            uses_max: 0,
            verify: false,
            relief_size: 0,
            relief_percent: 0,
            queue_max: 10_000,
            queue_timeout: Duration::from_secs(30),
            pending_per_node_max: 2,
            hedge_after: Duration::from_millis(50),
            balance: Balance::Random,
            fail_fast: false,
            idle_max: Duration::ZERO,
        }
    }
}

/// New connections started by one decision; more would only race each other.
const CONNECTS_AT_ONCE_MAX: usize = 10;
/// A connect that takes longer is given up when somebody waits.
const CONNECT_TIMEOUT_WANTED: Duration = Duration::from_secs(5);
/// A connect that takes longer is given up in any case.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A verification that takes longer is given up.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// An unverified connection that was never used may have been forgotten by its backend after this long.
const UNVERIFIED_IDLE_MAX: Duration = Duration::from_secs(5);
/// A connection the backend closes within this time is not given a request any more.
const EXPIRY_MARGIN: Duration = Duration::from_secs(2);

/// What happens to a connection after its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Completely read and both sides keep it; the backend closes it at `expires` if it said so.
    Reusable {
        /// From the backend's `Keep-Alive: timeout`.
        expires: Option<Instant>,
    },
    /// Not usable any more.
    Finished,
}

/// What the outside world tells the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A request wants a connection.
    Ask(Ticket, Class),
    /// A waiting request is gone. Unknown tickets are ignored: an assignment may have crossed it.
    Cancel(Ticket),
    /// A connection is established.
    Connected(ConnId),
    /// A connection could not be established.
    ConnectFailed(ConnId),
    /// The OPTIONS request was answered.
    Verified(ConnId),
    /// The OPTIONS request was not answered as it should be; the shell has closed the connection.
    VerifyFailed(ConnId),
    /// The response is completely read, or the exchange is over otherwise.
    Released(ConnId, Release),
    /// An assigned connection was found closed before anything was sent; the request keeps its place.
    Stale(ConnId, Ticket, Class),
    /// An idle connection was found closed.
    Lost(ConnId),
    /// The nodes of the pool are now these.
    SetNodes(Vec<NodeSpec>),
    /// The tunables are now these.
    SetConfig(Config),
}

/// Why a request gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait already.
    QueueFull,
    /// It has waited long enough.
    TimedOut,
    /// The only target cannot be reached (`fail_fast`).
    Unreachable,
}

/// What the dispatcher asks the outside world to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to a node.
    Connect(ConnId, Arc<str>),
    /// Send the OPTIONS request over a fresh connection.
    Verify(ConnId),
    /// Give the connection to the request.
    Assign {
        /// Whose turn it is.
        ticket: Ticket,
        /// What it gets.
        conn: ConnId,
        /// Where the connection leads.
        node: Arc<str>,
        /// Requests the connection has served before.
        uses: u64,
    },
    /// The request gets none.
    Refuse(Ticket, Refused),
    /// Close a connection, or give up making it.
    Close(ConnId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting {
        since: Instant,
    },
    Verifying {
        since: Instant,
    },
    Idle {
        since: Instant,
        verified: bool,
        expires: Option<Instant>,
    },
    Busy,
}

#[derive(Debug)]
struct Conn {
    node: Arc<str>,
    state: State,
    uses: u64,
}

/// A connection under way, for `show service` and `pending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Node it leads to.
    pub node: Arc<str>,
    /// True while it is being verified.
    pub is_verifying: bool,
    /// Since when.
    pub age: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    config: Config,
    queues: Queues,
    deadlines: DeadlineHeap<Ticket>,
    nodes: Nodes,
    conns: BTreeMap<ConnId, Conn>,
    /// Idle connections, most recently used last.
    idle: Vec<ConnId>,
    /// Connections being made or verified.
    pending: BTreeSet<ConnId>,
    conn_next: u64,
    rng: Rng,
    outputs: VecDeque<Output>,
    /// Time of the last call: moments before it have had their effect.
    seen: Option<Instant>,
}

impl Dispatcher {
    /// A dispatcher without nodes.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            queues: Queues::default(),
            deadlines: DeadlineHeap::new(),
            nodes: Nodes::default(),
            conns: BTreeMap::new(),
            idle: Vec::new(),
            pending: BTreeSet::new(),
            conn_next: 1,
            rng: Rng::new(seed),
            outputs: VecDeque::new(),
            seen: None,
        }
    }

    /// Tells what happened. Drain [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.seen = Some(now);
        match input {
            Input::Ask(ticket, class) => self.ask(now, ticket, class),
            Input::Cancel(ticket) => self.forget_ticket(ticket),
            Input::Connected(conn) => self.connected(now, conn),
            Input::ConnectFailed(conn) => self.connect_failed(now, conn),
            Input::Verified(conn) => self.verified(now, conn),
            Input::VerifyFailed(conn) => self.verify_failed(now, conn),
            Input::Released(conn, release) => self.released(now, conn, release),
            Input::Stale(conn, ticket, class) => {
                self.remove(conn);
                self.queues.push_front(ticket, class, now);
                self.set_deadline(now, ticket);
                self.serve(now);
            }
            Input::Lost(conn) => self.remove(conn),
            Input::SetNodes(specs) => self.set_nodes(specs),
            Input::SetConfig(config) => self.config = config,
        }
        self.want(now);
        self.debug_check(now);
    }

    /// Call at [`Self::poll_timeout`], and as often as you like.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.seen = Some(now);
        while let Some(ticket) = self.deadlines.pop_due(now) {
            if self.queues.remove(ticket).is_some() {
                self.outputs
                    .push_back(Output::Refuse(ticket, Refused::TimedOut));
            }
        }
        self.give_up_slow(now);
        self.close_old(now);
        self.want(now);
        self.debug_check(now);
    }

    /// When to call [`Self::handle_timeout`] next. May change after every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.queues.len() > 0;
        let passive = self
            .pending
            .iter()
            .chain(&self.idle)
            .filter_map(|id| self.conns.get(id));
        let conns = passive.filter_map(|c| self.conn_timeout(c, waiting));
        let is_short = waiting || self.config.connect_ahead > 0;
        let rests = self
            .nodes
            .iter()
            .filter(|n| is_short && n.is_member)
            .filter_map(|n| n.resting_until)
            .filter(|t| self.is_ahead(*t));
        self.deadlines
            .next()
            .into_iter()
            .chain(conns)
            .chain(rests)
            .min()
    }

    fn is_ahead(&self, at: Instant) -> bool {
        self.seen.is_none_or(|seen| at > seen)
    }

    fn conn_timeout(&self, conn: &Conn, waiting: bool) -> Option<Instant> {
        let connect_limit = if waiting {
            CONNECT_TIMEOUT_WANTED
        } else {
            CONNECT_TIMEOUT
        };
        match conn.state {
            State::Connecting { since } => Some(
                self.hedge_at(since, waiting)
                    .map_or(since + connect_limit, |t| t.min(since + connect_limit)),
            ),
            State::Verifying { since } => Some(
                self.hedge_at(since, waiting)
                    .map_or(since + VERIFY_TIMEOUT, |t| t.min(since + VERIFY_TIMEOUT)),
            ),
            State::Idle {
                since,
                verified,
                expires,
            } => self.idle_end(since, verified, expires),
            State::Busy => None,
        }
    }

    /// The moment from which a pending connection does not count, if that is still to come and would change anything.
    fn hedge_at(&self, since: Instant, waiting: bool) -> Option<Instant> {
        let at = since + self.config.hedge_after;
        let helps = waiting && !self.config.hedge_after.is_zero() && self.nodes.members() > 1;
        (helps && self.is_ahead(at)).then_some(at)
    }

    /// The next effect, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn ask(&mut self, now: Instant, ticket: Ticket, class: Class) {
        if let Some(conn) = self.take_idle(now) {
            return self.assign(ticket, conn);
        }
        if self.config.queue_max > 0 && self.queues.len() >= self.config.queue_max {
            return self
                .outputs
                .push_back(Output::Refuse(ticket, Refused::QueueFull));
        }
        self.queues.push(ticket, class, now);
        self.set_deadline(now, ticket);
    }

    fn set_deadline(&mut self, now: Instant, ticket: Ticket) {
        if !self.config.queue_timeout.is_zero() {
            self.deadlines
                .insert(ticket, now + self.config.queue_timeout);
        }
    }

    fn forget_ticket(&mut self, ticket: Ticket) {
        if self.queues.remove(ticket).is_some() {
            self.deadlines.remove(&ticket);
        }
    }

    fn assign(&mut self, ticket: Ticket, conn: ConnId) {
        self.set_state(conn, State::Busy);
        let entry = &self.conns[&conn];
        let (node, uses) = (Arc::clone(&entry.node), entry.uses);
        self.nodes.node(&node).counters.requests += 1;
        self.outputs.push_back(Output::Assign {
            ticket,
            conn,
            node,
            uses,
        });
    }

    /// The best idle connection: verified before unverified, most recently used first. Unusable ones on the way are closed.
    fn take_idle(&mut self, now: Instant) -> Option<ConnId> {
        self.close_old(now);
        let is_verified =
            |id: &ConnId| matches!(self.conns[id].state, State::Idle { verified: true, .. });
        let best = self
            .idle
            .iter()
            .rposition(is_verified)
            .or_else(|| self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(best))
    }

    fn close_old(&mut self, now: Instant) {
        let old: Vec<ConnId> = self
            .idle
            .iter()
            .copied()
            .filter(|id| !self.is_usable(now, *id))
            .collect();
        for conn in old {
            self.close(conn);
        }
    }

    fn is_usable(&self, now: Instant, conn: ConnId) -> bool {
        let entry = &self.conns[&conn];
        let State::Idle {
            since,
            verified,
            expires,
        } = entry.state
        else {
            return false;
        };
        let member = self
            .nodes
            .get(&entry.node)
            .is_some_and(|n| n.takes_requests());
        member
            && self
                .idle_end(since, verified, expires)
                .is_none_or(|end| now < end)
    }

    fn idle_end(
        &self,
        since: Instant,
        verified: bool,
        expires: Option<Instant>,
    ) -> Option<Instant> {
        let unverified = (!verified).then(|| since + UNVERIFIED_IDLE_MAX);
        let announced = expires.map(|t| t.checked_sub(EXPIRY_MARGIN).unwrap_or(since));
        let aged = (!self.config.idle_max.is_zero()).then(|| since + self.config.idle_max);
        [unverified, announced, aged].into_iter().flatten().min()
    }

    /// A connection is free: the best waiter gets it, else it becomes idle, else it is closed.
    fn offer(&mut self, now: Instant, conn: ConnId, verified: bool, expires: Option<Instant>) {
        let entry = &self.conns[&conn];
        let is_fresh = entry.uses == 0;
        let takes = self
            .nodes
            .get(&entry.node)
            .is_some_and(|n| n.takes_requests());
        let lasts = expires.is_none_or(|t| now + EXPIRY_MARGIN < t);
        if !takes || !lasts {
            return self.close(conn);
        }
        if let Some((ticket, _, _)) = self.queues.pop(
            self.config.relief_size,
            self.config.relief_percent,
            &mut self.rng,
        ) {
            self.deadlines.remove(&ticket);
            return self.assign(ticket, conn);
        }
        let kept = self.config.connect_ahead + self.config.persist_cache;
        let used_idle = self
            .idle
            .iter()
            .filter(|id| self.conns[*id].uses > 0)
            .count();
        if self.idle.len() >= kept.max(1) || (!is_fresh && used_idle >= self.config.persist_cache) {
            return self.close(conn);
        }
        self.set_state(
            conn,
            State::Idle {
                since: now,
                verified,
                expires,
            },
        );
        self.idle.push(conn);
    }

    /// Gives idle connections to waiting requests; needed only after a request came back.
    fn serve(&mut self, now: Instant) {
        while self.queues.len() > 0 {
            let Some(conn) = self.take_idle(now) else {
                return;
            };
            let popped = self.queues.pop(
                self.config.relief_size,
                self.config.relief_percent,
                &mut self.rng,
            );
            let Some((ticket, _, _)) = popped else { return };
            self.deadlines.remove(&ticket);
            self.assign(ticket, conn);
        }
    }

    /// Node of a connection in the right state; late and doubled reports of the shell are ignored.
    fn node_of(&self, conn: ConnId, expected: fn(State) -> bool) -> Option<Arc<str>> {
        let entry = self.conns.get(&conn).filter(|c| expected(c.state))?;
        Some(Arc::clone(&entry.node))
    }

    fn connected(&mut self, now: Instant, conn: ConnId) {
        let Some(node) = self.node_of(conn, |s| matches!(s, State::Connecting { .. })) else {
            return;
        };
        self.nodes.connected(&node);
        let spared = self
            .nodes
            .node(&node)
            .noverify_until
            .is_some_and(|t| now < t);
        if self.config.verify && !spared {
            self.set_state(conn, State::Verifying { since: now });
            self.outputs.push_back(Output::Verify(conn));
        } else {
            self.offer(now, conn, false, None);
        }
    }

    fn connect_failed(&mut self, now: Instant, conn: ConnId) {
        let Some(node) = self.node_of(conn, |s| matches!(s, State::Connecting { .. })) else {
            return;
        };
        self.nodes.connect_failed(&node, now);
        self.remove(conn);
        if self.config.fail_fast {
            let waiting: Vec<Ticket> = self.queues.tickets().collect();
            for ticket in waiting {
                self.forget_ticket(ticket);
                self.outputs
                    .push_back(Output::Refuse(ticket, Refused::Unreachable));
            }
        }
    }

    fn verified(&mut self, now: Instant, conn: ConnId) {
        let Some(node) = self.node_of(conn, |s| matches!(s, State::Verifying { .. })) else {
            return;
        };
        self.nodes.node(&node).counters.verifies += 1;
        self.offer(now, conn, true, None);
    }

    fn verify_failed(&mut self, now: Instant, conn: ConnId) {
        let Some(node) = self.node_of(conn, |s| matches!(s, State::Verifying { .. })) else {
            return;
        };
        self.nodes.verify_failed(&node, now);
        self.remove(conn);
    }

    fn released(&mut self, now: Instant, conn: ConnId, release: Release) {
        let Some(entry) = self.conns.get_mut(&conn).filter(|c| c.state == State::Busy) else {
            return;
        };
        entry.uses += 1;
        let worn_out = self.config.uses_max > 0 && entry.uses >= self.config.uses_max;
        match release {
            Release::Reusable { expires } if self.config.persist && !worn_out => {
                self.offer(now, conn, true, expires)
            }
            Release::Reusable { .. } | Release::Finished => self.close(conn),
        }
    }

    fn set_nodes(&mut self, specs: Vec<NodeSpec>) {
        self.nodes.set(specs);
        let gone: Vec<ConnId> = self
            .idle
            .iter()
            .copied()
            .filter(|id| {
                !self
                    .nodes
                    .get(&self.conns[id].node)
                    .is_some_and(|n| n.takes_requests())
            })
            .collect();
        for conn in gone {
            self.close(conn);
        }
    }

    fn give_up_slow(&mut self, now: Instant) {
        let waiting = self.queues.len() > 0;
        let connect_limit = if waiting {
            CONNECT_TIMEOUT_WANTED
        } else {
            CONNECT_TIMEOUT
        };
        let slow = |c: &Conn| match c.state {
            State::Connecting { since } => now >= since + connect_limit,
            State::Verifying { since } => now >= since + VERIFY_TIMEOUT,
            State::Idle { .. } | State::Busy => false,
        };
        let slow: Vec<ConnId> = self
            .pending
            .iter()
            .copied()
            .filter(|id| slow(&self.conns[id]))
            .collect();
        for conn in slow {
            let was_connecting = matches!(self.conns[&conn].state, State::Connecting { .. });
            self.outputs.push_back(Output::Close(conn));
            if was_connecting {
                self.connect_failed(now, conn)
            } else {
                self.verify_failed(now, conn)
            }
        }
    }

    /// Starts the connections that are wanted: waiting + ahead − idle − pending.
    fn want(&mut self, now: Instant) {
        let waiting = self.queues.len();
        let hedge_after = self.config.hedge_after;
        let counts = |c: &&Conn| match c.state {
            State::Connecting { since } | State::Verifying { since } => {
                hedge_after.is_zero() || now < since + hedge_after || waiting == 0
            }
            State::Idle { .. } | State::Busy => false,
        };
        let pending = self
            .pending
            .iter()
            .filter_map(|id| self.conns.get(id))
            .filter(counts)
            .count();
        // A connection past hedging age still stands for one waiter once every node has been tried.
        let wanted = (waiting + self.config.connect_ahead)
            .saturating_sub(self.idle.len() + pending)
            .min(CONNECTS_AT_ONCE_MAX);
        for _ in 0..wanted {
            let pending_max = self.config.pending_per_node_max;
            let Some(node) =
                self.nodes
                    .choose(now, self.config.balance, pending_max, &mut self.rng)
            else {
                return;
            };
            let conn = ConnId(self.conn_next);
            self.conn_next += 1;
            let counters = &mut self.nodes.node(&node).counters;
            counters.attempts += 1;
            counters.pending += 1;
            self.conns.insert(
                conn,
                Conn {
                    node: Arc::clone(&node),
                    state: State::Connecting { since: now },
                    uses: 0,
                },
            );
            self.pending.insert(conn);
            self.outputs.push_back(Output::Connect(conn, node));
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.remove(conn);
        self.outputs.push_back(Output::Close(conn));
    }

    /// Forgets a connection that exists no more.
    fn remove(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.remove(&conn) else {
            return;
        };
        self.idle.retain(|id| *id != conn);
        self.pending.remove(&conn);
        let counters = &mut self.nodes.node(&entry.node).counters;
        *count_of(counters, entry.state) -= 1;
        self.nodes.forget_unused();
    }

    fn set_state(&mut self, conn: ConnId, state: State) {
        let entry = self
            .conns
            .get_mut(&conn)
            .expect("the caller knows the connection");
        let counters = &mut self.nodes.node(&entry.node).counters;
        *count_of(counters, entry.state) -= 1;
        *count_of(counters, state) += 1;
        entry.state = state;
        match state {
            State::Connecting { .. } | State::Verifying { .. } => self.pending.insert(conn),
            State::Idle { .. } | State::Busy => self.pending.remove(&conn),
        };
    }
}

fn count_of(counters: &mut NodeCounters, state: State) -> &mut usize {
    match state {
        State::Connecting { .. } | State::Verifying { .. } => &mut counters.pending,
        State::Idle { .. } => &mut counters.idle,
        State::Busy => &mut counters.busy,
    }
}

/// What an operator sees.
impl Dispatcher {
    /// Waiting requests of a class and the age of the oldest.
    #[must_use]
    pub fn queue(&self, class: Class, now: Instant) -> (usize, Duration) {
        (self.queues.count(class), self.queues.age(class, now))
    }

    /// Waiting requests of all classes.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.len()
    }

    /// Idle connections.
    #[must_use]
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// Idle connections by id, for the sweep that finds closed ones.
    #[must_use]
    pub fn idle_conns(&self) -> &[ConnId] {
        &self.idle
    }

    /// Connections of any state.
    #[must_use]
    pub fn conn_count(&self) -> usize {
        self.conns.len()
    }

    /// Connections under way, oldest first.
    #[must_use]
    pub fn pending(&self, now: Instant) -> Vec<Pending> {
        let pending = |c: &Conn| match c.state {
            State::Connecting { since } => Some(Pending {
                node: Arc::clone(&c.node),
                is_verifying: false,
                age: now.saturating_duration_since(since),
            }),
            State::Verifying { since } => Some(Pending {
                node: Arc::clone(&c.node),
                is_verifying: true,
                age: now.saturating_duration_since(since),
            }),
            State::Idle { .. } | State::Busy => None,
        };
        self.pending
            .iter()
            .filter_map(|id| self.conns.get(id))
            .filter_map(pending)
            .collect()
    }

    /// Members of the pool with their counters, by address.
    #[must_use]
    pub fn nodes(&self) -> Vec<(Arc<str>, NodeCounters)> {
        self.nodes
            .iter()
            .filter(|n| n.is_member)
            .map(|n| (Arc::clone(&n.spec.address), n.counters))
            .collect()
    }

    /// Nodes used without verification, with the time left.
    #[must_use]
    pub fn noverify(&self, now: Instant) -> Vec<(Arc<str>, Duration)> {
        let left = |n: &crate::nodes::Node| {
            n.noverify_until
                .filter(|t| *t > now)
                .map(|t| (Arc::clone(&n.spec.address), t - now))
        };
        self.nodes.iter().filter_map(left).collect()
    }

    fn debug_check(&self, now: Instant) {
        if cfg!(debug_assertions) {
            self.check_invariants(now);
        }
    }

    /// What must hold between calls.
    ///
    /// # Panics
    /// When it does not: a bug of this module.
    pub fn check_invariants(&self, now: Instant) {
        self.queues.check_invariants();
        let usable_idle = self.idle.iter().any(|id| self.is_usable(now, *id));
        assert!(
            self.queues.len() == 0 || !usable_idle,
            "a request waits beside an idle connection"
        );
        let idle_states = self
            .conns
            .values()
            .filter(|c| matches!(c.state, State::Idle { .. }))
            .count();
        let pending_states =
            |s: State| matches!(s, State::Connecting { .. } | State::Verifying { .. });
        assert!(
            self.conns
                .iter()
                .all(|(id, c)| pending_states(c.state) == self.pending.contains(id)),
            "the pending set holds the pending connections"
        );
        assert_eq!(
            idle_states,
            self.idle.len(),
            "the idle list holds the idle connections"
        );
        for node in self.nodes.iter() {
            let of_node = |wanted: fn(&State) -> bool| {
                self.conns
                    .values()
                    .filter(|c| c.node == node.spec.address && wanted(&c.state))
                    .count()
            };
            assert_eq!(node.counters.busy, of_node(|s| matches!(s, State::Busy)));
            assert_eq!(
                node.counters.idle,
                of_node(|s| matches!(s, State::Idle { .. }))
            );
            assert_eq!(
                node.counters.pending,
                of_node(|s| matches!(s, State::Connecting { .. } | State::Verifying { .. }))
            );
            assert!(
                node.is_member || node.counters.idle == 0,
                "no idle connection to a node that left"
            );
        }
    }
}
