//! One client connection: a task that owns the socket, writes requests in order and gives each reply to whoever waits for it.
//!
//! Cancel safety lives here. Callers hold only channel ends; a dropped caller leaves its place in the queue of expected replies, so the stream never
//! loses step. A
//! reply that nobody expects, or one of the wrong type, ends the connection: after that nothing on it can be believed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ibex_gearman_proto::{Request, Response, Step, decode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::{Address, Stream};
use crate::config::Config;
use crate::error::Error;
use crate::job::{Cause, Event, Handle};

/// Requests that may wait for the connection's task. Beyond this callers wait; it is a batch, not a store.
const COMMANDS_MAX: usize = 1024;
/// Unwritten bytes at which the task stops taking requests: the socket's buffer and one more of that size.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Free room kept for one read.
const READ_BYTES: usize = 64 << 10;

/// What a caller wants sent.
#[derive(Debug)]
pub(crate) enum Command {
    /// A submission; `watch` is where a foreground job's events go.
    Submit {
        packet: Vec<u8>,
        watch: Option<Watch>,
        created: oneshot::Sender<Result<Handle, Failure>>,
    },
    /// A question with one answer.
    Ask {
        packet: Vec<u8>,
        answer: oneshot::Sender<Result<Response<Bytes>, Failure>>,
    },
}

/// The connection's end of a job.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) cause: Cause,
}

/// How a request failed, before it is known what was asked.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// It never left.
    Unsent(String),
    /// It left and no answer came.
    Unknown(String),
    /// The server's ERROR packet.
    Refused { code: String, text: String },
}

/// A way to the task. The task ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    commands: mpsc::Sender<Command>,
    address: Arc<Address>,
    cut: CancellationToken,
}

impl Link {
    /// Connects and starts the task.
    pub(crate) async fn open(address: &Arc<Address>, config: &Config) -> Result<Self, String> {
        let stream = tokio::time::timeout(config.connect_deadline, address.connect(config))
            .await
            .map_err(|_| format!("no connection within {:?}", config.connect_deadline))?
            .map_err(|error| error.to_string())?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let cut = CancellationToken::new();
        let link = Self {
            commands,
            address: Arc::clone(address),
            cut: cut.clone(),
        };
        let (read, write) = tokio::io::split(stream);
        let mut connection = Connection {
            address: Arc::clone(address),
            read,
            write,
            unread: BytesMut::with_capacity(READ_BYTES),
            out: BytesMut::new(),
            expected: VecDeque::new(),
            watched: BTreeMap::new(),
            packet_bytes_max: config.packet_bytes_max,
            idle_probe: config.idle_probe,
            reply_deadline: config.reply_deadline,
            heard: Instant::now(),
            probed: false,
        };
        if config.exceptions {
            Request::Option {
                name: b"exceptions",
            }
            .encode(&mut connection.out);
            connection.expected.push_back(Expected::Nobody);
        }
        tokio::spawn(connection.run(inbox, cut));
        Ok(link)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.commands.is_closed() || self.cut.is_cancelled()
    }

    pub(crate) fn address(&self) -> &Arc<Address> {
        &self.address
    }

    /// Gives the connection up: something it owes is overdue.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Hands `command` to the task.
    pub(crate) async fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Failure::Unsent("connection closed".into()))
    }
}

#[derive(Debug)]
enum Expected {
    Created {
        watch: Option<Watch>,
        created: oneshot::Sender<Result<Handle, Failure>>,
    },
    Answer(oneshot::Sender<Result<Response<Bytes>, Failure>>),
    /// A reply that only this task wanted.
    Nobody,
}

/// Submissions of this connection that joined one job. The server sends each packet once per submission, all copies in a row: `next` is whose turn it is.
#[derive(Debug, Default)]
struct Watched {
    watches: VecDeque<Watch>,
    next: usize,
}

struct Connection {
    address: Arc<Address>,
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
    unread: BytesMut,
    out: BytesMut,
    expected: VecDeque<Expected>,
    watched: BTreeMap<Bytes, Watched>,
    packet_bytes_max: usize,
    idle_probe: Duration,
    reply_deadline: Duration,
    heard: Instant,
    probed: bool,
}

impl Connection {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, cut: CancellationToken) {
        let reason = self.turn(&mut inbox, &cut).await;
        tracing::debug!(peer = %self.address, error = reason, "job server connection ended");
        inbox.close();
        while let Ok(command) = inbox.try_recv() {
            refuse(command, &Failure::Unsent(reason.clone()));
        }
        for expected in self.expected.drain(..) {
            match expected {
                Expected::Created { created, .. } => {
                    drop(created.send(Err(Failure::Unknown(reason.clone()))))
                }
                Expected::Answer(answer) => {
                    drop(answer.send(Err(Failure::Unknown(reason.clone()))))
                }
                Expected::Nobody => {}
            }
        }
        // Watches end with their senders; each reports a lost connection.
    }

    /// Serves until something ends the connection; says what.
    async fn turn(
        &mut self,
        inbox: &mut mpsc::Receiver<Command>,
        cut: &CancellationToken,
    ) -> String {
        loop {
            let probe_at = self.heard
                + if self.probed {
                    self.idle_probe + self.reply_deadline
                } else {
                    self.idle_probe
                };
            tokio::select! {
                read = self.read.read_buf(&mut self.unread) => match read {
                    Ok(0) => return "closed by the server".into(),
                    Ok(_) => if let Err(reason) = self.take_replies() { return reason },
                    Err(error) => return error.to_string(),
                },
                written = self.write.write_buf(&mut self.out), if !self.out.is_empty() => match written {
                    Ok(0) => return "closed by the server".into(),
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                },
                command = inbox.recv(), if self.out.len() < OUT_BYTES_MAX => {
                    let Some(command) = command else { return "no longer used".into() };
                    self.accept(command);
                    while self.out.len() < OUT_BYTES_MAX && let Ok(command) = inbox.try_recv() {
                        self.accept(command);
                    }
                }
                () = cut.cancelled() => return "a reply is overdue".into(),
                () = tokio::time::sleep_until(probe_at) => {
                    if self.probed {
                        return format!("silent for {:?}", self.heard.elapsed());
                    }
                    self.probed = true;
                    Request::Echo { data: b"probe" }.encode(&mut self.out);
                    self.expected.push_back(Expected::Nobody);
                }
            }
        }
    }

    fn accept(&mut self, command: Command) {
        let (packet, expected) = match command {
            Command::Submit {
                packet,
                watch,
                created,
            } => (packet, Expected::Created { watch, created }),
            Command::Ask { packet, answer } => (packet, Expected::Answer(answer)),
        };
        self.out.extend_from_slice(&packet);
        self.expected.push_back(expected);
    }

    fn take_replies(&mut self) -> Result<(), String> {
        self.heard = Instant::now();
        self.probed = false;
        loop {
            let step = decode_response(&self.unread, self.packet_bytes_max)
                .map_err(|error| error.to_string())?;
            let consumed = match step {
                Step::Need(bytes) => {
                    // Grow with what arrives, never with what is announced.
                    let missing = bytes.saturating_sub(self.unread.len());
                    self.unread
                        .reserve(missing.clamp(READ_BYTES / 8, READ_BYTES));
                    return Ok(());
                }
                Step::Frame { consumed, .. } => consumed,
            };
            let frame = self.unread.split_to(consumed).freeze();
            let Ok(Step::Frame { message, .. }) = decode_response(&frame, self.packet_bytes_max)
            else {
                return Err("a frame changed while it was read".into());
            };
            self.deliver(message.map(|part| frame.slice_ref(part)))?;
        }
    }

    fn deliver(&mut self, response: Response<Bytes>) -> Result<(), String> {
        match response {
            Response::Noop => Ok(()),
            Response::WorkStatus {
                handle,
                numerator,
                denominator,
            } => {
                let event = Event::Status {
                    numerator: leading_number(&numerator),
                    denominator: leading_number(&denominator),
                };
                self.relay(&handle, event);
                Ok(())
            }
            Response::WorkData { handle, data } => {
                self.relay(&handle, Event::Data(data));
                Ok(())
            }
            Response::WorkWarning { handle, data } => {
                self.relay(&handle, Event::Warning(data));
                Ok(())
            }
            Response::WorkComplete { handle, data } => {
                self.relay(&handle, Event::Complete(data));
                Ok(())
            }
            Response::WorkFail { handle } => {
                // COMPAT(gearmand): it ends the handle with a NUL when it turns an exception into WORK_FAIL.
                let text = handle
                    .strip_suffix(b"\0")
                    .map_or(handle.clone(), |text| handle.slice_ref(text));
                self.relay(&text, Event::Fail);
                Ok(())
            }
            Response::WorkException { handle, data } => {
                self.relay(&handle, Event::Exception(data));
                Ok(())
            }
            reply @ (Response::JobCreated { .. }
            | Response::Error { .. }
            | Response::Status { .. }
            | Response::StatusUnique { .. }) => self.answer(reply),
            reply @ (Response::Echo { .. } | Response::Option { .. }) => self.answer(reply),
            Response::NoJob
            | Response::JobAssign { .. }
            | Response::JobAssignUnique { .. }
            | Response::JobAssignAll { .. } => Err("a packet for workers".into()),
        }
    }

    /// Gives a reply to the request it belongs to.
    fn answer(&mut self, reply: Response<Bytes>) -> Result<(), String> {
        let Some(expected) = self.expected.pop_front() else {
            return Err(format!("a reply of type {} nobody asked for", reply.kind()));
        };
        match (expected, reply) {
            (Expected::Created { watch, created }, Response::JobCreated { handle: text }) => {
                if let Some(watch) = watch {
                    self.watched
                        .entry(text.clone())
                        .or_default()
                        .watches
                        .push_back(watch);
                }
                // A dropped caller does not want to know; its watch finds out at the first event.
                drop(created.send(Ok(Handle::new(text, Address::clone(&self.address)))));
                Ok(())
            }
            (Expected::Created { created, .. }, Response::Error { code, text }) => {
                drop(created.send(Err(refused(&code, &text))));
                Ok(())
            }
            (Expected::Created { .. }, other) => {
                Err(format!("a reply of type {} to a submission", other.kind()))
            }
            (Expected::Answer(answer), Response::Error { code, text }) => {
                drop(answer.send(Err(refused(&code, &text))));
                Ok(())
            }
            (Expected::Answer(answer), reply) => {
                drop(answer.send(Ok(reply)));
                Ok(())
            }
            (Expected::Nobody, _) => Ok(()),
        }
    }

    /// Gives a job's event to the submission whose copy it is.
    fn relay(&mut self, handle: &Bytes, event: Event) {
        let Some(watched) = self.watched.get_mut(handle) else {
            return;
        };
        if event.is_end() {
            if let Some(watch) = watched.watches.pop_front() {
                send_event(&watch, handle, &self.address, event);
            }
            if watched.watches.is_empty() {
                self.watched.remove(handle);
            }
            return;
        }
        let count = watched.watches.len();
        if let Some(watch) = watched.watches.get(watched.next) {
            send_event(watch, handle, &self.address, event);
        }
        watched.next = (watched.next + 1).checked_rem(count).unwrap_or(0);
    }
}

fn send_event(watch: &Watch, handle: &Bytes, address: &Address, event: Event) {
    if let Err(mpsc::error::TrySendError::Full(_)) = watch.events.try_send(event) {
        let handle = Handle::new(handle.clone(), address.clone());
        *watch.cause.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Error::Overflow { handle });
    }
}

fn refuse(command: Command, failure: &Failure) {
    match command {
        Command::Submit { created, .. } => drop(created.send(Err(failure.clone()))),
        Command::Ask { answer, .. } => drop(answer.send(Err(failure.clone()))),
    }
}

fn refused(code: &[u8], text: &[u8]) -> Failure {
    Failure::Refused {
        code: String::from_utf8_lossy(code).into_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    }
}

fn leading_number(text: &[u8]) -> u32 {
    ibex_base::ascii::parse_u64_prefix(text)
        .map_or(0, |(value, _)| u32::try_from(value).unwrap_or(u32::MAX))
}
