//! The HTTP interface, version 1: who may call, which path is which call.
//!
//! One module per concern: `control` (pause, cron, failed jobs brought back), `jobs` (in, look, change), `work` (out and finished), `stream`
//! (jobs as a stream), `wide` (limits, parents, batches), `settings` (of functions), `queues` (functions, errors, workers). Paths are
//! documented in `docs/schwartz/protocol.md`.

mod control;
mod jobs;
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
use ::http::{Method, Request, StatusCode, header};
use arc_swap::ArcSwap;
use hyper::body::Incoming;
use ibex_kit::Kit;
use ibex_schwartz::{Client, FuncCount, Handle, RetryPolicy};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Everything a request may need.
pub(crate) struct App {
    pub(crate) client: Client,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leases: Leases,
    pub(crate) events: Events,
    pub(crate) orders: Orders,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) poker: Poker,
    pub(crate) config: ArcSwap<Config>,
    pub(crate) depths: ArcSwap<Vec<FuncCount>>,
    pub(crate) kit: Kit,
    pub(crate) seed: u64,
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

    /// The bearer token, when one is configured. Compared in constant time.
    fn check_token<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let config = self.config.load();
        if config.token.is_empty() {
            return Ok(());
        }
        let shown = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match shown {
            Some(shown) if bool::from(shown.ct_eq(config.token.reveal().as_bytes())) => Ok(()),
            Some(_) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "wrong token",
            )),
            None => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "a bearer token is needed",
            )),
        }
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        let path = request.uri().path().to_owned();
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| {
                percent_encoding::percent_decode_str(segment)
                    .decode_utf8_lossy()
                    .into_owned()
            })
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (request.method(), segments.as_slice()) {
            (&Method::GET, ["healthz"]) => return Ok(crate::http::text("text/plain", "ok\n")),
            (&Method::GET, ["readyz"]) => return self.readyz().await,
            (&Method::GET, []) => return Ok(crate::dashboard::page()),
            _ => {}
        }
        self.check_token(&request)?;
        if request.method() != Method::GET {
            check_origin(&request)?;
        }
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["v1", "jobs"]) => self.insert(request).await,
            (&Method::GET, ["v1", "jobs"]) => self.list(&request).await,
            (&Method::GET, ["v1", "jobs", handle]) => self.status(parse_handle(handle)?).await,
            (&Method::DELETE, ["v1", "jobs", handle]) => self.cancel(parse_handle(handle)?).await,
            (&Method::PATCH, ["v1", "jobs", handle]) => {
                self.change(parse_handle(handle)?, request).await
            }
            (&Method::POST, ["v1", "fetch"]) => self.fetch(request).await,
            (&Method::GET, ["v1", "take"]) => self.take(&request),
            (&Method::POST, ["v1", "finish"]) => self.finish_many(request).await,
            (&Method::POST, ["v1", "jobs", handle, "retry"]) => {
                self.retry(&parse_handle(handle)?).await
            }
            (&Method::POST, ["v1", "jobs", handle, op]) => {
                self.finish_one(parse_handle(handle)?, op, request).await
            }
            (&Method::GET, ["v1", "errors"]) => self.errors(&request).await,
            (&Method::GET, ["v1", "workers"]) => Ok(self.workers()),
            (&Method::POST, ["v1", "workers", worker, "goodbye"]) => self.goodbye(worker).await,
            (&Method::POST, ["v1", "workers", worker, "quiet"]) => {
                self.order(worker, Some(Order::Quiet))
            }
            (&Method::POST, ["v1", "workers", worker, "stop"]) => {
                self.order(worker, Some(Order::Stop))
            }
            (&Method::POST, ["v1", "workers", worker, "resume"]) => self.order(worker, None),
            (&Method::GET, ["v1", "events"]) => self.watch(&request),
            (&Method::POST, ["v1", "retry"]) => self.retry_failed(request).await,
            (_, ["v1", "funcs" | "cron" | "batches", ..]) => self.control(&segments, request).await,
            (&Method::POST, ["v1", "poke"]) => {
                self.look_now();
                Ok(crate::http::ok(&serde_json::json!({})))
            }
            (_, ["v1", ..]) => Err(no_call(&request)),
            _ => Err(Refusal::not_found("calls start with /v1/")),
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
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting_down",
                "draining",
            ));
        }
        self.client.time().await?;
        Ok(crate::http::text("text/plain", "ok\n"))
    }
}

/// A page of another site must not act through a browser that can reach this port.
fn check_origin<B>(request: &Request<B>) -> Result<(), Refusal> {
    let refusal = || Refusal::new(StatusCode::FORBIDDEN, "forbidden", "cross-site request");
    let value = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    if let Some(site) = value("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        return Err(refusal());
    }
    if let Some(origin) = value("origin") {
        let host = value("host").unwrap_or_default();
        let is_same = origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host);
        if !is_same {
            return Err(refusal());
        }
    }
    Ok(())
}

fn no_call<B>(request: &Request<B>) -> Refusal {
    Refusal::not_found(format!(
        "no call {} {}",
        request.method(),
        request.uri().path()
    ))
}

fn parse_handle(text: &str) -> Result<Handle, Refusal> {
    text.parse()
        .map_err(|error: ibex_schwartz::Error| Refusal::bad_request(error.to_string()))
}
