//! The stream of events, and orders to workers.
//!
//! Apart because both are between people and the daemon: no job is touched.

use super::App;
use crate::http::{Refusal, Reply, ok, query_pairs, stream};
use crate::orders::Order;
use crate::roster::Roster;
use ::http::{Request, StatusCode};
use bytes::Bytes;
use hyper::body::Incoming;
use ibex_schwartz::Error;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// A comment this often tells both sides that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Listeners at once: each costs a place in the ring. Policy: 429.
const LISTENERS_MAX: usize = 100;

impl App {
    /// GET /v1/events: what happens from now on, of one function or of all.
    pub(super) fn watch(self: &Arc<Self>, request: &Request<Incoming>) -> Result<Reply, Refusal> {
        let func = query_pairs(request.uri().query()).remove("func");
        if self.events.count() >= LISTENERS_MAX {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("at most {LISTENERS_MAX} listen at once"),
            ));
        }
        let mut events = self.events.listen();
        let (lines, receiver) = mpsc::channel(16);
        let app = Arc::clone(self);
        self.kit.spawn("events", async move {
            // A first line, so that the listener knows from when on it listens.
            let mut line = Some(Bytes::from_static(b": listening\n\n"));
            loop {
                if let Some(line) = line.take()
                    && lines.send(line).await.is_err()
                {
                    return;
                }
                line = tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => (func.as_ref().is_none_or(|func| *func == event.func))
                            .then(|| event.to_text().into()),
                        Err(RecvError::Lagged(missed)) => {
                            Some(format!("event: missed\ndata: {{\"events\":{missed}}}\n\n").into())
                        }
                        Err(RecvError::Closed) => return,
                    },
                    () = tokio::time::sleep(HEARTBEAT) => Some(Bytes::from_static(b":\n\n")),
                    () = lines.closed() => return,
                    () = app.hub.closing.cancelled() => return,
                };
            }
        });
        Ok(stream("text/event-stream", receiver))
    }

    /// POST /v1/workers/{worker}/quiet, /stop, /resume: kept in the databases, so that every daemon hears of it.
    pub(super) async fn order(&self, worker: &str, order: Option<Order>) -> Result<Reply, Refusal> {
        Roster::check(worker)?;
        let word = order.map_or("", Order::as_str);
        match self.client.want_of_worker(worker, word).await {
            // Without tables of our own it is this daemon's alone.
            Ok(()) | Err(Error::Config(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if !self.orders.set(worker, order) {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "too many workers have orders",
            ));
        }
        let state = order.map_or("running", Order::as_str);
        tracing::info!(worker, state, "worker has an order");
        Ok(ok(&json!({ "worker": worker, "state": state })))
    }
}
