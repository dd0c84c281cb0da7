//! One client connection: a task that owns the socket, writes requests in order and gives each reply to whoever waits for it.
//!
//! Cancel safety lives here. Callers hold only channel ends; a dropped caller leaves its place in the queue of expected replies, so the stream never
//! loses step. A
//! reply that nobody expects, or one of the wrong type, ends the connection: after that nothing on it can be believed.
//!
//! What only some servers know (`headers`, attaching to jobs) is asked for by OPTION_REQ once the first call needs it; that call waits for the answer, and
//! those behind it do. An older server says no, and the call goes another way or fails with the reason.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ibex_gearman_proto::{Mode, Priority, Request, Response, Step, Submit, decode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::{Address, Stream};
use crate::config::Config;
use crate::error::Error;
use crate::headers::HeaderText;
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
        submission: Box<Submission>,
        watch: Option<Watch>,
        created: oneshot::Sender<Result<Handle, Failure>>,
    },
    /// Joins those who wait for a job.
    Attach {
        handle: Bytes,
        watch: Watch,
        created: oneshot::Sender<Result<Handle, Failure>>,
    },
    /// Asks for a job's state, or how it ended.
    Look {
        handle: Bytes,
        answer: oneshot::Sender<Result<Looked, Failure>>,
    },
    /// A question with one answer.
    Ask {
        packet: Vec<u8>,
        answer: oneshot::Sender<Result<Response<Bytes>, Failure>>,
    },
}

/// A submission that is not bytes yet: what they are depends on what the server knows.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) function: Bytes,
    pub(crate) unique: Bytes,
    pub(crate) workload: Bytes,
    pub(crate) priority: Priority,
    pub(crate) mode: Mode,
    /// Decimal seconds.
    pub(crate) epoch: Option<String>,
    pub(crate) headers: Option<HeaderText>,
}

impl Submission {
    fn encode(&self, out: &mut BytesMut, has_headers: bool) {
        let text = self.headers.as_ref();
        let joined;
        let workload: &[u8] = if has_headers {
            let text = text.map_or(&b""[..], |headers| &headers.text);
            joined = [text, b"\0", &self.workload].concat();
            &joined
        } else {
            &self.workload
        };
        // A server without headers is told of a delay by the start time.
        let otherwise = text.filter(|_| !has_headers).and_then(|h| h.epoch.as_ref());
        let epoch = self.epoch.as_ref().or(otherwise);
        let submit = Submit {
            mode: self.mode,
            epoch: epoch.map(String::as_bytes),
            ..Submit::new(&self.function, &self.unique, workload).priority(self.priority)
        };
        Request::Submit(submit).encode(out);
    }
}

/// What a server said of a job: its STATUS_RES, and the end if that is kept.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) status: Response<Bytes>,
    pub(crate) end: Option<Event>,
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
    /// The server does not know this extension; nothing was sent.
    Unsupported(&'static str),
}

/// What only some servers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feature {
    /// Submissions with headers.
    Headers,
    /// Attaching to jobs, and results that are kept.
    Results,
}

impl Feature {
    /// The options that make it; the last one is the one without which nothing goes. Kept results may be refused to a peer that may wait for jobs.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Headers => &["headers"],
            Self::Results => &["results", "subscribe"],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Results => "results",
        }
    }
}

/// Whether a server knows a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Known {
    #[default]
    Untried,
    Asked {
        answers_left: usize,
    },
    Yes,
    No,
}

/// What follows GET_STATUS, so that its answer is known to be whole.
const FENCE: &[u8] = b"fence";

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
            headers: Known::default(),
            results: Known::default(),
            parked: None,
            packet_bytes_max: config.packet_bytes_max,
            idle_probe: config.idle_probe,
            reply_deadline: config.reply_deadline,
            heard: Instant::now(),
            probed: false,
        };
        for name in config.options() {
            let name = name.as_bytes();
            Request::Option { name }.encode(&mut connection.out);
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
    /// STATUS_RES, behind which the end may come, and then the fence.
    Status {
        handle: Bytes,
        answer: oneshot::Sender<Result<Looked, Failure>>,
    },
    Fence {
        handle: Bytes,
        looked: Box<Looked>,
        answer: oneshot::Sender<Result<Looked, Failure>>,
    },
    Option(Feature),
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
    headers: Known,
    results: Known,
    /// A command that waits for the answer to an option; no other is taken meanwhile.
    parked: Option<Command>,
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
        if let Some(command) = self.parked.take() {
            refuse(command, &Failure::Unsent(reason.clone()));
        }
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
                Expected::Status { answer, .. } | Expected::Fence { answer, .. } => {
                    drop(answer.send(Err(Failure::Unknown(reason.clone()))))
                }
                Expected::Option(_) | Expected::Nobody => {}
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
                command = inbox.recv(), if self.has_room() => {
                    let Some(command) = command else { return "no longer used".into() };
                    self.accept(command);
                    while self.has_room() && let Ok(command) = inbox.try_recv() {
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

    fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX && self.parked.is_none()
    }

    /// Sends a command, once it is known whether the server can do what it needs.
    fn accept(&mut self, command: Command) {
        let Some(feature) = feature_of(&command) else {
            self.send(command);
            return;
        };
        match self.known(feature) {
            Known::Untried => {
                for option in feature.options() {
                    let name = option.as_bytes();
                    Request::Option { name }.encode(&mut self.out);
                    self.expected.push_back(Expected::Option(feature));
                }
                *self.known_mut(feature) = Known::Asked {
                    answers_left: feature.options().len(),
                };
                self.parked = Some(command);
            }
            Known::Asked { .. } => self.parked = Some(command),
            Known::Yes => self.send(command),
            Known::No if can_do_without(&command) => self.send(command),
            Known::No => refuse(command, &Failure::Unsupported(feature.name())),
        }
    }

    fn known(&self, feature: Feature) -> Known {
        match feature {
            Feature::Headers => self.headers,
            Feature::Results => self.results,
        }
    }

    fn known_mut(&mut self, feature: Feature) -> &mut Known {
        match feature {
            Feature::Headers => &mut self.headers,
            Feature::Results => &mut self.results,
        }
    }

    /// One of the answers to a feature's options; the last one decides, and lets the parked command go.
    fn learn(&mut self, feature: Feature, is_known: bool) {
        let Known::Asked { answers_left } = self.known(feature) else {
            return;
        };
        *self.known_mut(feature) = match (answers_left, is_known) {
            (2.., _) => Known::Asked {
                answers_left: answers_left - 1,
            },
            (_, false) => Known::No,
            (_, true) => Known::Yes,
        };
        if answers_left < 2
            && let Some(command) = self.parked.take()
        {
            self.accept(command);
        }
    }

    fn send(&mut self, command: Command) {
        let expected = match command {
            Command::Submit {
                submission,
                watch,
                created,
            } => {
                submission.encode(&mut self.out, self.headers == Known::Yes);
                Expected::Created { watch, created }
            }
            Command::Ask { packet, answer } => {
                self.out.extend_from_slice(&packet);
                Expected::Answer(answer)
            }
            Command::Attach {
                handle,
                watch,
                created,
            } => {
                let request = Request::Attach { handle: &handle };
                request.encode(&mut self.out);
                let watch = Some(watch);
                Expected::Created { watch, created }
            }
            Command::Look { handle, answer } => {
                let request = Request::GetStatus { handle: &handle };
                request.encode(&mut self.out);
                Request::Echo { data: FENCE }.encode(&mut self.out);
                Expected::Status { handle, answer }
            }
        };
        self.expected.push_back(expected);
        if let Some(Expected::Status { .. }) = self.expected.back() {
            // The fence's own place: whoever answers the status moves into it.
            self.expected.push_back(Expected::Nobody);
        }
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
            (Expected::Option(feature), Response::Option { .. }) => {
                self.learn(feature, true);
                Ok(())
            }
            (Expected::Option(feature), Response::Error { .. }) => {
                self.learn(feature, false);
                Ok(())
            }
            (Expected::Option(_), other) => {
                Err(format!("a reply of type {} to an option", other.kind()))
            }
            (Expected::Status { answer, .. }, Response::Error { code, text }) => {
                drop(answer.send(Err(refused(&code, &text))));
                Ok(())
            }
            (Expected::Status { handle, answer }, status @ Response::Status { .. }) => {
                let looked = Box::new(Looked { status, end: None });
                // In the place that was kept behind it.
                if let Some(place) = self.expected.front_mut() {
                    *place = Expected::Fence {
                        handle,
                        looked,
                        answer,
                    };
                }
                Ok(())
            }
            (Expected::Status { .. }, other) => {
                Err(format!("a reply of type {} to GET_STATUS", other.kind()))
            }
            (Expected::Fence { looked, answer, .. }, Response::Echo { .. }) => {
                drop(answer.send(Ok(*looked)));
                Ok(())
            }
            (Expected::Fence { .. }, other) => {
                Err(format!("a reply of type {} to ECHO_REQ", other.kind()))
            }
            (Expected::Nobody, _) => Ok(()),
        }
    }

    /// Gives a job's event to the submission whose copy it is.
    fn relay(&mut self, handle: &Bytes, event: Event) {
        let Some(watched) = self.watched.get_mut(handle) else {
            // Nobody here waits for that job: how it ended belongs to the status that was asked for.
            if let Some(Expected::Fence {
                handle: asked,
                looked,
                ..
            }) = self.expected.front_mut()
                && asked == handle
                && event.is_end()
            {
                looked.end = Some(event);
            }
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
        Command::Submit { created, .. } | Command::Attach { created, .. } => {
            drop(created.send(Err(failure.clone())));
        }
        Command::Look { answer, .. } => drop(answer.send(Err(failure.clone()))),
        Command::Ask { answer, .. } => drop(answer.send(Err(failure.clone()))),
    }
}

/// What the server must know for this command.
fn feature_of(command: &Command) -> Option<Feature> {
    match command {
        Command::Submit { submission, .. } => submission.headers.as_ref().map(|_| Feature::Headers),
        Command::Attach { .. } | Command::Look { .. } => Some(Feature::Results),
        Command::Ask { .. } => None,
    }
}

/// Whether a command may go to a server that does not know its feature.
fn can_do_without(command: &Command) -> bool {
    match command {
        Command::Submit { submission, .. } => submission
            .headers
            .as_ref()
            .is_none_or(|headers| !headers.is_needed),
        Command::Look { .. } => true,
        Command::Attach { .. } | Command::Ask { .. } => false,
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
