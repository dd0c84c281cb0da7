//! One client connection: requests in, one after the other, responses out.
//!
//! Owns reading heads and bodies under the limits of the service, keep-alive, small answers and the orderly close. Apart
//! from the roles, which decide what the answer is. One task per connection; a request's whole life happens in it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ibex_kit::{Peer, Stream};
use ibex_perlbal_proto::forward::{ClientBody, HeaderChange, ResponsePolicy, response_head};
use ibex_perlbal_proto::framing::{self, BodyReader, RequestBody, Step};
use ibex_perlbal_proto::head::{Fields, Refusal, Request, RequestParser, Version};
use ibex_perlbal_proto::reply::{reason, small_body};

use crate::balancer::Balancer;
use crate::model::Settings;
use crate::registry::{ClientInfo, State};
use crate::service::Service;
use crate::socket::{Socket, Wire};

/// After an answer that ends the connection, this much of what the client still sends is read and dropped, so that the
/// client sees the answer and no reset.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// And for this long.
const LINGER: Duration = Duration::from_secs(1);
/// An unread request body is dropped for this long before the connection is closed instead.
const DISCARD: Duration = Duration::from_secs(2);
/// Body rates are judged after this long.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// The connection is of no more use: nothing can be said on it any more, or must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Why a request body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The client is gone.
    Gone,
    /// The client gets this answer and the connection closes.
    Refused(Refusal),
}

/// A client connection.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) balancer: Arc<Balancer>,
    pub(crate) ip: IpAddr,
    pub(crate) info: Arc<ClientInfo>,
    parser: RequestParser,
    requests: u64,
}

/// One request on its way.
pub(crate) struct Turn {
    pub(crate) request: Request,
    pub(crate) body: RequestBody,
    reader: BodyReader,
    is_body_read: bool,
    owes_continue: bool,
    pub(crate) body_received: u64,
    pub(crate) started: Instant,
    /// Settings of the service the client is connected to; its timeouts and persistence count.
    pub(crate) entry: Arc<Settings>,
    /// The connection lives on after this response.
    pub(crate) keep: bool,
    /// A plugin has put the request into the low class.
    pub(crate) is_low: bool,
    /// Header changes of selectors passed on the way.
    pub(crate) changes: Vec<HeaderChange>,
    /// Status sent, for the counters.
    pub(crate) status: u16,
}

/// A small answer of our own.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<String>,
}

impl Reply {
    /// The original's small HTML answer.
    pub(crate) fn small(status: u16, message: &str) -> Self {
        Self {
            status,
            body: small_body(status, message).into(),
            content_type: Some("text/html".to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    balancer: Arc<Balancer>,
    service: Arc<Service>,
    stream: Stream,
    peer: Peer,
) {
    let socket = Socket::from(stream);
    let ip = peer
        .ip()
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .to_canonical();
    let info = balancer
        .clients
        .open(&service.name, &peer.to_string(), &socket);
    let mut client = Client {
        wire: Wire::new(socket),
        balancer,
        ip,
        info,
        parser: RequestParser::default(),
        requests: 0,
    };
    let (deadline, now) = (client.balancer.kit.cut(), client.balancer.cut.clone());
    tokio::select! {
        () = client.run(&service) => {}
        () = deadline.cancelled() => {}
        () = now.cancelled() => {}
    }
    client.balancer.clients.close(client.info.id);
    service.client_left(ip);
}

/// Answers a client whose address has all the connections it may have, without waiting for its request.
pub(crate) fn turn_away(stream: Stream) {
    let socket = Socket::from(stream);
    let body = small_body(429, "");
    let head = format!(
        "HTTP/1.1 429 {}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reason(429),
        body.len()
    );
    // A fresh socket takes this little; a client that cannot be told is no worse off.
    let _ignored = socket
        .try_write_slices(&[
            io::IoSlice::new(head.as_bytes()),
            io::IoSlice::new(body.as_bytes()),
        ])
        .is_ok();
    socket.shutdown_write();
}

impl Client {
    async fn run(&mut self, service: &Arc<Service>) {
        loop {
            let settings = service.settings.load_full();
            match self.next_request(&settings).await {
                Ok(Some(request)) => {
                    let _busy = self.balancer.kit.busy();
                    if !self.one(service, settings, request).await {
                        return;
                    }
                }
                Ok(None) => return,
                Err(refusal) => {
                    self.refuse(service, &settings, refusal).await;
                    return;
                }
            }
        }
    }

    /// Reads a head. `None`: the client went, or was idle too long, or we are leaving.
    async fn next_request(&mut self, settings: &Settings) -> Result<Option<Request>, Refusal> {
        let is_first = self.requests == 0;
        self.info.set_state(if is_first {
            State::ReadingHeaders
        } else {
            State::PersistWait
        });
        let patience = if is_first {
            settings.header_timeout
        } else {
            settings.client_idle
        };
        let draining = self.balancer.kit.draining();
        let mut deadline = Instant::now()
            + if patience.is_zero() {
                FOREVER
            } else {
                patience
            };
        let mut begun = is_first;
        loop {
            if let Some(request) = self.parser.parse(&mut self.wire.buffer, &settings.limits)? {
                return Ok(Some(request));
            }
            if !begun && !self.wire.buffer.is_empty() {
                begun = true;
                self.info.set_state(State::ReadingHeaders);
                deadline = Instant::now()
                    + if settings.header_timeout.is_zero() {
                        FOREVER
                    } else {
                        settings.header_timeout
                    };
            }
            let is_idle = self.wire.buffer.is_empty();
            if is_idle {
                // Nothing is held for a connection that says nothing.
                self.wire.buffer = BytesMut::new();
            }
            tokio::select! {
                read = self.wire.fill() => if !matches!(read, Ok(n) if n > 0) { return Ok(None) },
                () = tokio::time::sleep_until(deadline.into()) => {
                    return if is_idle { Ok(None) } else { Err(Refusal::new(408, "Request header not received in time")) };
                }
                () = draining.cancelled(), if is_idle => return Ok(None),
            }
        }
    }

    /// Answers one request; true when the connection lives on.
    async fn one(
        &mut self,
        service: &Arc<Service>,
        settings: Arc<Settings>,
        request: Request,
    ) -> bool {
        self.requests += 1;
        let body = match framing::request_body(&request) {
            Ok(body) => body,
            Err(refusal) => {
                self.refuse(service, &settings, refusal).await;
                return false;
            }
        };
        let expectation = request
            .fields
            .first("Expect")
            .map(|e| e.eq_ignore_ascii_case(b"100-continue"));
        if expectation == Some(false) && request.version == Version::V11 {
            self.refuse(service, &settings, Refusal::new(417, "")).await;
            return false;
        }
        self.info.began(&request);
        let mut turn = self.turn(settings, request, body, expectation.is_some());
        if self.has_forbidden_pipelining(&turn) {
            self.refuse(
                service,
                &turn.entry,
                Refusal::new(400, "Bytes after an HTTP/1.0 request"),
            )
            .await;
            return false;
        }
        let outcome = crate::route::dispatch(self, &mut turn, Arc::clone(service)).await;
        self.balancer
            .metrics
            .request(&service.name, turn.status, turn.started.elapsed());
        if outcome.is_err() {
            return false;
        }
        if !turn.is_body_read && !self.discard_body(&mut turn).await {
            turn.keep = false;
        }
        if !turn.keep {
            self.linger().await;
        }
        turn.keep
    }

    fn turn(
        &self,
        settings: Arc<Settings>,
        request: Request,
        body: RequestBody,
        expects: bool,
    ) -> Turn {
        let limit = settings.requests_per_client_max;
        // A chunked HTTP/1.0 message is understood, but its sender's idea of persistence is not.
        let keep = settings.persist_client
            && request.wants_keep_alive()
            && !(request.version == Version::V10 && body == RequestBody::Chunked)
            && (limit == 0 || self.requests < limit)
            && !self.balancer.kit.draining().is_cancelled();
        // COMPAT(perlbal): HTTP/1.0 clients that send chunked bodies wait for 100 Continue as well (ClientHTTPBase.pm).
        let owes_continue = expects
            && (request.version == Version::V11 || body == RequestBody::Chunked)
            && body != RequestBody::None;
        Turn {
            reader: BodyReader::for_request(body, settings.limits.head_bytes_max),
            is_body_read: body == RequestBody::None,
            request,
            body,
            owes_continue,
            body_received: 0,
            started: Instant::now(),
            entry: settings,
            keep,
            is_low: false,
            changes: Vec::new(),
            status: 0,
        }
    }

    /// HTTP/1.0 knows no pipelining: bytes behind a complete request are never taken for a request.
    fn has_forbidden_pipelining(&self, turn: &Turn) -> bool {
        turn.request.version == Version::V10
            && turn.body == RequestBody::None
            && self.wire.buffer.iter().any(|b| !matches!(b, b'\r' | b'\n'))
    }

    /// The next piece of the request body; `None` at its end.
    pub(crate) async fn next_body(&mut self, turn: &mut Turn) -> Result<Option<Bytes>, BodyError> {
        loop {
            if turn.is_body_read {
                return Ok(None);
            }
            match turn
                .reader
                .next(&mut self.wire.buffer)
                .map_err(BodyError::Refused)?
            {
                Step::End => turn.is_body_read = true,
                Step::Data(data) => {
                    turn.body_received += data.len() as u64;
                    let limit = body_limit(turn);
                    if limit > 0 && turn.body_received > limit {
                        return Err(BodyError::Refused(Refusal::new(
                            413,
                            "Request body too large",
                        )));
                    }
                    return Ok(Some(data));
                }
                Step::Need => self.more_body(turn).await?,
            }
        }
    }

    async fn more_body(&mut self, turn: &mut Turn) -> Result<(), BodyError> {
        if turn.owes_continue {
            turn.owes_continue = false;
            let line = format!("{} 100 Continue\r\n\r\n", Version::V11.text());
            self.wire
                .socket
                .write_all(line.as_bytes(), turn.entry.idle)
                .await
                .map_err(|_| BodyError::Gone)?;
        }
        let elapsed = turn.started.elapsed();
        let expected = turn.entry.body_min_rate.saturating_mul(elapsed.as_secs());
        let slow = BodyError::Refused(Refusal::new(408, "Request body not received in time"));
        if elapsed > RATE_GRACE && turn.body_received < expected {
            return Err(slow);
        }
        match tokio::time::timeout(turn.entry.idle, self.wire.fill()).await {
            Ok(Ok(n)) if n > 0 => Ok(()),
            Ok(_) => Err(BodyError::Gone),
            Err(_) => Err(slow),
        }
    }

    /// Drops what is left of a body; false when that is not worth the wait.
    async fn discard_body(&mut self, turn: &mut Turn) -> bool {
        if turn.owes_continue
            || matches!(turn.body, RequestBody::Length(n) if n > turn.body_received + LINGER_BYTES_MAX as u64)
        {
            return false;
        }
        let limit = turn.body_received + LINGER_BYTES_MAX as u64;
        let all = async {
            while turn.body_received <= limit {
                match self.next_body(turn).await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
            false
        };
        tokio::time::timeout(DISCARD, all).await.unwrap_or(false)
    }

    /// Waits until the client closes its side. Bytes of further requests are kept, up to a limit.
    pub(crate) async fn gone(&mut self) {
        loop {
            if self.wire.buffer.len() >= LINGER_BYTES_MAX {
                std::future::pending::<()>().await;
            }
            if !matches!(self.wire.fill().await, Ok(n) if n > 0) {
                return;
            }
        }
    }

    /// How a response's head ends for this turn.
    pub(crate) fn policy(&self, turn: &mut Turn, body: ClientBody) -> ResponsePolicy {
        if body == ClientBody::UntilClose
            || self.has_forbidden_pipelining(turn)
            || self.balancer.kit.draining().is_cancelled()
        {
            turn.keep = false;
        }
        ResponsePolicy {
            version: turn.request.version,
            keep_alive: turn.keep,
            keep_alive_secs: turn.entry.client_idle.as_secs(),
            body,
        }
    }

    /// Fields every response of our own begins with.
    pub(crate) fn own_fields(turn: &Turn) -> Fields {
        let mut fields = Fields::default();
        fields.push(&b"Date"[..], crate::clock::date());
        if turn.entry.server_tokens {
            fields.push(&b"Server"[..], &b"Perlbal"[..]);
        }
        fields
    }

    /// Sends an answer of our own.
    pub(crate) async fn reply(&mut self, turn: &mut Turn, reply: Reply) -> Result<(), Cut> {
        let mut fields = Self::own_fields(turn);
        for (name, value) in &reply.fields {
            fields.push(name.as_bytes().to_vec(), value.clone());
        }
        let bodyless = matches!(reply.status, 204 | 304);
        if let Some(content_type) = reply.content_type.filter(|_| !bodyless) {
            fields.push(&b"Content-Type"[..], content_type);
        }
        let length = Bytes::from(reply.body.len().to_string());
        let (body, described) = if bodyless {
            (ClientBody::None, None)
        } else if turn.request.is_head() {
            (ClientBody::None, Some(&length))
        } else {
            (ClientBody::Length(reply.body.len() as u64), None)
        };
        turn.status = reply.status;
        let policy = self.policy(turn, body);
        let head = response_head(
            reply.status,
            reason(reply.status).as_bytes(),
            &fields,
            described,
            &policy,
        );
        let sent: &[u8] = if matches!(body, ClientBody::Length(_)) {
            &reply.body
        } else {
            &[]
        };
        self.info.set_state(State::XferResp);
        self.wire
            .socket
            .write_two(&head, sent, turn.entry.idle)
            .await?;
        Ok(())
    }

    /// Answers a body that could not be read; the connection ends.
    pub(crate) async fn reply_body_error(
        &mut self,
        turn: &mut Turn,
        error: BodyError,
    ) -> Result<(), Cut> {
        match error {
            BodyError::Gone => Err(Cut),
            BodyError::Refused(refusal) => {
                turn.keep = false;
                turn.is_body_read = true;
                self.reply(turn, Reply::small(refusal.status, refusal.text))
                    .await
            }
        }
    }

    /// Answers a message that is not accepted, and ends the connection. Nothing behind it is interpreted.
    async fn refuse(&mut self, service: &Arc<Service>, settings: &Settings, refusal: Refusal) {
        let body = small_body(refusal.status, refusal.text);
        let mut fields = Fields::default();
        fields.push(&b"Date"[..], crate::clock::date());
        if settings.server_tokens {
            fields.push(&b"Server"[..], &b"Perlbal"[..]);
        }
        fields.push(&b"Content-Type"[..], &b"text/html"[..]);
        let policy = ResponsePolicy {
            version: Version::V11,
            keep_alive: false,
            keep_alive_secs: 0,
            body: ClientBody::Length(body.len() as u64),
        };
        let head = response_head(
            refusal.status,
            reason(refusal.status).as_bytes(),
            &fields,
            None,
            &policy,
        );
        self.balancer
            .metrics
            .request(&service.name, refusal.status, Duration::ZERO);
        if self
            .wire
            .socket
            .write_two(&head, body.as_bytes(), settings.idle)
            .await
            .is_ok()
        {
            self.linger().await;
        }
    }

    /// Ends the connection so that the peer sees our last bytes and no reset.
    async fn linger(&mut self) {
        self.info.set_state(State::Closed);
        self.wire.socket.shutdown_write();
        let mut dropped = 0;
        let drain = async {
            while dropped < LINGER_BYTES_MAX {
                self.wire.buffer.clear();
                match self.wire.fill().await {
                    Ok(n) if n > 0 => dropped += n,
                    _ => return,
                }
            }
        };
        // Either end of it is fine: the peer closed, or it had its time.
        let _ended = tokio::time::timeout(LINGER, drain).await.is_ok();
    }
}

/// "No limit" as a time.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 86_400);

fn body_limit(turn: &Turn) -> u64 {
    match turn.body {
        RequestBody::Chunked => {
            let chunked = turn.entry.chunked_max;
            if turn.entry.body_max > 0 && (chunked == 0 || turn.entry.body_max < chunked) {
                turn.entry.body_max
            } else {
                chunked
            }
        }
        RequestBody::Length(_) | RequestBody::None => turn.entry.body_max,
    }
}
