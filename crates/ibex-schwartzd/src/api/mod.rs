//! The HTTP interface, version 1: who may call, which path is which call.
//!
//! One module per concern: `access` (who may), `jobs` (in, look, change), `once` (inserts that may be repeated), `work` (out and finished), `stream` (jobs as
//! a stream), `control` (pause, cron, failed jobs brought back), `wide` (limits, parents, batches), `settings` (of functions), `queues` (functions, errors,
//! workers), `watching` (events, orders). Paths are documented in `docs/schwartz/protocol.md`.

pub(crate) mod access;
mod control;
mod jobs;
mod once;
mod queues;
mod settings;
mod stream;
mod watching;
mod wide;
mod work;

pub(crate) use jobs::{argument_out, job_in};

use crate::config::Config;
use crate::events::Events;
use crate::held::Leases;
use crate::http::{Refusal, Reply, refuse};
use crate::hub::Hub;
use crate::leading::Seat;
use crate::metrics::Metrics;
use crate::orders::{Order, Orders};
use crate::poke::Poker;
use crate::roster::Roster;
use crate::tls::Tls;
use ::http::{Method, Request};
use arc_swap::ArcSwap;
use hyper::body::Incoming;
use ibex_kit::Kit;
use ibex_schwartz::{Client, FuncCount, Handle, RetryPolicy};
use std::sync::Arc;
use std::time::Instant;

/// Everything a request may need.
pub(crate) struct App {
    pub(crate) client: Client,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leases: Leases,
    pub(crate) events: Events,
    pub(crate) orders: Orders,
    pub(crate) roster: Roster,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) poker: Poker,
    /// With it, TCP connections are encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) config: ArcSwap<Config>,
    pub(crate) depths: ArcSwap<Vec<FuncCount>>,
    pub(crate) kit: Kit,
    pub(crate) seed: u64,
    /// What this daemon is called in the list of workers.
    pub(crate) name: String,
    pub(crate) started: Instant,
    /// This daemon's name as a leader.
    pub(crate) holder: String,
    /// Leading of each database, in their order.
    pub(crate) seats: Vec<Arc<Seat>>,
}

impl App {
    /// The daemon's own policy for failures.
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        crate::upkeep::backoff(self.config.load().max_attempts, self.seed)
    }

    /// Asks the databases for inserts of others at once.
    pub(crate) fn look_now(&self) {
        self.hub.look.notify_waiters();
        self.hub.tick();
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        self.metrics.requests.inc();
        match self.route(request).await {
            Ok(reply) => reply,
            Err(refusal) => refuse(&refusal),
        }
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        let path = request.uri().path().to_owned();
        let segments = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| {
                percent_encoding::percent_decode_str(segment)
                    .decode_utf8()
                    .map_err(|_| Refusal::bad_request("the path is no UTF-8"))
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        access::host(&self.config.load(), &request)?;
        match (request.method(), segments.as_slice()) {
            (&Method::GET, ["healthz"]) => return Ok(crate::http::text("text/plain", "ok\n")),
            (&Method::GET, ["readyz"]) => return Box::pin(self.readyz()).await,
            (&Method::GET, []) => return Ok(crate::dashboard::page()),
            (&Method::GET, ["dashboard.js"]) => return Ok(crate::dashboard::script()),
            (&Method::GET, ["dashboard.css"]) => return Ok(crate::dashboard::style()),
            _ => {}
        }
        if segments.first() == Some(&"plain") {
            return Box::pin(self.plain(&segments, request)).await;
        }
        access::token(&self.config.load(), &request, &segments)?;
        if request.method() != Method::GET {
            access::same_site(&request)?;
        }
        // Each call has a place of its own in memory: a fetch that waits must not be as large as the largest of them.
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["v1", "fetch"]) => Box::pin(self.fetch(request)).await,
            (_, ["v1", "jobs", ..]) => Box::pin(self.jobs(&segments, request)).await,
            (_, ["v1", "workers", ..]) => Box::pin(self.of_workers(&segments, request)).await,
            (_, ["v1", "funcs" | "cron" | "batches", ..]) => {
                Box::pin(self.control(&segments, request)).await
            }
            (&Method::GET, ["v1", "take"]) => self.take(&request),
            (&Method::POST, ["v1", "finish"]) => Box::pin(self.finish_many(request)).await,
            (&Method::GET, ["v1", "errors"]) => Box::pin(self.errors(&request)).await,
            (&Method::GET, ["v1", "databases"]) => Ok(self.databases()),
            (&Method::GET, ["v1", "events"]) => self.watch(&request),
            (&Method::POST, ["v1", "retry"]) => Box::pin(self.retry_failed(request)).await,
            (&Method::POST, ["v1", "poke"]) => {
                self.look_now();
                Ok(crate::http::ok(&serde_json::json!({})))
            }
            (_, ["v1", ..]) => Err(no_call(&request)),
            _ => Err(Refusal::not_found("calls start with /v1/")),
        }
    }

    /// Calls about jobs.
    async fn jobs(
        self: Arc<Self>,
        segments: &[&str],
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        match (request.method(), segments) {
            (&Method::POST, ["v1", "jobs"]) => match once::key(request.headers())? {
                Some(key) => self.insert_once(&key, request).await,
                None => self.insert(request).await,
            },
            (&Method::GET, ["v1", "jobs"]) => self.list(&request).await,
            (&Method::GET, ["v1", "jobs", handle]) => self.status(parse_handle(handle)?).await,
            (&Method::DELETE, ["v1", "jobs", handle]) => self.cancel(parse_handle(handle)?).await,
            (&Method::PATCH, ["v1", "jobs", handle]) => {
                self.change(parse_handle(handle)?, request).await
            }
            (&Method::POST, ["v1", "jobs", handle, "retry"]) => {
                self.retry(&parse_handle(handle)?).await
            }
            (&Method::POST, ["v1", "jobs", handle, op]) => {
                self.finish_one(parse_handle(handle)?, op, request).await
            }
            _ => Err(no_call(&request)),
        }
    }

    /// Calls about workers.
    async fn of_workers(
        self: Arc<Self>,
        segments: &[&str],
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        match (request.method(), segments) {
            (&Method::GET, ["v1", "workers"]) => self.workers().await,
            (&Method::POST, ["v1", "workers", worker, "goodbye"]) => self.goodbye(worker).await,
            (&Method::POST, ["v1", "workers", worker, "quiet"]) => {
                self.order(worker, Some(Order::Quiet)).await
            }
            (&Method::POST, ["v1", "workers", worker, "stop"]) => {
                self.order(worker, Some(Order::Stop)).await
            }
            (&Method::POST, ["v1", "workers", worker, "resume"]) => self.order(worker, None).await,
            _ => Err(no_call(&request)),
        }
    }

    /// Calls about functions and periodic jobs.
    async fn control(
        self: Arc<Self>,
        segments: &[&str],
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        match (request.method(), segments) {
            (&Method::GET, ["v1", "funcs"]) => self.funcs().await,
            (&Method::POST, ["v1", "funcs", func, "pause"]) => self.pause(func, &request).await,
            (&Method::POST, ["v1", "funcs", func, "resume"]) => self.resume(func).await,
            (&Method::POST, ["v1", "funcs", func, "purge"]) => self.purge(func).await,
            (&Method::GET, ["v1", "funcs", func]) => self.func_get(func).await,
            (&Method::PUT, ["v1", "funcs", func]) => self.func_put(func, request).await,
            (&Method::GET, ["v1", "cron"]) => self.cron_list().await,
            (&Method::GET, ["v1", "cron", name]) => self.cron_get(name).await,
            (&Method::PUT, ["v1", "cron", name]) => self.cron_put(name, request).await,
            (&Method::DELETE, ["v1", "cron", name]) => self.cron_delete(name).await,
            (&Method::POST, ["v1", "cron", name, "run"]) => self.cron_run(name).await,
            (&Method::POST, ["v1", "batches"]) => self.batch_make(request).await,
            (&Method::GET, ["v1", "batches"]) => self.batch_list().await,
            (&Method::GET, ["v1", "batches", batch]) => self.batch_get(&parse_handle(batch)?).await,
            (&Method::POST, ["v1", "batches", batch, "close"]) => {
                self.batch_close(&parse_handle(batch)?).await
            }
            _ => Err(no_call(&request)),
        }
    }

    async fn readyz(&self) -> Result<Reply, Refusal> {
        if self.hub.closing.is_cancelled() {
            return Err(Refusal::shutting_down());
        }
        self.client.time().await?;
        Ok(crate::http::text("text/plain", "ok\n"))
    }
}

fn no_call<B>(request: &Request<B>) -> Refusal {
    Refusal::not_found(format!(
        "no call {} {}",
        request.method(),
        request.uri().path()
    ))
}

pub(crate) fn parse_handle(text: &str) -> Result<Handle, Refusal> {
    text.parse()
        .map_err(|error: ibex_schwartz::Error| Refusal::bad_request(error.to_string()))
}
