//! The HTTP front of the original: a request is a submission, its answer the job's result.
//!
//! Each request is a client of the job server under a number of its own, without a socket in an event loop: what the job server says to it comes through a
//! channel. When the answer is dropped, because it is whole or because the caller went away, the client leaves. Not here: managing anything, TLS, keeping
//! connections apart from requests; access rules hold for the caller's address.
//!
//! ```text
//!  POST /resize HTTP/1.1          SUBMIT_JOB resize - …             WORK_DATA …, WORK_COMPLETE
//!  ────────────────────► Front ────────────────────► JobServer ────────────────────► the answer's body
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ibex_gearman_core::{ConnId, Input, Reply};
use ibex_gearman_proto::{ErrorCode, Mode, Priority, Request as Packet, Submit};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::COMPATIBLE_VERSION;
use crate::acl::Identity;
use crate::driver::{FRONT, Shared, conn_id};
use crate::peers::Peer;

/// A request head that takes longer to arrive ends the connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest `X-Gearman-Timeout`.
const TIMEOUT_SECONDS_MAX: u64 = 86_400;
/// What callers are told to wait when the queue is full.
const RETRY_AFTER: &str = "1";

const UNIQUE: &str = "x-gearman-unique";
const BACKGROUND: &str = "x-gearman-background";
const PRIORITY: &str = "x-gearman-priority";
const TIMEOUT: &str = "x-gearman-timeout";
const HANDLE: &str = "x-gearman-job-handle";
const COMMAND: &str = "x-gearman-command";
const TRACE: &str = "traceparent";

/// What an answer is made of.
#[derive(Debug)]
enum Word {
    /// The job's handle.
    Created(Bytes),
    Part(Bytes),
    Complete(Bytes),
    Failed,
    Refused(StatusCode),
}

/// What a packet means for an answer; `None` for those that an answer has no place for.
fn word(reply: Reply) -> Option<Word> {
    match reply {
        Reply::JobCreated { handle } => {
            Some(Word::Created(Bytes::copy_from_slice(handle.as_ref())))
        }
        Reply::WorkData { data, .. } => Some(Word::Part(data)),
        Reply::WorkComplete { data, .. } => Some(Word::Complete(data)),
        Reply::WorkFail { .. } | Reply::WorkException { .. } => Some(Word::Failed),
        Reply::Error { code, .. } => Some(Word::Refused(status_of(&code))),
        Reply::Noop
        | Reply::NoJob
        | Reply::JobAssign { .. }
        | Reply::JobAssignUnique { .. }
        | Reply::JobAssignAll { .. }
        | Reply::WorkStatus { .. }
        | Reply::WorkWarning { .. }
        | Reply::Echo { .. }
        | Reply::Status { .. }
        | Reply::StatusUnique { .. }
        | Reply::Option { .. } => None,
    }
}

impl Word {
    /// Memory it takes while it waits: parts without a byte count too, or a worker could send them without end.
    fn bytes(&self) -> usize {
        let data = match self {
            Self::Part(data) | Self::Complete(data) => data.len(),
            Self::Created(_) | Self::Failed | Self::Refused(_) => 0,
        };
        size_of::<Self>() + data
    }
}

/// Where the job server's packets for one request go.
#[derive(Debug)]
pub(crate) struct Wire {
    sender: UnboundedSender<Word>,
    /// Bytes of data that wait in the channel.
    waiting: Arc<AtomicUsize>,
}

impl Wire {
    /// Hands a packet over; `false` when the caller is gone, or has too much waiting to be served on.
    pub(crate) fn send(&self, reply: Reply, waiting_max: usize) -> bool {
        let Some(word) = word(reply) else {
            return true;
        };
        let before = self.waiting.fetch_add(word.bytes(), Ordering::Relaxed);
        before <= waiting_max && self.sender.send(word).is_ok()
    }
}

/// One request as a client of the job server; it leaves when dropped.
#[derive(Debug)]
struct Call {
    shared: Arc<Shared>,
    id: ConnId,
    words: UnboundedReceiver<Word>,
    waiting: Arc<AtomicUsize>,
}

impl Call {
    fn open(shared: &Arc<Shared>, peer: Peer) -> Self {
        let (sender, words) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let wire = Wire {
            sender,
            waiting: Arc::clone(&waiting),
        };
        let id = shared.act(|hub, now| {
            let number = hub.next_front;
            hub.next_front = number.wrapping_add(1);
            let id = conn_id(FRONT, 0, number);
            hub.fronts.insert(id, wire);
            hub.peers.insert(id, peer);
            hub.server.handle(now, Input::Connected(id));
            id
        });
        Self {
            shared: Arc::clone(shared),
            id,
            words,
            waiting,
        }
    }

    async fn next(&mut self) -> Option<Word> {
        let word = self.words.recv().await;
        self.taken(word.as_ref());
        word
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Word>> {
        let polled = self.words.poll_recv(context);
        if let Poll::Ready(word) = &polled {
            self.taken(word.as_ref());
        }
        polled
    }

    fn taken(&self, word: Option<&Word>) {
        let bytes = word.map_or(0, Word::bytes);
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let id = self.id;
        self.shared.act(|hub, now| {
            hub.fronts.remove(&id);
            hub.peers.remove(&id);
            hub.server.handle(now, Input::Closed(id));
        });
    }
}

/// Parts of a result as they come, and its end.
#[derive(Debug)]
struct Parts {
    first: Option<Bytes>,
    /// `None` once the job has ended.
    call: Option<Call>,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(call) = &mut self.call else {
                return Poll::Ready(None);
            };
            let Poll::Ready(word) = call.poll_next(context) else {
                return Poll::Pending;
            };
            match word {
                Some(Word::Created(_)) => {}
                Some(Word::Part(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Word::Complete(data)) => {
                    self.call = None;
                    return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
                }
                Some(Word::Failed | Word::Refused(_)) | None => {
                    self.call = None;
                    // The head is out: a cut body is what is left to tell of it.
                    return Poll::Ready(Some(Err(std::io::Error::other("job failed"))));
                }
            }
        }
    }
}

type Answer = Response<Either<Full<Bytes>, Parts>>;

/// Serves one connection until it ends or the daemon stops.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, addr: SocketAddr) {
    let peer = Peer {
        fd: stream.as_raw_fd(),
        addr: Some(addr),
    };
    let stopping = shared.kit.draining();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        outcome = connection => {
            if let Err(error) = outcome {
                tracing::debug!(peer = %addr, error = %error, "connection ended");
            }
        }
        () = stopping.cancelled() => {}
    }
}

async fn answer(shared: &Arc<Shared>, peer: Peer, request: Request<Incoming>) -> Answer {
    let trace = request.headers().get(TRACE).cloned();
    let mut answer = match run(shared, peer, request).await {
        Ok(answer) => answer,
        Err(status) => plain(status, b""),
    };
    let headers = answer.headers_mut();
    if let Ok(server) = HeaderValue::from_str(&format!("Gearman/{COMPATIBLE_VERSION}")) {
        headers.insert(header::SERVER, server);
    }
    if let Some(trace) = trace {
        headers.insert(TRACE, trace);
    }
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        let after = HeaderValue::from_static(RETRY_AFTER);
        answer.headers_mut().insert(header::RETRY_AFTER, after);
    }
    answer
}

fn plain(status: StatusCode, body: &[u8]) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::copy_from_slice(body))));
    *answer.status_mut() = status;
    answer
}

/// What the headers of a request say of its job.
#[derive(Debug)]
struct Wish {
    unique: Vec<u8>,
    priority: Priority,
    mode: Mode,
    timeout: Option<Duration>,
    headers: Vec<u8>,
}

impl Wish {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let priority = match text(PRIORITY).map(<[u8]>::to_ascii_lowercase).as_deref() {
            None | Some(b"normal") => Priority::Normal,
            Some(b"high") => Priority::High,
            Some(b"low") => Priority::Low,
            Some(_) => return None,
        };
        let is_background = text(BACKGROUND).is_some_and(|v| v.eq_ignore_ascii_case(b"true"));
        let timeout = match text(TIMEOUT) {
            None => None,
            Some(value) => {
                let seconds = ibex_base::ascii::parse_u64(value)?;
                let is_sane = (1..=TIMEOUT_SECONDS_MAX).contains(&seconds);
                Some(is_sane.then_some(Duration::from_secs(seconds))?)
            }
        };
        let unique = text(UNIQUE).unwrap_or(b"-");
        let trace = text(TRACE).filter(|v| !v.contains(&b';') && !v.contains(&0));
        let trace = trace.map(|trace| [b"traceparent=", trace].concat());
        if unique.contains(&0) {
            return None;
        }
        Some(Self {
            unique: unique.to_vec(),
            priority,
            mode: if is_background {
                Mode::Background
            } else {
                Mode::Foreground
            },
            timeout,
            headers: trace.unwrap_or_default(),
        })
    }
}

async fn run(
    shared: &Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Answer, StatusCode> {
    let function = function_of(request.uri().path()).ok_or(StatusCode::BAD_REQUEST)?;
    let has_body = match *request.method() {
        Method::HEAD if function.is_empty() => return Ok(plain(StatusCode::OK, b"")),
        Method::POST | Method::PUT => true,
        Method::GET => false,
        _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
    };
    if function.is_empty() {
        return Err(StatusCode::NOT_FOUND);
    }
    let wish = Wish::of(request.headers()).ok_or(StatusCode::BAD_REQUEST)?;
    let workload = if has_body {
        read(request.into_body(), shared.decoder.payload_max()).await?
    } else {
        Bytes::new()
    };
    let deadline = wish.timeout.map(|timeout| Instant::now() + timeout);
    let mut call = Call::open(shared, peer);
    submit(&call, &function, &wish, &workload)?;
    let talking = first_words(&mut call, wish.mode);
    let (handle, last) = match deadline {
        None => talking.await?,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), talking)
            .await
            .map_err(|_| StatusCode::GATEWAY_TIMEOUT)??,
    };
    let (command, mut answer) = match last {
        Word::Created(_) => ("JOB_CREATED", plain(StatusCode::OK, b"")),
        Word::Complete(data) => {
            let body = Either::Left(Full::new(data));
            ("WORK_COMPLETE", Response::new(body))
        }
        Word::Part(data) => {
            let parts = Parts {
                first: Some(data),
                call: Some(call),
            };
            ("WORK_DATA", Response::new(Either::Right(parts)))
        }
        Word::Failed => ("WORK_FAIL", plain(StatusCode::BAD_GATEWAY, b"")),
        Word::Refused(status) => return Err(status),
    };
    let headers = answer.headers_mut();
    headers.insert(COMMAND, HeaderValue::from_static(command));
    if let Ok(handle) = HeaderValue::from_bytes(&handle) {
        headers.insert(HANDLE, handle);
    }
    Ok(answer)
}

/// The path without its slash and its escapes.
fn function_of(path: &str) -> Option<Vec<u8>> {
    let path = path.strip_prefix('/')?;
    let function: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    (!function.contains(&0)).then_some(function)
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, StatusCode> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

fn submit(call: &Call, function: &[u8], wish: &Wish, workload: &[u8]) -> Result<(), StatusCode> {
    let shared = &call.shared;
    // One more argument before the data, as for any client that asked for headers.
    let data = [&wish.headers[..], b"\0", workload].concat();
    let submit = Submit {
        priority: wish.priority,
        mode: wish.mode,
        ..Submit::new(function, &wish.unique, &data)
    };
    let packet = Packet::Submit(submit);
    let acl = shared.acl();
    shared.act(|hub, now| {
        let peer = Identity {
            addr: hub
                .peers
                .get(&call.id)
                .and_then(|peer| peer.addr)
                .map(|addr| addr.ip()),
            ..Identity::default()
        };
        if acl.is_some_and(|acl| !acl.allows(&peer, &packet)) {
            shared.traffic.denied.fetch_add(1, Ordering::Relaxed);
            return Err(StatusCode::FORBIDDEN);
        }
        let option = Packet::Option { name: b"headers" };
        hub.server.handle(now, Input::Packet(call.id, option));
        hub.server.handle(now, Input::Packet(call.id, packet));
        Ok(())
    })
}

/// The job's handle, and how the answer begins.
async fn first_words(call: &mut Call, mode: Mode) -> Result<(Bytes, Word), StatusCode> {
    let mut handle = Bytes::new();
    loop {
        let word = call.next().await.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        match word {
            Word::Created(named) if mode == Mode::Foreground => handle = named,
            Word::Created(named) => return Ok((named.clone(), Word::Created(named))),
            Word::Part(_) | Word::Complete(_) | Word::Failed | Word::Refused(_) => {
                return Ok((handle, word));
            }
        }
    }
}

fn status_of(code: &[u8]) -> StatusCode {
    let is = |known: ErrorCode| code == known.as_str().as_bytes();
    if is(ErrorCode::QueueError) || is(ErrorCode::NoWorkers) || is(ErrorCode::RateLimited) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if is(ErrorCode::Unauthorized) {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::BAD_REQUEST
    }
}
