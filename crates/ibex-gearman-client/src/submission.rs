//! Submissions as builders: say what differs from the defaults, then `.await`.
//!
//! The three builders share one way to a server ([`Options::send`]): servers in order of preference, the next one only where the retry policy allows.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ibex_gearman_proto::{Mode, Priority, limits};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::config::Retry;
use crate::connection::{Command, Failure, Link, Submission, Watch};
use crate::error::Error;
use crate::headers::{Wishes, rounded_up};
use crate::job::{Cause, EVENTS_MAX, Event, Handle, Job};
use crate::select;

type Outcome<'c, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'c>>;

/// What all submissions can say.
#[derive(Debug, Clone)]
struct Options<'c> {
    client: &'c Client,
    function: Vec<u8>,
    workload: Bytes,
    unique: Bytes,
    priority: Priority,
    retry: Retry,
    reply_deadline: Duration,
    wishes: Wishes,
}

macro_rules! shared_options {
    ($builder:ident) => {
        impl<'c> $builder<'c> {
            /// Joins the job with this key if there is one: same function, same server. `-` takes the workload as the key.
            pub fn unique(mut self, key: impl Into<Bytes>) -> Self {
                self.options.unique = key.into();
                self
            }

            /// Queue on the server. Default normal.
            pub fn priority(mut self, priority: Priority) -> Self {
                self.options.priority = priority;
                self
            }

            /// When this submission may be repeated on another server; the default is the client's.
            pub fn retry(mut self, retry: Retry) -> Self {
                self.options.retry = retry;
                self
            }

            /// How long a server may take to accept the job; the default is the client's.
            pub fn reply_deadline(mut self, deadline: Duration) -> Self {
                self.options.reply_deadline = deadline;
                self
            }

            /// How long a worker may take, instead of what the worker said. Like all of the following it is for servers with headers (ibex-gearmand);
            /// others are not sent the job, unless [`best_effort`](Self::best_effort). Times are whole seconds, rounded up, to a year.
            pub fn job_timeout(mut self, timeout: Duration) -> Self {
                self.options.wishes.timeout = Some(timeout);
                self
            }

            /// The job is given up when no worker took it within that time.
            pub fn ttl(mut self, ttl: Duration) -> Self {
                self.options.wishes.ttl = Some(ttl);
                self
            }

            /// Not handed out before this much time has passed on the server. In the background a server without headers is told by the start time.
            pub fn delay(mut self, delay: Duration) -> Self {
                self.options.wishes.delay = Some(delay);
                self
            }

            /// How often a background job that fails is tried in all, 1 to 1000.
            pub fn attempts(mut self, attempts: u32) -> Self {
                self.options.wishes.attempts = Some(attempts);
                self
            }

            /// Pauses between attempts: the first, and the longest; they double.
            pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
                self.options.wishes.backoff = Some((min, max));
                self
            }

            /// An equal job (function and unique key) that ended well less than this long ago will do: its handle comes, and its result.
            pub fn dedupe(mut self, window: Duration) -> Self {
                self.options.wishes.dedupe = Some(window);
                self
            }

            /// How long the result of a background job is kept for [`Client::result`] and [`Client::outcome`].
            pub fn result_ttl(mut self, ttl: Duration) -> Self {
                self.options.wishes.result_ttl = Some(ttl);
                self
            }

            /// W3C trace context, which the worker gets. Servers without headers drop it.
            pub fn traceparent(mut self, trace: impl Into<Bytes>) -> Self {
                self.options.wishes.trace = Some(trace.into());
                self
            }

            /// A header for the worker; `key` begins with `x-`. Servers without headers drop it.
            pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
                self.options.wishes.free.push((key.into(), value.into()));
                self
            }

            /// A server that does not know headers gets the job without them, instead of [`Error::Unsupported`].
            pub fn best_effort(mut self) -> Self {
                self.options.wishes.is_best_effort = true;
                self
            }
        }
    };
}

/// A foreground submission; `.await` gives a [`Job`].
#[derive(Debug, Clone)]
#[must_use = "a submission is sent when it is awaited"]
pub struct Foreground<'c> {
    options: Options<'c>,
}

/// A background submission; `.await` gives a [`Handle`].
#[derive(Debug, Clone)]
#[must_use = "a submission is sent when it is awaited"]
pub struct Background<'c> {
    options: Options<'c>,
    at: Option<u64>,
}

/// A foreground submission that is waited for; `.await` gives the result.
#[derive(Debug, Clone)]
#[must_use = "a submission is sent when it is awaited"]
pub struct Call<'c> {
    options: Options<'c>,
    deadline: Option<Duration>,
}

shared_options!(Foreground);
shared_options!(Background);
shared_options!(Call);

impl<'c> Foreground<'c> {
    pub(crate) fn new(client: &'c Client, function: &[u8], workload: Bytes) -> Self {
        Self {
            options: Options::new(client, function, workload),
        }
    }
}

impl<'c> Background<'c> {
    pub(crate) fn new(client: &'c Client, function: &[u8], workload: Bytes) -> Self {
        Self {
            options: Options::new(client, function, workload),
            at: None,
        }
    }

    /// Not before this time (whole seconds; SUBMIT_JOB_EPOCH, which always has normal priority).
    pub fn at(mut self, time: SystemTime) -> Self {
        self.at = Some(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        );
        self
    }

    /// Not before this much time has passed, rounded up to whole seconds.
    pub fn after(self, delay: Duration) -> Self {
        self.at(SystemTime::now() + rounded_up(delay))
    }
}

impl<'c> Call<'c> {
    pub(crate) fn new(client: &'c Client, function: &[u8], workload: Bytes) -> Self {
        Self {
            options: Options::new(client, function, workload),
            deadline: None,
        }
    }

    /// How long to wait for the result, from acceptance. Default: for ever.
    pub fn timeout(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl<'c> IntoFuture for Foreground<'c> {
    type Output = Result<Job, Error>;
    type IntoFuture = Outcome<'c, Job>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.options.submit_foreground().await })
    }
}

impl<'c> IntoFuture for Background<'c> {
    type Output = Result<Handle, Error>;
    type IntoFuture = Outcome<'c, Handle>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let epoch = self.at.map(|seconds| seconds.to_string());
            let (handle, _link, _listener) = self
                .options
                .send(Mode::Background, epoch.as_deref())
                .await?;
            Ok(handle)
        })
    }
}

impl<'c> IntoFuture for Call<'c> {
    type Output = Result<Bytes, Error>;
    type IntoFuture = Outcome<'c, Bytes>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let attempts_max = self.options.client.addresses().len().max(2);
            let mut attempt = 1;
            loop {
                let job = self.options.submit_foreground().await?;
                let result = match self.deadline {
                    Some(deadline) => job.complete_within(deadline).await,
                    None => job.complete().await,
                };
                match result {
                    Err(Error::ConnectionLost { .. })
                        if self.options.retry == Retry::Idempotent && attempt < attempts_max =>
                    {
                        attempt += 1
                    }
                    other => return other,
                }
            }
        })
    }
}

/// Both ends of a job's events.
pub(crate) struct Listener {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) cause: Cause,
}

pub(crate) fn listener() -> (Watch, Listener) {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let cause = Arc::new(Mutex::new(None));
    let watch = Watch {
        events: sender,
        cause: Arc::clone(&cause),
    };
    (watch, Listener { events, cause })
}

impl<'c> Options<'c> {
    fn new(client: &'c Client, function: &[u8], workload: Bytes) -> Self {
        Self {
            client,
            function: function.to_vec(),
            workload,
            unique: Bytes::new(),
            priority: Priority::Normal,
            retry: client.config().retry,
            reply_deadline: client.config().reply_deadline,
            wishes: Wishes::default(),
        }
    }

    async fn submit_foreground(&self) -> Result<Job, Error> {
        let (handle, link, listener) = self.send(Mode::Foreground, None).await?;
        let Listener { events, cause } =
            listener.ok_or_else(|| Error::Config("a foreground job without a listener".into()))?;
        Ok(Job {
            handle,
            events,
            cause,
            link,
            ended: false,
        })
    }

    /// Tries the servers in order until one answers.
    async fn send(
        &self,
        mode: Mode,
        epoch: Option<&str>,
    ) -> Result<(Handle, Link, Option<Listener>), Error> {
        let name = self.check()?;
        let headers = self.wishes.text(mode == Mode::Background)?;
        let mut last = None;
        for index in self.order(&name) {
            let submission = Box::new(Submission {
                function: name.clone(),
                unique: self.unique.clone(),
                workload: self.workload.clone(),
                priority: self.priority,
                mode,
                epoch: epoch.map(str::to_owned),
                headers: headers.clone(),
            });
            let (watch, listener) = match mode {
                Mode::Foreground => Some(listener()),
                Mode::Background => None,
            }
            .unzip();
            let error = match self.send_to(index, submission, watch).await {
                Ok((handle, link)) => return Ok((handle, link, listener)),
                Err(error) => error,
            };
            let again = match self.retry {
                Retry::Off => false,
                // Where no worker is, nothing ran.
                Retry::Unsent => error.is_retryable() || error.is_no_workers(),
                Retry::Idempotent => {
                    error.is_retryable() || error.is_no_workers() || error.is_outcome_unknown()
                }
            };
            if !again {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| Error::Config("no job server given".into())))
    }

    async fn send_to(
        &self,
        index: usize,
        submission: Box<Submission>,
        watch: Option<Watch>,
    ) -> Result<(Handle, Link), Error> {
        let link = self.client.link(index).await?;
        let (created, answered) = oneshot::channel();
        let exchange = async {
            link.send(Command::Submit {
                submission,
                watch,
                created,
            })
            .await?;
            answered
                .await
                .unwrap_or_else(|_| Err(Failure::Unknown("connection ended".into())))
        };
        let outcome = tokio::time::timeout(self.reply_deadline, exchange).await;
        let handle = self
            .client
            .outcome_of(&link, "SUBMIT_JOB", self.reply_deadline, outcome)?;
        Ok((handle, link))
    }

    /// The full function name, once everything that goes between separators is known to fit there.
    fn check(&self) -> Result<Bytes, Error> {
        if self.unique.len() > limits::UNIQUE_BYTES_MAX {
            return Err(Error::InvalidArgument(format!(
                "unique key exceeds {} bytes",
                limits::UNIQUE_BYTES_MAX
            )));
        }
        if self.unique.contains(&0) {
            return Err(Error::InvalidArgument("unique key contains NUL".into()));
        }
        if self.workload.len() > self.client.config().packet_bytes_max {
            return Err(Error::InvalidArgument(format!(
                "workload exceeds {} bytes",
                self.client.config().packet_bytes_max
            )));
        }
        self.client.config().full_name(&self.function)
    }

    fn order(&self, name: &[u8]) -> Vec<usize> {
        let key: &[u8] = match &self.unique[..] {
            b"" => return self.client.next_order(),
            b"-" if self.workload.is_empty() => return self.client.next_order(),
            b"-" => &self.workload,
            key => key,
        };
        select::order_for_key(
            self.client.config().hash,
            self.client.addresses(),
            name,
            key,
        )
    }
}
