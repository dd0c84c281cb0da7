//! The HTTP front of the original: a request is a submission, its answer the job's result.
//!
//! Each request is a client of the job server under a number of its own, without a socket in an event loop: what the job server says to it comes through a
//! channel. When the answer is dropped, because it is whole or because the caller went away, the client leaves. Access rules hold for the caller's address, the
//! name in its certificate, and its bearer token. Not here: managing anything, keeping connections apart from requests.
//!
//! ```text
//!  POST /resize HTTP/1.1          SUBMIT_JOB resize - …             WORK_DATA …, WORK_COMPLETE
//!  ────────────────────► Front ────────────────────► JobServer ────────────────────► the answer's body
//! ```
//!
//! DIFFERS(gearmand): the original answers in HTTP/1.0 and closes; here connections are kept and bodies may be chunked. It takes the path as it stands, query
//! and escapes included; here the function is the path, unescaped. It submits for HEAD, and hangs or hangs up on other methods; here they are 405. A failed
//! job is 200 with it, here 502; a refused submission 200 with the error's code as handle, here a status. A part of the result overwrites the answer's head
//! there, a warning takes the result's place; here parts come before the result and warnings are dropped.

use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ibex_gearman_core::{ConnId, Input, Reply};
use ibex_gearman_proto::{ErrorCode, Mode, Priority, Request as Packet, Submit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::COMPATIBLE_VERSION;
use crate::acl::Identity;
use crate::driver::{FRONT, Shared, conn_id};
use crate::peers::Peer;
use crate::stall::Unstalled;

/// Longest TLS handshake, as at the other listeners.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long answers that are on their way may take once the daemon stops.
const ANSWER_TIME: Duration = Duration::from_millis(500);
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
/// What an answer to a caller says that might have shown a token.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

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
    /// The caller's own bound.
    until: Option<Pin<Box<Sleep>>>,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Self { call, until, .. } = &mut *self;
            let Some(call) = call else {
                return Poll::Ready(None);
            };
            let is_late = |until: &mut Pin<Box<Sleep>>| until.as_mut().poll(context).is_ready();
            if until.as_mut().is_some_and(is_late) {
                self.call = None;
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            }
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
                    return Poll::Ready(Some(Err(io::Error::other("job failed"))));
                }
            }
        }
    }
}

type Answer = Response<Either<Full<Bytes>, Parts>>;

/// Who calls.
#[derive(Debug, Clone)]
struct Caller {
    peer: Peer,
    /// The common name of its certificate.
    name: Option<Vec<u8>>,
}

/// Serves one connection until it ends or the daemon stops.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, addr: SocketAddr, is_tls: bool) {
    let peer = Peer {
        fd: stream.as_raw_fd(),
        addr: Some(addr),
    };
    if let Err(error) = stream.set_nodelay(true) {
        // The connection works without; it may be gone already.
        tracing::debug!(error = %error, "socket options");
    }
    let Some(tls) = shared.tls.as_ref().filter(|_| is_tls) else {
        return talk(&shared, stream, Caller { peer, name: None }).await;
    };
    let stopping = shared.kit.draining();
    let accepting = TlsAcceptor::from(tls.current()).accept(stream);
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE_TIME_MAX, accepting) => accepted,
        () = stopping.cancelled() => return,
    };
    let Ok(Ok(stream)) = accepted else {
        let failed = &shared.traffic.handshakes_failed;
        failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first());
    let name = certificate
        .and_then(|certificate| ibex_tls::common_name(certificate))
        .map(<[u8]>::to_vec);
    talk(&shared, stream, Caller { peer, name }).await;
}

async fn talk<S>(shared: &Arc<Shared>, stream: S, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let addr = caller.peer.addr;
    let caller = Arc::new(caller);
    let service = service_fn(move |request| {
        let (shared, caller) = (Arc::clone(shared), Arc::clone(&caller));
        async move { Ok::<_, Infallible>(answer(&shared, &caller, request).await) }
    });
    // A caller is waited for as long as a slow client is.
    let patience = shared.bounds.slow_client_timeout;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(patience);
    let stream = Unstalled::new(stream, Arc::clone(shared), patience);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let stopping = shared.kit.draining();
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.cancelled() => {
            // What has an answer gets it; who waits for a job does not hold up the end.
            connection.as_mut().graceful_shutdown();
            timeout(ANSWER_TIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(peer = ?addr, error = %error, "connection ended");
    }
}

async fn answer(shared: &Arc<Shared>, caller: &Caller, request: Request<Incoming>) -> Answer {
    let trace = request.headers().get(TRACE).cloned();
    let mut answer = match run(shared, caller, request).await {
        Ok(answer) => answer,
        Err(status) => plain(status, b""),
    };
    let traffic = &shared.traffic;
    traffic.http_requests.fetch_add(1, Ordering::Relaxed);
    if answer.status().is_server_error() {
        traffic.http_failures.fetch_add(1, Ordering::Relaxed);
    }
    let headers = answer.headers_mut();
    if let Ok(server) = HeaderValue::from_str(&format!("Gearman/{COMPATIBLE_VERSION}")) {
        headers.insert(header::SERVER, server);
    }
    if let Some(trace) = trace {
        headers.insert(TRACE, trace);
    }
    if answer.status() == StatusCode::UNAUTHORIZED {
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, CHALLENGE);
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
    /// What the job server takes for headers.
    headers: Vec<u8>,
    token: Option<Bytes>,
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
        let mut wished = Vec::new();
        if let Some(trace) = text(TRACE) {
            ibex_gearman_proto::headers::put(&mut wished, TRACE, trace);
        }
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
            headers: wished,
            token: text(header::AUTHORIZATION.as_str()).and_then(bearer),
        })
    }
}

/// The token in an `Authorization` of the scheme `Bearer`.
fn bearer(value: &[u8]) -> Option<Bytes> {
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| Bytes::copy_from_slice(token.trim_ascii()))
}

const SCHEME: &[u8] = b"Bearer ";

async fn run(
    shared: &Arc<Shared>,
    caller: &Caller,
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
    authorise(shared, caller, &function, &wish)?;
    // One more argument before the data, as for any client that asked for headers.
    let mut data = [&wish.headers[..], b"\0"].concat();
    if has_body {
        read(shared, request.into_body(), &mut data).await?;
    }
    let deadline = wish.timeout.map(|timeout| Instant::now() + timeout);
    let mut call = Call::open(shared, caller.peer);
    submit(&call, &function, &wish, &data);
    drop(data);
    let talking = first_words(&mut call, wish.mode);
    let (handle, last) = match deadline {
        None => talking.await?,
        Some(deadline) => timeout_at(deadline, talking)
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
                until: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
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

/// Whether this caller may submit this. Asked before the body is read.
fn authorise(
    shared: &Shared,
    caller: &Caller,
    function: &[u8],
    wish: &Wish,
) -> Result<(), StatusCode> {
    let Some(acl) = shared.acl() else {
        return Ok(());
    };
    let identity = Identity {
        addr: caller.peer.addr.map(|addr| addr.ip()),
        name: caller.name.clone(),
        token: wish.token.clone().filter(|token| acl.knows(token)),
    };
    let packet = Packet::Submit(Submit::new(function, b"", b""));
    if acl.allows(&identity, &packet) {
        return Ok(());
    }
    shared.traffic.denied.fetch_add(1, Ordering::Relaxed);
    Err(if identity.token.is_none() && acl.has_tokens() {
        StatusCode::UNAUTHORIZED
    } else {
        StatusCode::FORBIDDEN
    })
}

/// Appends a body as it comes.
async fn read(shared: &Shared, mut body: Incoming, data: &mut Vec<u8>) -> Result<(), StatusCode> {
    let bytes_max = shared.decoder.payload_max();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut bytes_left = bytes_max;
    loop {
        let coming = timeout(shared.bounds.slow_client_timeout, body.frame());
        let frame = match coming.await {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame.map_err(|_| StatusCode::BAD_REQUEST)?,
            Err(_) => {
                let closed = &shared.traffic.slow_closed;
                closed.fetch_add(1, Ordering::Relaxed);
                return Err(StatusCode::REQUEST_TIMEOUT);
            }
        };
        // Trailers say nothing here.
        if let Ok(part) = frame.into_data() {
            bytes_left = bytes_left
                .checked_sub(part.len())
                .ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
            data.extend_from_slice(&part);
        }
    }
}

fn submit(call: &Call, function: &[u8], wish: &Wish, data: &[u8]) {
    let submit = Submit {
        priority: wish.priority,
        mode: wish.mode,
        ..Submit::new(function, &wish.unique, data)
    };
    call.shared.act(|hub, now| {
        let option = Packet::Option { name: b"headers" };
        hub.server.handle(now, Input::Packet(call.id, option));
        let packet = Packet::Submit(submit);
        hub.server.handle(now, Input::Packet(call.id, packet));
    });
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
