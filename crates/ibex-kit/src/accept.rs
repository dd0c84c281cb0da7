//! Accepting on the runtime: one loop for every daemon whose connections are tasks.
//!
//! Owns the limit of connections, their entry in `/-/connections`, their end (an operator's wish, the cut of a drain) and the counters of
//! each listener. What is said on a connection is the daemon's.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::config::types::ListenAddr;
use crate::doors::{Bound, Doors};
use crate::listen::{AsyncListener, Listener, Peer, Stream};
use crate::{Connection, Kit, lock};

/// After the kernel refused to accept for a reason that is not the connection's, the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A connection that was accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: Stream,
    /// Who is there.
    pub peer: Peer,
    /// Its entry in `/-/connections`, to tell of traffic and state.
    pub listed: Arc<Connection>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByListener {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    listener: &'static str,
    reason: &'static str,
}

/// `ibex_DAEMON_connections…`, by listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListenerMetrics {
    open: Family<ByListener, Gauge>,
    accepted: Family<ByListener, Counter>,
    rejected: Family<Rejected, Counter>,
}

impl ListenerMetrics {
    pub(crate) fn register(kit: &Kit) -> Self {
        let new = Self::default();
        let short = kit.about().short;
        kit.metrics().with(|registry| {
            registry.register(
                format!("{short}_connections"),
                "Open connections",
                new.open.clone(),
            );
            registry.register(
                format!("{short}_connections_accepted"),
                "Connections accepted",
                new.accepted.clone(),
            );
            registry.register(
                format!("{short}_connections_rejected"),
                "Connections closed at once",
                new.rejected.clone(),
            );
        });
        new
    }
}

/// Counts a connection as open while it lives.
struct Open(Gauge<i64, AtomicI64>);

impl Open {
    fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Bound {
    /// Serves each connection in a task of its own: until its future ends, an operator closes it, or a drain is cut. Accepts until the daemon
    /// drains, and follows `addrs` of reloaded configurations. Over `limits.connections`, connections are closed at once and counted.
    /// Call it inside the runtime.
    pub fn serve<C, S, F>(
        self,
        addrs: impl Fn(&C) -> Vec<ListenAddr> + Send + Sync + 'static,
        service: S,
    ) where
        C: Any,
        S: Fn(Arrival) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let until = self.kit.draining();
        self.serve_until(until, addrs, service);
    }

    /// [`Bound::serve`] that accepts until `until` is cancelled: for a daemon that takes connections while it drains.
    pub fn serve_until<C, S, F>(
        self,
        until: CancellationToken,
        addrs: impl Fn(&C) -> Vec<ListenAddr> + Send + Sync + 'static,
        service: S,
    ) where
        C: Any,
        S: Fn(Arrival) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let acceptors = Acceptors {
            shared: Arc::new(Shared {
                metrics: self.kit.listener_metrics(),
                kit: self.kit.clone(),
                name: self.name,
                service,
            }),
            runtime: Handle::current(),
            until,
            open: Mutex::default(),
        };
        self.follow(addrs, acceptors);
    }
}

struct Shared<S> {
    kit: Kit,
    name: &'static str,
    metrics: ListenerMetrics,
    service: S,
}

/// The running loops, each with the token that ends it.
struct Acceptors<S> {
    shared: Arc<Shared<S>>,
    /// A reload comes from another thread.
    runtime: Handle,
    until: CancellationToken,
    open: Mutex<BTreeMap<String, CancellationToken>>,
}

impl<S> fmt::Debug for Acceptors<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptors")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl<S, F> Doors for Acceptors<S>
where
    S: Fn(Arrival) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    fn open(&self, listener: Listener) {
        let _on_the_runtime = self.runtime.enter();
        let address = listener.address();
        let listener = match listener.into_tokio() {
            Ok(listener) => listener,
            Err(error) => {
                error!(listener = self.shared.name, address = %address, error = %error, "listener cannot be watched");
                return;
            }
        };
        let end = self.until.child_token();
        lock(&self.open).insert(address, end.clone());
        let shared = Arc::clone(&self.shared);
        let (name, until) = ("accept", self.until.clone());
        self.shared
            .kit
            .spawn(name, accept(shared, listener, end, until));
    }

    fn close(&self, address: &str) {
        if let Some(end) = lock(&self.open).remove(address) {
            end.cancel();
        }
    }
}

async fn accept<S, F>(
    shared: Arc<Shared<S>>,
    listener: AsyncListener,
    end: CancellationToken,
    until: CancellationToken,
) where
    S: Fn(Arrival) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => shared.take(stream, peer),
            Err(error) => {
                // The kernel is short of memory, say. It may pass; a listener that is given up does not come back.
                error!(listener = shared.name, address = %listener.address(), error = %error, "connection not accepted");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = end.cancelled() => break,
                }
            }
        }
    }
    // A reload closes this address: who connected in time is served. At a drain the kernel's queue is for the next process.
    while !until.is_cancelled() {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => shared.take(stream, peer),
                Err(_) => return,
            },
            () = std::future::ready(()) => return,
        }
    }
}

impl<S, F> Shared<S>
where
    S: Fn(Arrival) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    fn take(&self, stream: Stream, peer: Peer) {
        let listener = ByListener {
            listener: self.name,
        };
        let limit = usize::try_from(self.kit.common().limits.connections).unwrap_or(usize::MAX);
        if self.kit.connections().count() >= limit {
            let rejected = Rejected {
                listener: self.name,
                reason: "limit",
            };
            self.metrics.rejected.get_or_create(&rejected).inc();
            return;
        }
        self.metrics.accepted.get_or_create(&listener).inc();
        let open = Open::new(self.metrics.open.get_or_create_owned(&listener));
        let listed = Arc::new(self.kit.connections().open(self.name, &peer));
        let (close, cut) = (listed.close_wanted(), self.kit.cut());
        let serving = (self.service)(Arrival {
            stream,
            peer,
            listed: Arc::clone(&listed),
        });
        self.kit.spawn("connection", async move {
            let _counted = (open, listed);
            tokio::select! {
                () = serving => {}
                () = close.cancelled() => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
