//! The connections to a service's backends: the shell around the core's dispatcher.
//!
//! Owns connecting, verifying, the sockets of idle connections, and handing one to a waiting request. One mutex, held for a
//! few lines and never across an await, guards core and sockets together. What is said over a connection is not its matter.
//!
//! Idle connections have no task: they stay registered with the reactor. When one is taken a read has to say "nothing there";
//! otherwise it is thrown away and the request keeps its place. A sweep finds the others that closed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ibex_perlbal_core::dispatcher::{
    Class, Config, ConnId, Dispatcher, Input, NodeSpec, Output, Refused, Release, Ticket,
};
use ibex_perlbal_proto::framing::{self, BodyReader, ResponseBody, Step};
use ibex_perlbal_proto::head::{Limits, ResponseParser};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tracing::debug;

use crate::nodes::NodeBook;
use crate::socket::{self, Wire};

/// Closed idle connections are found within this time.
const SWEEP: Duration = Duration::from_secs(1);
/// Body of an answer to OPTIONS that is read and dropped; more than this and the connection is not worth it.
const VERIFY_BODY_MAX: u64 = 64 * 1024;

/// What the shell needs to know beside the core's configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verify {
    /// The OPTIONS request as sent.
    pub(crate) request: String,
}

/// See the module.
pub(crate) struct Upstream {
    inner: Mutex<Inner>,
    wake: Notify,
    verify: ArcSwap<Verify>,
    book: Arc<NodeBook>,
}

struct Inner {
    core: Dispatcher,
    tickets: HashMap<Ticket, Waiting>,
    ticket_next: u64,
    wires: HashMap<ConnId, Wire>,
    tasks: HashMap<ConnId, AbortHandle>,
    armed: Option<Instant>,
}

struct Waiting {
    class: Class,
    sender: oneshot::Sender<Result<Lease, Refused>>,
}

/// A connection lent to one request. Dropped, the connection closes; [`Lease::give_back`] keeps it.
pub(crate) struct Lease {
    wire: Option<Wire>,
    conn: ConnId,
    pub(crate) node: Arc<str>,
    /// Requests it has served before.
    pub(crate) uses: u64,
    upstream: Arc<Upstream>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("conn", &self.conn)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn wire(&mut self) -> &mut Wire {
        self.wire
            .as_mut()
            .expect("a lease has its connection until it is given back")
    }

    /// The response is completely read and the connection may serve another request.
    pub(crate) fn give_back(mut self, expires: Option<Instant>) {
        let Some(mut wire) = self.wire.take() else {
            return;
        };
        if wire.buffer.is_empty() {
            wire.buffer = bytes::BytesMut::new();
        }
        let upstream = Arc::clone(&self.upstream);
        upstream.with(|inner| {
            inner.wires.insert(self.conn, wire);
            inner.core.handle(
                Instant::now(),
                Input::Released(self.conn, Release::Reusable { expires }),
            );
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.wire.take().is_some() {
            let upstream = Arc::clone(&self.upstream);
            upstream.with(|inner| {
                inner.core.handle(
                    Instant::now(),
                    Input::Released(self.conn, Release::Finished),
                )
            });
        }
    }
}

/// Takes a ticket out of the queue when its request is given up.
struct Ticketed {
    ticket: Ticket,
    upstream: Arc<Upstream>,
}

impl Drop for Ticketed {
    fn drop(&mut self) {
        self.upstream.with(|inner| {
            if inner.tickets.remove(&self.ticket).is_some() {
                inner
                    .core
                    .handle(Instant::now(), Input::Cancel(self.ticket));
            }
        });
    }
}

impl Upstream {
    pub(crate) fn new(book: Arc<NodeBook>, seed: u64) -> Arc<Self> {
        let inner = Inner {
            core: Dispatcher::new(Config::default(), seed),
            tickets: HashMap::new(),
            ticket_next: 0,
            wires: HashMap::new(),
            tasks: HashMap::new(),
            armed: None,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            wake: Notify::new(),
            verify: ArcSwap::default(),
            book,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something in the core and performs what it asks for.
    fn with(self: &Arc<Self>, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        let returned = self.perform(&mut inner);
        let next = inner.core.poll_timeout();
        if next.is_some_and(|n| inner.armed.is_none_or(|a| n < a)) {
            inner.armed = next;
            self.wake.notify_one();
        }
        drop(inner);
        // Leases nobody waits for any more go back outside of the lock, since going back takes it.
        drop(returned);
    }

    fn perform(self: &Arc<Self>, inner: &mut Inner) -> Vec<Lease> {
        let mut unwanted = Vec::new();
        while let Some(output) = inner.core.poll_output() {
            match output {
                Output::Connect(conn, node) => self.start_connect(inner, conn, node),
                Output::Verify(conn) => self.start_verify(inner, conn),
                Output::Assign {
                    ticket,
                    conn,
                    node,
                    uses,
                } => unwanted.extend(self.assign(inner, ticket, conn, node, uses)),
                Output::Refuse(ticket, why) => {
                    if let Some(waiting) = inner.tickets.remove(&ticket) {
                        // A request that is gone does not mind.
                        let _ignored = waiting.sender.send(Err(why)).is_ok();
                    }
                }
                Output::Close(conn) => {
                    inner.wires.remove(&conn);
                    if let Some(task) = inner.tasks.remove(&conn) {
                        task.abort();
                    }
                }
            }
        }
        unwanted
    }

    fn assign(
        self: &Arc<Self>,
        inner: &mut Inner,
        ticket: Ticket,
        conn: ConnId,
        node: Arc<str>,
        uses: u64,
    ) -> Option<Lease> {
        let class = inner
            .tickets
            .get(&ticket)
            .map_or(Class::Normal, |w| w.class);
        let mut wire = inner.wires.remove(&conn);
        if wire.as_mut().is_none_or(Wire::is_spoiled) {
            inner
                .core
                .handle(Instant::now(), Input::Stale(conn, ticket, class));
            return None;
        }
        let lease = Lease {
            wire,
            conn,
            node,
            uses,
            upstream: Arc::clone(self),
        };
        match inner.tickets.remove(&ticket) {
            Some(waiting) => waiting.sender.send(Ok(lease)).err().and_then(Result::ok),
            None => Some(lease),
        }
    }

    fn start_connect(self: &Arc<Self>, inner: &mut Inner, conn: ConnId, node: Arc<str>) {
        self.book.attempted(&node);
        let upstream = Arc::clone(self);
        let task = tokio::spawn(async move {
            let connected = socket::connect(&node).await;
            upstream.with(|inner| {
                // No handle any more: the dispatcher has given this connection up.
                if inner.tasks.remove(&conn).is_none() {
                    return;
                }
                match connected {
                    Ok(socket) => {
                        upstream.book.connected(&node);
                        inner.wires.insert(conn, Wire::new(socket));
                        inner.core.handle(Instant::now(), Input::Connected(conn));
                    }
                    Err(error) => {
                        debug!(node = %node, %error, "connect to backend failed");
                        inner
                            .core
                            .handle(Instant::now(), Input::ConnectFailed(conn));
                    }
                }
            });
        });
        inner.tasks.insert(conn, task.abort_handle());
    }

    fn start_verify(self: &Arc<Self>, inner: &mut Inner, conn: ConnId) {
        let Some(mut wire) = inner.wires.remove(&conn) else {
            return inner.core.handle(Instant::now(), Input::VerifyFailed(conn));
        };
        let upstream = Arc::clone(self);
        let verify = self.verify.load_full();
        let task = tokio::spawn(async move {
            let verified = verify_wire(&mut wire, &verify.request).await.is_some();
            upstream.with(|inner| {
                if inner.tasks.remove(&conn).is_none() {
                    return;
                }
                if verified {
                    inner.wires.insert(conn, wire);
                    inner.core.handle(Instant::now(), Input::Verified(conn));
                } else {
                    inner.core.handle(Instant::now(), Input::VerifyFailed(conn));
                }
            });
        });
        inner.tasks.insert(conn, task.abort_handle());
    }

    /// Waits for a connection. Dropping the future gives the place in the queue up.
    pub(crate) async fn ask(self: &Arc<Self>, class: Class) -> Result<Lease, Refused> {
        let (sender, receiver) = oneshot::channel();
        let mut ticket = Ticket(0);
        self.with(|inner| {
            inner.ticket_next += 1;
            ticket = Ticket(inner.ticket_next);
            inner.tickets.insert(ticket, Waiting { class, sender });
            inner.core.handle(Instant::now(), Input::Ask(ticket, class));
        });
        let guard = Ticketed {
            ticket,
            upstream: Arc::clone(self),
        };
        let answer = receiver.await;
        drop(guard);
        answer.unwrap_or(Err(Refused::Unreachable))
    }

    pub(crate) fn configure(
        self: &Arc<Self>,
        config: Config,
        nodes: Vec<NodeSpec>,
        verify: Verify,
    ) {
        self.verify.store(Arc::new(verify));
        self.with(|inner| {
            inner.core.handle(Instant::now(), Input::SetConfig(config));
            inner.core.handle(Instant::now(), Input::SetNodes(nodes));
        });
    }

    /// Keeps time for the dispatcher until dropped.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        loop {
            let (due, has_idle) = {
                let mut inner = self.lock();
                inner.armed = inner.core.poll_timeout();
                (inner.armed, inner.core.idle_count() > 0)
            };
            let sweep = has_idle.then(|| Instant::now() + SWEEP);
            let Some(until) = due.into_iter().chain(sweep).min() else {
                self.wake.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => self.with(|inner| {
                    sweep_idle(inner);
                    inner.core.handle_timeout(Instant::now());
                }),
                () = self.wake.notified() => {}
            }
        }
    }

    /// Something about the core, for the operator.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Dispatcher, Instant) -> R) -> R {
        look(&self.lock().core, Instant::now())
    }
}

fn sweep_idle(inner: &mut Inner) {
    for conn in inner.core.idle_conns().to_vec() {
        if inner.wires.get_mut(&conn).is_none_or(Wire::is_spoiled) {
            inner.wires.remove(&conn);
            inner.core.handle(Instant::now(), Input::Lost(conn));
        }
    }
}

/// Sends OPTIONS; `Some` when the answer proves that a process has accepted the connection and keeps it.
async fn verify_wire(wire: &mut Wire, request: &str) -> Option<()> {
    wire.socket
        .write_all(request.as_bytes(), Duration::from_secs(60))
        .await
        .ok()?;
    let mut parser = ResponseParser::default();
    let response = loop {
        if wire.fill().await.ok()? == 0 {
            return None;
        }
        if let Some(response) = parser.parse(&mut wire.buffer, &Limits::default()).ok()? {
            break response;
        }
    };
    let (body, keeps) = framing::response_body(&response, false).ok()?;
    if !keeps || matches!(body, ResponseBody::Length(n) if n > VERIFY_BODY_MAX) {
        return None;
    }
    let mut reader = BodyReader::for_response(body, 4096);
    let mut dropped = 0;
    loop {
        match reader.next(&mut wire.buffer).ok()? {
            Step::End => return wire.buffer.is_empty().then_some(()),
            Step::Data(data) => dropped += data.len() as u64,
            Step::Need if wire.fill().await.ok()? == 0 => return None,
            Step::Need => {}
        }
        if dropped > VERIFY_BODY_MAX {
            return None;
        }
    }
}

/// Upstreams of single targets, for reproxied URLs, made when first needed.
#[derive(Default)]
pub(crate) struct Targets {
    by_address: Mutex<BTreeMap<String, Target>>,
}

struct Target {
    upstream: Arc<Upstream>,
    last_failure: Option<Instant>,
    last_use: Instant,
    keeper: AbortHandle,
}

/// A target that failed is tried last for this long.
const TARGET_SHUNNED: Duration = Duration::from_secs(5);
/// Idle connections to a target are kept this long.
const TARGET_IDLE_MAX: Duration = Duration::from_secs(5);
/// A target nobody asked for is forgotten after this long.
const TARGET_FORGOTTEN: Duration = Duration::from_secs(60);

impl Targets {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Target>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn upstream(
        &self,
        address: &str,
        connections_max: usize,
        book: &Arc<NodeBook>,
    ) -> Arc<Upstream> {
        let mut targets = self.lock();
        let now = Instant::now();
        let idle_for = |t: &Target| now.saturating_duration_since(t.last_use);
        let busy = |t: &Target| {
            t.upstream
                .look(|core, _| core.conn_count() + core.waiting())
                > 0
        };
        targets.retain(|_, t| {
            let kept = idle_for(t) < TARGET_FORGOTTEN || busy(t);
            if !kept {
                t.keeper.abort();
            }
            kept
        });
        let target = targets.entry(address.to_owned()).or_insert_with(|| {
            let upstream = Upstream::new(Arc::clone(book), u64::from(std::process::id()));
            let config = Config {
                persist: true,
                persist_cache: usize::MAX / 4,
                fail_fast: true,
                idle_max: TARGET_IDLE_MAX,
                pending_per_node_max: 8,
                hedge_after: Duration::ZERO,
                ..Config::default()
            };
            upstream.configure(
                config,
                vec![NodeSpec {
                    connections_max,
                    ..NodeSpec::new(address)
                }],
                Verify::default(),
            );
            let keeper = tokio::spawn(Arc::clone(&upstream).keep_time()).abort_handle();
            Target {
                upstream,
                last_failure: None,
                last_use: now,
                keeper,
            }
        });
        target.last_use = now;
        Arc::clone(&target.upstream)
    }

    pub(crate) fn failed(&self, address: &str) {
        if let Some(target) = self.lock().get_mut(address) {
            target.last_failure = Some(Instant::now());
        }
    }

    pub(crate) fn is_shunned(&self, address: &str) -> bool {
        self.lock()
            .get(address)
            .and_then(|t| t.last_failure)
            .is_some_and(|t| t.elapsed() < TARGET_SHUNNED)
    }

    /// Address with connecting, idle, waiting and all connections.
    pub(crate) fn overview(&self) -> Vec<(String, [usize; 4])> {
        let count = |t: &Target| {
            t.upstream.look(|core, now| {
                [
                    core.pending(now).len(),
                    core.idle_count(),
                    core.waiting(),
                    core.conn_count(),
                ]
            })
        };
        self.lock()
            .iter()
            .map(|(a, t)| (a.clone(), count(t)))
            .collect()
    }
}
