//! What the reactors and the store share: the job server under its lock, the mailboxes, and the one way in which outputs leave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ibex_gearman_core::{ConnId, JobId, JobServer, Output, Reply};
use ibex_gearman_proto::Decoder;
use ibex_kit::{Kit, Listener};
use mio::Waker;
use tokio_util::sync::CancellationToken;

use crate::acl::Acl;
use crate::conn::Socket;
use crate::doors::{Keepalive, Way};
use crate::front::Wire;
use crate::peers::{Origins, Peer, Peers};
use crate::store::{Backlog, Op, Requests};
use crate::tls::Tls;

/// The job server and who is connected to it.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) server: JobServer,
    pub(crate) peers: Peers,
    /// Where requests to the store go; `None` without a store. Under the lock, so that the store sees them in order.
    pub(crate) store: Option<Requests>,
    /// Requests of the HTTP front.
    pub(crate) fronts: BTreeMap<ConnId, Wire>,
    pub(crate) next_front: u32,
}

/// What one thread tells a reactor.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A new connection.
    Accepted {
        socket: Socket,
        peer: Peer,
        is_admin: bool,
    },
    /// A listener to accept from.
    Open(Listener, Way),
    /// The address of a listener to let go.
    Close(String),
    /// A packet for one of its connections.
    Send(ConnId, Reply),
    /// Text for one of its connections.
    Text(ConnId, Bytes),
    /// Jobs that are in the store.
    Stored(Vec<JobId>),
    /// Jobs that are not.
    StoreFailed(Vec<JobId>),
    /// Workloads out of the store; `None` where there is none.
    Fetched(Vec<(JobId, Option<Bytes>)>),
    /// Jobs whose workload could not be read.
    FetchFailed(Vec<JobId>),
}

/// A reactor's inbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    waker: Waker,
}

impl Mailbox {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            mail: Mutex::default(),
            waker,
        }
    }

    pub(crate) fn push(&self, mail: Mail) {
        self.mail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(mail);
    }

    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(error = %error, "a reactor cannot be woken");
        }
    }

    pub(crate) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is for connections, leaving the rest.
    pub(crate) fn take_packets(&self) -> Vec<Mail> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.extract_if(.., |mail| matches!(mail, Mail::Send(..) | Mail::Text(..)))
            .collect()
    }
}

/// Numbers the job server does not know.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) accepted: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) slow_closed: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) http_requests: AtomicU64,
    pub(crate) http_failures: AtomicU64,
    pub(crate) open: AtomicUsize,
}

/// Bounds of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) output_max: usize,
    pub(crate) slow_client_timeout: std::time::Duration,
    /// Connections of one origin; 0 is no bound.
    pub(crate) per_address_max: u32,
    /// When silent peers are probed; `None` never.
    pub(crate) keepalive: Option<Keepalive>,
}

/// What stands between the sockets and the job server.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tls: Option<Tls>,
    pub(crate) acl: Option<Acl>,
}

/// Everything reactors share.
#[derive(Debug)]
pub(crate) struct Shared {
    hub: Mutex<Hub>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) decoder: Decoder,
    pub(crate) bounds: Bounds,
    pub(crate) traffic: Traffic,
    pub(crate) origins: Origins,
    pub(crate) tls: Option<Tls>,
    acl: RwLock<Option<Arc<Acl>>>,
    /// What waits for the store.
    pub(crate) store_backlog: Arc<Backlog>,
    pub(crate) is_stopping: AtomicBool,
    /// Another server has the queue.
    pub(crate) is_queue_lost: AtomicBool,
    /// Listening sockets are to be closed, connections served on.
    pub(crate) is_closing_doors: AtomicBool,
    /// The same for the HTTP front, whose doors are tasks.
    pub(crate) doors_closed: CancellationToken,
    pub(crate) kit: Kit,
}

impl Shared {
    pub(crate) fn new(
        hub: Hub,
        mailboxes: Vec<Mailbox>,
        decoder: Decoder,
        bounds: Bounds,
        store_backlog: Arc<Backlog>,
        access: Access,
        kit: Kit,
    ) -> Self {
        Self {
            hub: Mutex::new(hub),
            mailboxes,
            decoder,
            bounds,
            traffic: Traffic::default(),
            origins: Origins::new(bounds.per_address_max),
            tls: access.tls,
            acl: RwLock::new(access.acl.map(Arc::new)),
            store_backlog,
            is_stopping: AtomicBool::new(false),
            is_queue_lost: AtomicBool::new(false),
            is_closing_doors: AtomicBool::new(false),
            doors_closed: CancellationToken::new(),
            kit,
        }
    }

    /// The job server. Held for one connection's batch, never across a system call.
    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        // A panic under the lock ends the process; until it does, readers of numbers may look.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The access rules; `None` when everybody may do everything.
    pub(crate) fn acl(&self) -> Option<Arc<Acl>> {
        self.acl
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_acl(&self, acl: Option<Acl>) {
        *self.acl.write().unwrap_or_else(PoisonError::into_inner) = acl.map(Arc::new);
    }

    /// Does something with the job server from a thread without connections.
    pub(crate) fn act<R>(&self, work: impl FnOnce(&mut Hub, Instant) -> R) -> R {
        let mut woken = vec![false; self.mailboxes.len()];
        let mut hub = self.hub();
        let result = work(&mut hub, Instant::now());
        hub.pump(self, &mut Nowhere, &mut woken);
        drop(hub);
        for (index, (mailbox, is_woken)) in self.mailboxes.iter().zip(woken).enumerate() {
            // The first one keeps the job server's timers, which may be due earlier now.
            if is_woken || index == 0 {
                mailbox.wake();
            }
        }
        result
    }

    pub(crate) fn wake_all(&self) {
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

/// Where a reactor puts what is for its own connections.
pub(crate) trait Local {
    fn send(&mut self, conn: ConnId, reply: &Reply);
    fn text(&mut self, conn: ConnId, text: &Bytes);
    /// The number of the reactor; `None` for threads without connections.
    fn index(&self) -> Option<usize>;
}

impl Hub {
    /// Takes all outputs to where they belong. Marks the reactors that got mail in `woken`; the caller wakes them once the lock is gone.
    pub(crate) fn pump(&mut self, shared: &Shared, local: &mut impl Local, woken: &mut [bool]) {
        while let Some(output) = self.server.poll_output() {
            self.carry_out(output, shared, local, woken);
        }
    }

    /// The same amid a turn, whose end then pumps.
    pub(crate) fn pump_early(
        &mut self,
        shared: &Shared,
        local: &mut impl Local,
        woken: &mut [bool],
    ) {
        while let Some(output) = self.server.poll_output_early() {
            self.carry_out(output, shared, local, woken);
        }
    }

    /// A caller that is gone, or does not take what it is sent, hears no more; its request ends by that.
    fn send_front(&mut self, conn: ConnId, reply: Reply, waiting_max: usize) {
        if let Some(wire) = self.fronts.get(&conn)
            && !wire.send(reply, waiting_max)
        {
            self.fronts.remove(&conn);
        }
    }

    fn carry_out(
        &mut self,
        output: Output,
        shared: &Shared,
        local: &mut impl Local,
        woken: &mut [bool],
    ) {
        let op = match output {
            Output::Send(conn, reply) => {
                let to = reactor_of(conn);
                if to == FRONT {
                    self.send_front(conn, reply, shared.bounds.output_max);
                } else if Some(to) == local.index() {
                    local.send(conn, &reply);
                } else if let Some(mailbox) = shared.mailboxes.get(to) {
                    mailbox.push(Mail::Send(conn, reply));
                    mark(woken, to);
                }
                return;
            }
            Output::Text(conn, text) => {
                let to = reactor_of(conn);
                if Some(to) == local.index() {
                    local.text(conn, &text);
                } else if let Some(mailbox) = shared.mailboxes.get(to) {
                    mailbox.push(Mail::Text(conn, text));
                    mark(woken, to);
                }
                return;
            }
            Output::Persist(job) => Op::Persist(job),
            Output::Revive(job) => Op::Revive(job),
            Output::Attempt {
                job,
                attempts,
                due_ms,
            } => Op::Attempt {
                job,
                attempts,
                due_ms,
            },
            Output::Forget(job) => Op::Forget(job),
            Output::KeepResult(result) => Op::KeepResult(result),
            Output::ForgetResult(job) => Op::ForgetResult(job),
            Output::Fetch(jobs) => {
                if let Some(store) = &self.store {
                    store.fetch(jobs);
                }
                return;
            }
            Output::KeepSchedule(schedule) => Op::KeepSchedule(schedule),
            Output::RestoreSchedule(schedule) => Op::RestoreSchedule(schedule),
            Output::MoveSchedule {
                function,
                unique,
                next_ms,
            } => Op::MoveSchedule {
                function,
                unique,
                next_ms,
            },
            Output::DropSchedule { function, unique } => Op::DropSchedule { function, unique },
            Output::Bury {
                job,
                attempts,
                reason,
            } => Op::Bury {
                job,
                attempts,
                reason,
            },
        };
        if let Some(store) = &self.store {
            store.push(op);
        }
    }
}

fn mark(woken: &mut [bool], index: usize) {
    if let Some(flag) = woken.get_mut(index) {
        *flag = true;
    }
}

/// For control calls from other threads than reactors: everything goes by mail.
pub(crate) struct Nowhere;

impl Local for Nowhere {
    fn send(&mut self, _: ConnId, _: &Reply) {}

    fn text(&mut self, _: ConnId, _: &Bytes) {}

    fn index(&self) -> Option<usize> {
        None
    }
}

/// Bits of a connection's number: reactor, slot, generation.
const REACTOR_SHIFT: u32 = 56;
const SLOT_SHIFT: u32 = 32;
const SLOT_MASK: u64 = (1 << 24) - 1;

/// In the place of a reactor: requests of the HTTP front.
pub(crate) const FRONT: usize = 0xff;
/// Connections one reactor can have: the slots a connection's number can say.
pub(crate) const SLOTS_MAX: usize = 1 << 24;

pub(crate) fn conn_id(reactor: usize, slot: usize, generation: u32) -> ConnId {
    ConnId((reactor as u64) << REACTOR_SHIFT | (slot as u64) << SLOT_SHIFT | u64::from(generation))
}

pub(crate) fn reactor_of(conn: ConnId) -> usize {
    usize::try_from(conn.0 >> REACTOR_SHIFT).unwrap_or(usize::MAX)
}

pub(crate) fn slot_of(conn: ConnId) -> usize {
    usize::try_from(conn.0 >> SLOT_SHIFT & SLOT_MASK).unwrap_or(usize::MAX)
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn epoch_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
