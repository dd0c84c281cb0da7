//! Connections to trackers and the rules of trying again.
//!
//! Owns the list of trackers, their idle connections and which of them failed lately. Apart from [`crate::client`] because these rules are the same for every
//! command. A connection carries one request at a time; it returns to the idle list only after a complete reply with the right call id, so whatever a timeout
//! leaves in flight dies with its connection.

use crate::config::Config;
use crate::error::Error;
use bytes::BytesMut;
use ibex_mogilefs_proto::line::split_line;
use ibex_mogilefs_proto::{Command, Pairs, Reply, Step};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Longest reply line accepted, in bytes: a thousand keys of the longest kind, escaped, with room.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// Idle connections kept per tracker; more than a process usually has calls at once.
const IDLE_MAX: usize = 32;

/// First pause before asking again when every tracker failed; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest such pause, so that fifteen attempts stay within a few seconds.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Whether a command may be sent again when it is unknown if the first one was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Reads, and commands that only reserve: send it to the next tracker.
    Safely,
    /// Changes: only a failure before the request was written may be tried elsewhere.
    Never,
}

/// The trackers of one cluster.
#[derive(Debug)]
pub struct Trackers {
    trackers: Vec<Tracker>,
    next: AtomicUsize,
    call_id: AtomicU64,
    config: Config,
}

#[derive(Debug)]
struct Tracker {
    address: String,
    state: Mutex<TrackerState>,
}

#[derive(Debug, Default)]
struct TrackerState {
    idle: Vec<Connection>,
    skip_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

/// What one attempt came to.
enum Attempt {
    Reply(Reply),
    /// The request was certainly not read by a tracker.
    NotSent(String),
    /// It may have been carried out.
    Unknown(String),
}

impl Trackers {
    /// The trackers named in `config`, none asked yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let trackers: Vec<Tracker> = config
            .trackers
            .iter()
            .map(|address| Tracker {
                address: address.clone(),
                state: Mutex::default(),
            })
            .collect();
        // Spreads the clients of a fleet over the trackers; quality does not matter.
        let start = RandomState::new().hash_one(0_u8);
        Self {
            next: AtomicUsize::new(usize::try_from(start % 1024).unwrap_or(0)),
            call_id: AtomicU64::new(1),
            trackers,
            config,
        }
    }

    /// Sends `command` and returns the pairs of an `OK`. `wait` bounds one tracker's reply.
    ///
    /// # Errors
    /// [`Error::Refused`] for `ERR`, [`Error::NoTracker`] when nobody answered within the attempts.
    pub async fn call(
        &self,
        command: Command,
        args: Pairs,
        repeat: Repeat,
        wait: Duration,
    ) -> Result<Pairs, Error> {
        let callid = self.call_id.fetch_add(1, Ordering::Relaxed).to_string();
        let mut request = BytesMut::new();
        request.extend_from_slice(command.name().as_bytes());
        request.extend_from_slice(b" ");
        args.with("callid", &callid).encode(&mut request);
        request.extend_from_slice(b"\r\n");

        let mut last = String::from("no tracker configured");
        let mut backoff = BACKOFF_MIN;
        for attempt in 0..self.config.attempts_max {
            if attempt > 0
                && usize::try_from(attempt)
                    .is_ok_and(|attempt| attempt % self.trackers.len().max(1) == 0)
            {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            let Some(tracker) = self.pick() else { break };
            match self
                .attempt(tracker, &request, callid.as_bytes(), wait)
                .await
            {
                Attempt::Reply(Reply::Ok(pairs)) => return Ok(pairs),
                Attempt::Reply(Reply::Err { code, text }) => {
                    return Err(Error::Refused { code, text });
                }
                Attempt::NotSent(reason) => last = format!("{}: {reason}", tracker.address),
                Attempt::Unknown(reason) => {
                    last = format!("{}: {reason}", tracker.address);
                    if repeat == Repeat::Never {
                        break;
                    }
                }
            }
            tracing::debug!(tracker = %tracker.address, command = command.name(), error = %last, "tracker did not answer");
        }
        Err(Error::NoTracker(last))
    }

    /// The next tracker that has not failed lately, or just the next one when all have.
    fn pick(&self) -> Option<&Tracker> {
        let now = Instant::now();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.trackers.len();
        let nth = |offset: usize| {
            self.trackers
                .get((start.wrapping_add(offset)) % count.max(1))
        };
        (0..count)
            .filter_map(nth)
            .find(|tracker| {
                lock(&tracker.state)
                    .skip_until
                    .is_none_or(|until| until <= now)
            })
            .or_else(|| nth(0))
    }

    async fn attempt(
        &self,
        tracker: &Tracker,
        request: &[u8],
        callid: &[u8],
        wait: Duration,
    ) -> Attempt {
        // An idle connection may have been closed by a restarted tracker: every one of them is tried before a fresh one.
        loop {
            let idle = lock(&tracker.state).idle.pop();
            let Some(mut connection) = idle else { break };
            if connection.is_closed() {
                continue;
            }
            return self
                .exchange(tracker, &mut connection, request, callid, wait)
                .await
                .map_or_else(
                    |attempt| attempt,
                    |reply| {
                        self.put_back(tracker, connection);
                        Attempt::Reply(reply)
                    },
                );
        }
        let stream = match timeout(
            self.config.connect_timeout,
            TcpStream::connect(&tracker.address),
        )
        .await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.unreachable(tracker, error.to_string()),
            Err(_) => return self.unreachable(tracker, "connect timed out".into()),
        };
        if let Err(error) = stream.set_nodelay(true) {
            return self.unreachable(tracker, error.to_string());
        }
        let mut connection = Connection {
            stream,
            input: BytesMut::new(),
        };
        match self
            .exchange(tracker, &mut connection, request, callid, wait)
            .await
        {
            Ok(reply) => {
                self.put_back(tracker, connection);
                Attempt::Reply(reply)
            }
            Err(attempt) => attempt,
        }
    }

    async fn exchange(
        &self,
        tracker: &Tracker,
        connection: &mut Connection,
        request: &[u8],
        callid: &[u8],
        wait: Duration,
    ) -> Result<Reply, Attempt> {
        match timeout(wait, connection.exchange(request)).await {
            Ok(Ok(line)) => match Reply::parse(&line) {
                Ok((reply, echoed)) if echoed.as_deref() == Some(callid) => Ok(reply),
                Ok(_) => Err(Attempt::Unknown("reply to another request".into())),
                Err(error) => Err(Attempt::Unknown(error.to_string())),
            },
            Ok(Err(error)) => Err(Attempt::Unknown(error.to_string())),
            Err(_) => {
                self.mark_failed(tracker);
                Err(Attempt::Unknown("reply timed out".into()))
            }
        }
    }

    fn unreachable(&self, tracker: &Tracker, reason: String) -> Attempt {
        self.mark_failed(tracker);
        Attempt::NotSent(reason)
    }

    fn mark_failed(&self, tracker: &Tracker) {
        let mut state = lock(&tracker.state);
        state.skip_until = Some(Instant::now() + self.config.skip_after_failure);
        state.idle.clear();
    }

    fn put_back(&self, tracker: &Tracker, connection: Connection) {
        let mut state = lock(&tracker.state);
        state.skip_until = None;
        if state.idle.len() < IDLE_MAX && connection.input.is_empty() {
            state.idle.push(connection);
        }
    }
}

impl Connection {
    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        self.stream.write_all(request).await?;
        loop {
            let step = split_line(&self.input, REPLY_BYTES_MAX)
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            if let Step::Frame { line, consumed } = step {
                let line = line.to_vec();
                drop(self.input.split_to(consumed));
                return Ok(line);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether the tracker has closed an idle connection, or said something unasked on it.
    fn is_closed(&mut self) -> bool {
        let mut probe = [0_u8; 1];
        match self.stream.try_read(&mut probe) {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
