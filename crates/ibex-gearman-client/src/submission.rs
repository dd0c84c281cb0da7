//! Submissions as builders: say what differs from the defaults, then `.await`.
//!
//! The three builders share one way to a server ([`Options::send`]): servers in order of preference, the next one only where the retry policy allows.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ibex_gearman_proto::{Mode, Priority, Request, Submit, limits};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::config::Retry;
use crate::connection::{Command, Failure, Link, Watch};
use crate::error::Error;
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
        let rounded = Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
        self.at(SystemTime::now() + rounded)
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
struct Listener {
    events: mpsc::Receiver<Event>,
    cause: Cause,
}

fn listener() -> (Watch, Listener) {
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
        let submit = Submit {
            mode,
            epoch: epoch.map(str::as_bytes),
            ..Submit::new(&name, &self.unique, &self.workload).priority(self.priority)
        };
        let mut last = None;
        for index in self.order(&name) {
            let mut packet = Vec::with_capacity(64 + name.len() + self.workload.len());
            Request::Submit(submit).encode(&mut packet);
            let (watch, listener) = match mode {
                Mode::Foreground => Some(listener()),
                Mode::Background => None,
            }
            .unzip();
            let error = match self.send_to(index, packet, watch).await {
                Ok((handle, link)) => return Ok((handle, link, listener)),
                Err(error) => error,
            };
            let again = match self.retry {
                Retry::Off => false,
                Retry::Unsent => error.is_retryable(),
                Retry::Idempotent => error.is_retryable() || error.is_outcome_unknown(),
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
        packet: Vec<u8>,
        watch: Option<Watch>,
    ) -> Result<(Handle, Link), Error> {
        let link = self.client.link(index).await?;
        let (created, answered) = oneshot::channel();
        let exchange = async {
            link.send(Command::Submit {
                packet,
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
            .outcome(&link, "SUBMIT_JOB", self.reply_deadline, outcome)?;
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
