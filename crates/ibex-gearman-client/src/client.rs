//! The client: servers, their connections and backoffs, and the questions one can ask.
//!
//! How a submission travels is in `submission.rs`, what happens on one connection in `connection.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ibex_gearman_proto::{Request, Response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::Address;
use crate::config::{Config, backoff};
use crate::connection::{Command, Failure, Link, Looked};
use crate::error::Error;
use crate::job::{Event, Handle, Job};
use crate::select;
use crate::submission::{Background, Call, Foreground, Listener, listener};

/// What a server knows about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The job exists. A job that ended is not known any more.
    pub is_known: bool,
    /// A worker holds it.
    pub is_running: bool,
    /// Last progress: done.
    pub numerator: u32,
    /// Last progress: of.
    pub denominator: u32,
}

/// What has become of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server knows nothing of it: it never did, or the job has ended and its result is not kept (any more).
    Unknown,
    /// It waits or runs.
    Open(Status),
    /// It has ended, this way.
    Ended(Event),
}

/// Submits jobs and asks about them. A cheap handle: clone it freely.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    addresses: Vec<Address>,
    servers: Vec<Server>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Server {
    address: Arc<Address>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    failures: u32,
    retry_at: Option<Instant>,
    last_error: String,
}

impl Client {
    /// A client of these servers. Nothing is connected yet: the first call does that, so a client may be built before its servers are up.
    ///
    /// # Errors
    /// [`Error::Config`].
    #[expect(
        clippy::unused_async,
        reason = "part of the interface all clients of the family share"
    )]
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let addresses = config.addresses()?;
        let servers = addresses
            .iter()
            .map(|address| Server {
                address: Arc::new(address.clone()),
                state: tokio::sync::Mutex::default(),
            })
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                addresses,
                servers,
                turn: AtomicUsize::new(0),
            }),
        })
    }

    /// Submits a foreground job: `client.submit("f", workload).unique("k").await?` gives a [`Job`](crate::Job).
    pub fn submit(&self, function: impl AsRef<[u8]>, workload: impl Into<Bytes>) -> Foreground<'_> {
        Foreground::new(self, function.as_ref(), workload.into())
    }

    /// Submits a background job: `.await?` gives its [`Handle`]. A durable server answers when the job is on disk.
    pub fn submit_background(
        &self,
        function: impl AsRef<[u8]>,
        workload: impl Into<Bytes>,
    ) -> Background<'_> {
        Background::new(self, function.as_ref(), workload.into())
    }

    /// Submits a foreground job and waits for its result.
    pub fn call(&self, function: impl AsRef<[u8]>, workload: impl Into<Bytes>) -> Call<'_> {
        Call::new(self, function.as_ref(), workload.into())
    }

    /// Runs `function` over `workloads`, at most `concurrency` at once; results in the order of the workloads, each with its own fate.
    pub async fn map<W: Into<Bytes>>(
        &self,
        function: impl AsRef<[u8]>,
        workloads: impl IntoIterator<Item = W>,
        concurrency: usize,
    ) -> Vec<Result<Bytes, Error>> {
        let function = function.as_ref();
        let calls = workloads
            .into_iter()
            .map(|workload| self.call(function, workload).into_future());
        futures_util::stream::iter(calls)
            .buffered(concurrency.max(1))
            .collect()
            .await
    }

    /// What the job's server knows about it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::OutcomeUnknown`], [`Error::Protocol`].
    pub async fn status(&self, handle: &Handle) -> Result<Status, Error> {
        let request = Request::GetStatus {
            handle: handle.as_bytes(),
        };
        self.status_of(self.server_of(handle)?, request).await
    }

    /// Waits for a job that somebody has submitted, usually in the background, as if this client had: its events from now on, and its result. A job that has
    /// ended is there too while its result is kept (`result_ttl` of the server or of the submission).
    ///
    /// # Errors
    /// [`Error::Unsupported`] by the original; [`Error::is_unknown_job`]; and as [`status`](Self::status).
    pub async fn attach(&self, handle: &Handle) -> Result<Job, Error> {
        let link = self.link(self.server_of(handle)?).await?;
        let (watch, Listener { events, cause }) = listener();
        let (created, answered) = oneshot::channel();
        let command = Command::Attach {
            handle: handle.text(),
            watch,
            created,
        };
        let handle = self.exchange(&link, "ATTACH", command, answered).await?;
        Ok(Job {
            handle,
            events,
            cause,
            link,
            ended: false,
        })
    }

    /// Waits for the result of a job that somebody has submitted: [`attach`](Self::attach), then [`Job::complete`].
    ///
    /// # Errors
    /// Of both.
    pub async fn result(&self, handle: &Handle) -> Result<Bytes, Error> {
        self.attach(handle).await?.complete().await
    }

    /// What has become of a job, without waiting for it. Servers that keep no results (the original) never say [`Outcome::Ended`].
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn outcome(&self, handle: &Handle) -> Result<Outcome, Error> {
        let link = self.link(self.server_of(handle)?).await?;
        let (answer, answered) = oneshot::channel();
        let command = Command::Look {
            handle: handle.text(),
            answer,
        };
        let Looked { status, end } = self
            .exchange(&link, "GET_STATUS", command, answered)
            .await?;
        let status = status_in(&status).ok_or_else(|| Error::Protocol {
            server: handle.server().clone(),
            reason: "no status in the answer to GET_STATUS".to_owned(),
        })?;
        Ok(match end {
            Some(end) => Outcome::Ended(end),
            None if status.is_known => Outcome::Open(status),
            None => Outcome::Unknown,
        })
    }

    fn server_of(&self, handle: &Handle) -> Result<usize, Error> {
        let known = self.inner.addresses.iter();
        known
            .clone()
            .position(|address| address == handle.server())
            .ok_or_else(|| {
                Error::InvalidArgument(format!(
                    "handle {handle} is of another server: {}",
                    handle.server()
                ))
            })
    }

    /// What is known about the job with this unique key, on the server where such jobs meet.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn status_unique(
        &self,
        function: impl AsRef<[u8]>,
        unique: impl AsRef<[u8]>,
    ) -> Result<Status, Error> {
        let name = self.config().full_name(function.as_ref())?;
        let order = select::order_for_key(
            self.config().hash,
            &self.inner.addresses,
            &name,
            unique.as_ref(),
        );
        let index = order.first().copied().unwrap_or(0);
        let request = Request::GetStatusUnique {
            unique: unique.as_ref(),
        };
        self.status_of(index, request).await
    }

    /// Asks every server for an echo; the answers in the order of the configuration.
    pub async fn ping(&self) -> Vec<(Address, Result<Duration, Error>)> {
        let probes = (0..self.inner.servers.len()).map(|index| async move {
            let begun = Instant::now();
            let answer = self
                .ask(index, "ECHO_REQ", Request::Echo { data: b"ping" })
                .await;
            (
                self.inner.servers[index].address.as_ref().clone(),
                answer.map(|_| begun.elapsed()),
            )
        });
        futures_util::future::join_all(probes).await
    }

    async fn status_of(&self, index: usize, request: Request<'_>) -> Result<Status, Error> {
        let answer = self.ask(index, "GET_STATUS", request).await?;
        status_in(&answer).ok_or_else(|| Error::Protocol {
            server: self.inner.servers[index].address.as_ref().clone(),
            reason: format!("a reply of type {} to GET_STATUS", answer.kind()),
        })
    }

    async fn ask(
        &self,
        index: usize,
        operation: &'static str,
        request: Request<'_>,
    ) -> Result<Response<Bytes>, Error> {
        let link = self.link(index).await?;
        let mut packet = Vec::new();
        request.encode(&mut packet);
        let (answer, answered) = oneshot::channel();
        let command = Command::Ask { packet, answer };
        self.exchange(&link, operation, command, answered).await
    }

    /// Hands a command to a connection and waits for its answer, no longer than the client's deadline.
    async fn exchange<T>(
        &self,
        link: &Link,
        operation: &'static str,
        command: Command,
        answered: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T, Error> {
        let deadline = self.config().reply_deadline;
        let exchange = async {
            link.send(command).await?;
            answered
                .await
                .unwrap_or_else(|_| Err(Failure::Unknown("connection ended".into())))
        };
        let outcome = tokio::time::timeout(deadline, exchange).await;
        self.outcome_of(link, operation, deadline, outcome)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.inner.addresses
    }

    /// Servers in turn, for jobs without a key.
    pub(crate) fn next_order(&self) -> Vec<usize> {
        select::order_from(
            self.inner.turn.fetch_add(1, Ordering::Relaxed),
            self.inner.servers.len(),
        )
    }

    /// A live connection to a server: the open one, or a new one unless the server is resting after a failure.
    pub(crate) async fn link(&self, index: usize) -> Result<Link, Error> {
        let server = &self.inner.servers[index];
        let unreachable = |reason: &str| Error::Unreachable {
            server: server.address.as_ref().clone(),
            reason: reason.to_owned(),
        };
        let mut state = server.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        state.link = None;
        if state.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(unreachable(&state.last_error));
        }
        match Link::open(&server.address, self.config()).await {
            Ok(link) => {
                *state = State {
                    link: Some(link.clone()),
                    ..State::default()
                };
                Ok(link)
            }
            Err(reason) => {
                state.failures = state.failures.saturating_add(1);
                state.retry_at =
                    Some(Instant::now() + backoff(self.config(), state.failures, jitter()));
                state.last_error.clone_from(&reason);
                Err(unreachable(&reason))
            }
        }
    }

    /// Turns what a connection said into this crate's error. An overdue reply costs the connection: the server is hung or out of step.
    pub(crate) fn outcome_of<T>(
        &self,
        link: &Link,
        operation: &'static str,
        deadline: Duration,
        outcome: Result<Result<T, Failure>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        let server = link.address().as_ref().clone();
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Unsent(reason))) => Err(Error::Unreachable { server, reason }),
            Ok(Err(Failure::Unknown(reason))) => Err(Error::OutcomeUnknown {
                server,
                operation,
                reason,
            }),
            Ok(Err(Failure::Refused { code, text })) => Err(Error::Refused { server, code, text }),
            Ok(Err(Failure::Unsupported(option))) => Err(Error::Unsupported { server, option }),
            Err(_) => {
                link.cut();
                let reason = format!("no reply within {deadline:?}");
                Err(Error::OutcomeUnknown {
                    server,
                    operation,
                    reason,
                })
            }
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other reply means the stream is out of step"
)]
fn status_in(reply: &Response<Bytes>) -> Option<Status> {
    match *reply {
        Response::Status {
            known,
            running,
            numerator,
            denominator,
            ..
        }
        | Response::StatusUnique {
            known,
            running,
            numerator,
            denominator,
            ..
        } => Some(Status {
            is_known: known,
            is_running: running,
            numerator,
            denominator,
        }),
        _ => None,
    }
}

/// Something that differs between clients and between calls: enough to keep retries from marching in step.
pub(crate) fn jitter() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
