//! One connection: bytes in, requests carried out, bytes out.
//!
//! ```text
//!            line without block ─▶ execute ─▶ out
//! Command ──┤ line with block ──▶ Block ─▶ execute ─▶ out ─▶ Command
//!           │ binary header ─────▶ Packet ─▶ execute ─▶ out ─▶ Command
//!            └ too large, refused ▶ Swallow ─▶ out ─▶ Command
//!              watch ─────────────▶ Watch (lines out, until the peer goes)
//!              many keys, dump ───▶ Job (steps while the output is taken) ─▶ Command
//! ```
//! Limits: output beyond `output_max` stops the reading of requests until it is taken; at most `requests_per_turn` requests before other connections have
//! their turn. A value being received is kept apart from the store until its last byte is there.

use crate::config::Config;
use crate::exec::{self, After, Cx, Job};
use crate::latency::Kind;
use crate::login;
use crate::register::{ConnEntry, ConnState};
use crate::shared::{Shared, WorkerNumbers};
use crate::stream::Stream;
use crate::watch::lines::Reason;
use crate::watch::{Kinds, Seat};
use crate::ways::Speaks;
use ibex_memcached_proto::binary::{
    Body, HEADER_BYTES, Header, Opcode, REQUEST_MAGIC, Status, WrongMagic,
};
use ibex_memcached_proto::line::{self, Step};
use ibex_memcached_proto::request::{self, Answer, Refusal, Request, StoreLine, block_ends_well};
use ibex_memcached_proto::texts;
use mio::Waker;
use std::io;
use std::sync::Arc;

/// Output buffers up to this size go back to the worker's spares.
const SPARE_OUTPUT_BYTES_MAX: usize = 64 << 10;
/// Spare output buffers of a worker.
const SPARE_OUTPUTS_MAX: usize = 64;
/// Larger ones up to this size go back while there are few, so that large values do not make a new buffer grow each time; still larger ones are freed.
const LARGE_SPARE_BYTES_MAX: usize = 256 << 10;
/// Spares among which there may be large ones.
const LARGE_SPARES_MAX: usize = 4;
/// Unsent reply bytes at which requests wait when half of the memory for buffers is in use.
const OUTPUT_MAX_SCARCE: usize = 64 << 10;
/// Bytes a value's buffer is first given; it grows as bytes arrive, so an announced length alone costs nothing.
const VALUE_BYTES_FIRST: usize = 16 << 10;
/// Length of CRLF.
const CRLF_BYTES: usize = 2;

/// What the worker lends a connection for a turn.
pub(crate) struct Turn<'w> {
    pub(crate) cx: Cx<'w>,
    pub(crate) numbers: &'w WorkerNumbers,
    /// Wakes the worker; none where connections cannot be log streams.
    pub(crate) waker: Option<&'w Arc<Waker>>,
    /// Bytes of buffers all connections of the worker may have without a look at those of other workers.
    pub(crate) buffers_max: u64,
    /// Where sockets are read into.
    pub(crate) scratch: &'w mut [u8],
    pub(crate) spares: &'w mut Vec<Vec<u8>>,
}

impl Turn<'_> {
    /// Unsent reply bytes at which a connection's requests wait: less when buffers get scarce, so that slow readers are slowed before anybody is closed.
    fn output_max(&self) -> usize {
        let output_max = self.cx.shared.config.output_max.as_usize();
        if self.numbers.gauges.bytes() > self.buffers_max / 2 {
            output_max.min(OUTPUT_MAX_SCARCE)
        } else {
            output_max
        }
    }
}

/// What the worker does with the connection after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for the socket.
    Wait,
    /// It has more to do: give it another turn soon.
    Again,
    /// It is over.
    Close,
}

#[derive(Debug)]
enum State {
    Command,
    /// A data block of `wanted` bytes, CRLF included, belongs to `line`.
    Block {
        line: Vec<u8>,
        value: Vec<u8>,
        wanted: usize,
    },
    /// A binary request whose body is not whole yet.
    Packet {
        header: Header,
        opcode: Opcode,
        body: Vec<u8>,
    },
    /// Bytes to throw away, then something to say.
    Swallow {
        left: usize,
        then: Vec<u8>,
    },
    Job(Job),
    /// A log stream; what the peer sends is thrown away.
    Watch(Seat),
    Closing,
}

/// What the peer speaks; decided by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Undecided,
    Text,
    Binary,
}

impl Protocol {
    /// What a new peer may speak that came in by a listener for `speaks`.
    fn of(config: &Config, speaks: Speaks) -> Self {
        let usual = match config.protocol.as_str() {
            _ if config.sasl => Self::Binary,
            "ascii" => Self::Text,
            "binary" => Self::Binary,
            _ => Self::Undecided,
        };
        let wanted = match speaks {
            Speaks::Usual => usual,
            Speaks::Ascii => Self::Text,
            Speaks::Binary => Self::Binary,
            Speaks::Negotiating => Self::Undecided,
        };
        // COMPAT(memcached): with a text login packets are not understood at all.
        let has_text_login = !config.auth_file.is_empty() && !config.sasl;
        if has_text_login { Self::Text } else { wanted }
    }
}

/// Why the input is not processed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    NeedInput,
    OutputFull,
    TurnOver,
    /// A long job has done a step.
    GiveWay,
    Closing,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: Stream,
    pub(crate) entry: Arc<ConnEntry>,
    protocol: Protocol,
    /// Logged in, or no login is asked for.
    is_admitted: bool,
    /// Input that was read and not used yet, from `start`.
    input: Vec<u8>,
    start: usize,
    /// Bytes of the input known to hold no LF.
    scanned: usize,
    out: Vec<u8>,
    sent: usize,
    state: State,
    pub(crate) readable: bool,
    /// The peer has closed its side: read until the end whatever the socket's readiness says.
    pub(crate) peer_closed: bool,
    writable: bool,
    /// Queued for a turn.
    pub(crate) is_queued: bool,
    charged_read: u64,
    charged_write: u64,
    /// Why it is closed.
    pub(crate) reason: Reason,
}

impl Conn {
    pub(crate) fn new(
        stream: Stream,
        entry: Arc<ConnEntry>,
        shared: &Shared,
        speaks: Speaks,
    ) -> Self {
        Self {
            stream,
            entry,
            protocol: Protocol::of(&shared.config, speaks),
            is_admitted: shared.users.is_none(),
            input: Vec::new(),
            start: 0,
            scanned: 0,
            out: Vec::new(),
            sent: 0,
            state: State::Command,
            readable: true,
            peer_closed: false,
            writable: true,
            is_queued: false,
            charged_read: 0,
            charged_write: 0,
            reason: Reason::Normal,
        }
    }

    pub(crate) fn set_writable(&mut self) {
        self.writable = true;
    }

    /// Whether it has buffers that count.
    pub(crate) fn holds_buffers(&self) -> bool {
        self.charged_read + self.charged_write > 0
    }

    /// What `stats conns` shows of it while it waits.
    fn show_state(&self) {
        self.entry.set_state(match self.state {
            State::Job(_) => ConnState::Writing,
            State::Watch(_) => ConnState::Watching,
            State::Command if self.sent < self.out.len() => ConnState::Writing,
            State::Command => ConnState::Reading,
            State::Block { .. } | State::Packet { .. } => ConnState::Receiving,
            State::Swallow { .. } => ConnState::Swallowing,
            State::Closing => ConnState::Closing,
        });
    }

    /// Does what can be done now.
    pub(crate) fn turn(&mut self, turn: &mut Turn<'_>) -> Verdict {
        self.entry.set_state(ConnState::Parsing);
        let verdict = self.run(turn);
        self.charge(turn.numbers);
        self.show_state();
        let shared = turn.cx.shared;
        if verdict == Verdict::Wait
            && turn.numbers.gauges.bytes() > turn.buffers_max
            && shared.buffer_bytes() > shared.buffers_max()
        {
            return self.shed(turn);
        }
        verdict
    }

    /// Over the limit of all connections' buffers: who holds some when that is noticed is told and closed.
    fn shed(&mut self, turn: &mut Turn<'_>) -> Verdict {
        let counters = turn.cx.counters;
        match (self.charged_read, self.charged_write) {
            (0, 0) => return Verdict::Wait,
            (read, write) if read >= write => {
                counters.read_buf_oom.add(1);
                if self.out.is_empty() {
                    // Who does not take the line learns it from the closed connection.
                    let _told = self.stream.write(texts::NO_MEMORY_READING).is_ok();
                }
            }
            // In the middle of a reply that is not taken there is no way to tell.
            _ => counters.response_obj_oom.add(1),
        }
        self.reason = Reason::Error;
        Verdict::Close
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Verdict {
        let mut budget = turn.cx.shared.config.requests_per_turn;
        loop {
            let mut input = std::mem::take(&mut self.input);
            let (used, stop) = self.process(
                turn,
                input.get(self.start..).unwrap_or_default(),
                &mut budget,
            );
            self.start += used;
            if self.start >= input.len() {
                input = Vec::new();
                self.start = 0;
            }
            self.input = input;
            let outcome = match stop {
                Stop::NeedInput if self.readable => self.fill(turn, &mut budget),
                Stop::NeedInput
                | Stop::OutputFull
                | Stop::TurnOver
                | Stop::GiveWay
                | Stop::Closing => Ok(stop),
            };
            let Ok(stop) = outcome else {
                return Verdict::Close;
            };
            if !self.flush(turn) {
                return Verdict::Close;
            }
            let is_taken = self.out.is_empty() && !self.stream.has_pending();
            match stop {
                Stop::Closing => {
                    return if is_taken {
                        Verdict::Close
                    } else {
                        Verdict::Wait
                    };
                }
                Stop::TurnOver => {
                    turn.cx.counters.conn_yields.add(1);
                    return Verdict::Again;
                }
                Stop::GiveWay => return Verdict::Again,
                Stop::OutputFull if is_taken => {}
                Stop::NeedInput if self.readable => {}
                Stop::OutputFull | Stop::NeedInput => return Verdict::Wait,
            }
        }
    }

    /// Reads once and processes what came, straight from the scratch buffer where possible.
    fn fill(&mut self, turn: &mut Turn<'_>, budget: &mut u32) -> io::Result<Stop> {
        let read = match self.stream.read(turn.scratch) {
            // The peer has said all it wants to say; it may still be listening to what is on its way.
            Ok(0) => {
                self.readable = false;
                self.state = State::Closing;
                return Ok(Stop::Closing);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(Stop::NeedInput);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Stop::NeedInput),
            Err(error) => {
                turn.cx.counters.conn_errors.add(1);
                self.count_tls_error(turn, &error);
                self.reason = Reason::Error;
                return Err(error);
            }
        };
        // A short read means that the socket is empty; new bytes make a new event.
        if read < turn.scratch.len() && !self.peer_closed && self.stream.is_empty_after_short_read()
        {
            self.readable = false;
        }
        turn.cx.counters.bytes_read.add(read as u64);
        let scratch = std::mem::take(&mut turn.scratch);
        let bytes = scratch.get(..read).unwrap_or_default();
        let stop = if self.input.is_empty() {
            let (used, stop) = self.process(turn, bytes, budget);
            self.input
                .extend_from_slice(bytes.get(used..).unwrap_or_default());
            self.start = 0;
            stop
        } else {
            self.compact();
            self.input.extend_from_slice(bytes);
            let input = std::mem::take(&mut self.input);
            let (used, stop) = self.process(turn, &input, budget);
            self.input = input;
            self.start = used;
            stop
        };
        turn.scratch = scratch;
        Ok(stop)
    }

    /// Counts what TLS found wrong; errors of the socket are of other kinds.
    fn count_tls_error(&self, turn: &Turn<'_>, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            let counters = turn.cx.counters;
            if self.stream.is_handshaking() {
                counters.tls_handshake_errors.add(1);
            } else {
                counters.tls_errors.add(1);
            }
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
    }

    /// Uses up input; returns how much was used and why it stopped.
    fn process(&mut self, turn: &mut Turn<'_>, input: &[u8], budget: &mut u32) -> (usize, Stop) {
        let out_max = turn.output_max();
        let mut at = 0;
        loop {
            if self.out.len() - self.sent > out_max {
                return (at, Stop::OutputFull);
            }
            let rest = input.get(at..).unwrap_or_default();
            match &mut self.state {
                State::Closing => return (at, Stop::Closing),
                State::Watch(seat) => return (input.len(), take_lines(seat, &mut self.out)),
                State::Swallow { left, then } => {
                    let now = rest.len().min(*left);
                    at += now;
                    *left -= now;
                    if *left > 0 {
                        return (at, Stop::NeedInput);
                    }
                    self.out.append(then);
                    self.state = State::Command;
                }
                State::Packet { header, body, .. } => {
                    let wanted = header.body_bytes as usize;
                    let now = rest.len().min(wanted - body.len());
                    body.extend_from_slice(&rest[..now]);
                    at += now;
                    if body.len() < wanted {
                        return (at, Stop::NeedInput);
                    }
                    self.finish_packet(turn);
                }
                State::Block { value, wanted, .. } => {
                    let now = rest.len().min(*wanted - value.len());
                    value.extend_from_slice(&rest[..now]);
                    at += now;
                    if value.len() < *wanted {
                        return (at, Stop::NeedInput);
                    }
                    self.finish_block(turn, out_max);
                }
                State::Job(job) => {
                    // A step fills the output up to its bound, so what was sent must not count.
                    self.out.drain(..std::mem::take(&mut self.sent));
                    let mut out = std::mem::take(&mut self.out);
                    let is_done = job.step(&turn.cx, &mut out, out_max);
                    let gives_way = matches!(job, Job::Dump(_) | Job::Sizes(_));
                    self.out = out;
                    if is_done {
                        self.state = State::Command;
                    } else if gives_way && !self.is_datagram() {
                        return (at, Stop::GiveWay);
                    }
                }
                State::Command if rest.is_empty() => return (at, Stop::NeedInput),
                State::Command if self.protocol == Protocol::Undecided => {
                    let is_binary = rest.first() == Some(&REQUEST_MAGIC);
                    self.protocol = if is_binary {
                        Protocol::Binary
                    } else {
                        Protocol::Text
                    };
                }
                State::Command if self.protocol == Protocol::Binary => match Header::parse(rest) {
                    Err(WrongMagic) => self.fail(),
                    Ok(None) => return (at, Stop::NeedInput),
                    Ok(Some(_)) if *budget == 0 => return (at, Stop::TurnOver),
                    Ok(Some(header)) => {
                        *budget -= 1;
                        self.entry.set_last_command(turn.cx.now);
                        turn.cx.counters.requests.add(1);
                        at += HEADER_BYTES;
                        at += self.packet(turn, header, &rest[HEADER_BYTES..]);
                    }
                },
                State::Command => match line::split(rest, self.scanned) {
                    Step::Need => {
                        self.scanned = rest.len();
                        return (at, Stop::NeedInput);
                    }
                    Step::TooLong => self.fail(),
                    Step::Line { .. } if *budget == 0 => return (at, Stop::TurnOver),
                    Step::Line { line, consumed } => {
                        *budget -= 1;
                        self.scanned = 0;
                        self.entry.set_last_command(turn.cx.now);
                        turn.cx.counters.requests.add(1);
                        at += consumed;
                        at += self.command(turn, line, &rest[consumed..], out_max);
                    }
                },
            }
        }
    }

    /// Carries out a line; returns how many of the bytes behind it were its data block.
    fn command(
        &mut self,
        turn: &mut Turn<'_>,
        line: &[u8],
        behind: &[u8],
        out_max: usize,
    ) -> usize {
        self.prepare_output(turn);
        if !self.is_admitted {
            return self.login_line(line);
        }
        let request = match request::parse(line) {
            Ok(request) => request,
            Err(refusal) => {
                self.refuse(&refusal);
                return 0;
            }
        };
        let Some(bytes) = exec::block_bytes(&request) else {
            self.execute(turn, &request, &[], out_max);
            return 0;
        };
        let wanted = bytes + CRLF_BYTES;
        if let Some(answer) = exec::refuse_too_large(&turn.cx, &request) {
            let then = if answer == Answer::Wanted {
                texts::TOO_LARGE
            } else {
                b""
            };
            self.state = State::Swallow {
                left: wanted,
                then: then.to_vec(),
            };
            return 0;
        }
        if let Some(block) = behind.get(..wanted) {
            self.stored(turn, &request, block, out_max);
            return wanted;
        }
        let value = Vec::with_capacity(wanted.min(VALUE_BYTES_FIRST));
        self.state = State::Block {
            line: line.to_vec(),
            value,
            wanted,
        };
        0
    }

    fn prepare_output(&mut self, turn: &mut Turn<'_>) {
        if self.out.capacity() == 0 {
            self.out = turn.spares.pop().unwrap_or_default();
        }
    }

    fn finish_block(&mut self, turn: &mut Turn<'_>, out_max: usize) {
        let State::Block { line, value, .. } = std::mem::replace(&mut self.state, State::Command)
        else {
            return;
        };
        if !self.is_admitted {
            return self.login_block(turn, &value);
        }
        // The line was read before; it is kept as text because a request borrows from it.
        if let Ok(request) = request::parse(&line) {
            self.stored(turn, &request, &value, out_max);
        }
    }

    fn stored(&mut self, turn: &mut Turn<'_>, request: &Request<'_>, block: &[u8], out_max: usize) {
        let (value, end) = block.split_at(block.len() - CRLF_BYTES);
        if block_ends_well(end) {
            self.execute(turn, request, value, out_max);
        } else if !matches!(
            request,
            Request::Store(StoreLine {
                answer: Answer::Suppressed,
                ..
            })
        ) {
            self.out.extend_from_slice(texts::BAD_CHUNK);
        }
    }

    fn execute(
        &mut self,
        turn: &mut Turn<'_>,
        request: &Request<'_>,
        value: &[u8],
        out_max: usize,
    ) {
        if self.is_datagram() && exec::needs_connection(request) {
            return self.out.extend_from_slice(texts::ERROR);
        }
        let timed = turn.numbers.latencies.begin();
        let after = exec::execute(&turn.cx, request, value, &mut self.out, out_max);
        if let Some(start) = timed {
            let (kind, key) = Kind::of_request(request);
            turn.numbers.latencies.end(kind, start.elapsed());
            if let Some(key) = key {
                turn.cx.shared.hotkeys.note(key);
            }
        }
        match after {
            After::Continue => {}
            After::Close => self.state = State::Closing,
            // COMPAT(memcached): a dump needs a connection of its own.
            After::Start(Job::Dump(_) | Job::Sizes(_)) if self.is_datagram() => {
                self.out.clear();
                self.out.extend_from_slice(texts::ERROR);
            }
            After::Start(job) => self.state = State::Job(job),
            After::Watch(events) => self.watch(turn, events),
        }
    }

    fn watch(&mut self, turn: &mut Turn<'_>, events: Kinds) {
        let hub = &turn.cx.shared.watch;
        match turn.waker.and_then(|waker| hub.join(events, waker)) {
            Some(seat) => {
                self.out.extend_from_slice(texts::OK);
                self.state = State::Watch(seat);
            }
            None => self.out.extend_from_slice(texts::WATCH_TOO_MANY),
        }
    }

    /// Whether it is a log stream.
    pub(crate) fn is_watching(&self) -> bool {
        matches!(self.state, State::Watch(_))
    }

    fn fail(&mut self) {
        self.reason = Reason::Error;
        self.state = State::Closing;
    }

    fn refuse(&mut self, refusal: &Refusal) {
        if refusal.close {
            return self.fail();
        }
        if refusal.answer == Answer::Wanted {
            self.out.extend_from_slice(refusal.text);
        }
        if let Some(bytes) = refusal.swallow {
            self.state = State::Swallow {
                left: bytes + CRLF_BYTES,
                then: Vec::new(),
            };
        }
    }

    /// Writes what the socket takes; `false` if the connection is broken.
    fn flush(&mut self, turn: &mut Turn<'_>) -> bool {
        while self.writable && self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return false,
                Ok(written) => {
                    turn.cx.counters.bytes_written.add(written as u64);
                    self.sent += written;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    turn.cx.counters.conn_errors.add(1);
                    self.reason = Reason::Error;
                    return false;
                }
            }
        }
        if self.sent == self.out.len() {
            self.release_output(turn);
        }
        if self.writable && self.stream.has_pending() {
            match self.stream.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(_) => {
                    turn.cx.counters.conn_errors.add(1);
                    self.reason = Reason::Error;
                    return false;
                }
            }
        }
        true
    }

    fn release_output(&mut self, turn: &mut Turn<'_>) {
        self.sent = 0;
        let mut out = std::mem::take(&mut self.out);
        let capacity = out.capacity();
        let spares_max = if capacity == 0 || capacity > LARGE_SPARE_BYTES_MAX {
            0
        } else if capacity > SPARE_OUTPUT_BYTES_MAX {
            LARGE_SPARES_MAX
        } else {
            SPARE_OUTPUTS_MAX
        };
        if turn.spares.len() < spares_max {
            out.clear();
            turn.spares.push(out);
        }
    }

    /// Keeps the worker's sums of buffer memory right.
    fn charge(&mut self, numbers: &WorkerNumbers) {
        let value = match &self.state {
            State::Block { line, value, .. } => line.capacity() + value.capacity(),
            State::Packet { body, .. } => body.capacity(),
            State::Job(Job::Read { keys, .. }) => keys.capacity(),
            State::Command
            | State::Swallow { .. }
            | State::Job(Job::Dump(_) | Job::Sizes(_))
            | State::Watch(_)
            | State::Closing => 0,
        };
        let (read, write) = (
            (self.input.capacity() + value) as u64,
            self.out.capacity() as u64,
        );
        if read != self.charged_read {
            numbers.gauges.read_bytes.add(read);
            numbers.gauges.read_bytes.sub(self.charged_read);
            self.charged_read = read;
        }
        if write != self.charged_write {
            numbers.gauges.write_bytes.add(write);
            numbers.gauges.write_bytes.sub(self.charged_write);
            self.charged_write = write;
        }
    }

    /// Takes its buffers out of the sums, when it is closed.
    pub(crate) fn discharge(&self, numbers: &WorkerNumbers) {
        numbers.gauges.read_bytes.sub(self.charged_read);
        numbers.gauges.write_bytes.sub(self.charged_write);
    }
}

/// Moves a log stream's lines to its output. While lines wait there further ones wait in the seat, which is bounded.
fn take_lines(seat: &Seat, out: &mut Vec<u8>) -> Stop {
    if out.is_empty() {
        seat.take(out);
    }
    if out.is_empty() {
        Stop::NeedInput
    } else {
        Stop::OutputFull
    }
}

/// Datagrams: requests without a connection.
impl Conn {
    fn is_datagram(&self) -> bool {
        matches!(self.stream, Stream::Datagram)
    }

    /// Carries out the requests of one datagram: the reply, and whether the datagram was whole. What is not is forgotten, as nothing more of it will come.
    pub(crate) fn datagram(
        &mut self,
        turn: &mut Turn<'_>,
        payload: &[u8],
        reply_max: usize,
    ) -> (Vec<u8>, bool) {
        self.protocol = Protocol::of(&turn.cx.shared.config, Speaks::Usual);
        let mut budget = u32::MAX;
        let (used, stop) = self.process(turn, payload, &mut budget);
        let is_whole = used == payload.len() || stop != Stop::NeedInput;
        let is_whole =
            is_whole && !matches!(self.state, State::Block { .. } | State::Packet { .. });
        self.state = State::Command;
        self.scanned = 0;
        let mut reply = std::mem::take(&mut self.out);
        if stop == Stop::OutputFull || reply.len() > reply_max {
            reply.clear();
            // A packet would need the opaque of its request; its sender's time runs out.
            if self.protocol == Protocol::Text {
                reply.extend_from_slice(texts::UDP_REPLY_TOO_LARGE);
            }
        }
        (reply, is_whole)
    }
}

/// Packets: the binary protocol.
impl Conn {
    /// Takes up a request; returns how many of the bytes behind the header were its body.
    fn packet(&mut self, turn: &mut Turn<'_>, header: Header, behind: &[u8]) -> usize {
        self.prepare_output(turn);
        let wanted = header.body_bytes as usize;
        let opcode = match header.check() {
            Ok(opcode) => opcode,
            Err(wrong) => {
                exec::binary::status(&header, wrong.status, &mut self.out);
                if wrong.closes {
                    self.fail();
                } else {
                    self.state = State::Swallow {
                        left: wanted,
                        then: Vec::new(),
                    };
                }
                return 0;
            }
        };
        if !self.is_admitted && !login::is_allowed(opcode.verb) {
            exec::binary::status(&header, Status::AuthFailure, &mut self.out);
            self.fail();
            return 0;
        }
        if let Some(body) = behind.get(..wanted) {
            self.packet_whole(turn, &header, opcode, body);
            return wanted;
        }
        self.state = State::Packet {
            header,
            opcode,
            body: Vec::with_capacity(wanted.min(VALUE_BYTES_FIRST)),
        };
        0
    }

    fn finish_packet(&mut self, turn: &mut Turn<'_>) {
        if let State::Packet {
            header,
            opcode,
            body,
        } = std::mem::replace(&mut self.state, State::Command)
        {
            self.packet_whole(turn, &header, opcode, &body);
        }
    }

    fn packet_whole(&mut self, turn: &mut Turn<'_>, header: &Header, opcode: Opcode, body: &[u8]) {
        // The header was checked, so its parts add up to the body.
        let Some(body) = Body::cut(header, body) else {
            return;
        };
        if let Some(users) = turn
            .cx
            .shared
            .users
            .as_ref()
            .filter(|_| login::is_login(opcode.verb))
        {
            self.is_admitted = login::sasl(
                &turn.cx,
                users,
                header,
                opcode,
                &body,
                self.is_admitted,
                &mut self.out,
            );
            return;
        }
        if exec::binary::refuse_too_large(&turn.cx, header, opcode, body.key) {
            return exec::binary::status(header, Status::TooLarge, &mut self.out);
        }
        let timed = turn.numbers.latencies.begin();
        let after = exec::binary::execute(&turn.cx, header, opcode, &body, &mut self.out);
        if let Some(start) = timed {
            let kind = Kind::of_packet(opcode.verb);
            turn.numbers.latencies.end(kind, start.elapsed());
            if kind != Kind::Other {
                turn.cx.shared.hotkeys.note(body.key);
            }
        }
        match after {
            After::Continue => {}
            After::Close => self.state = State::Closing,
            After::Start(job) => self.state = State::Job(job),
            // Packets have no watch.
            After::Watch(_) => self.fail(),
        }
    }
}

/// The text login: a `set` whose data block is `user password`.
impl Conn {
    fn login_line(&mut self, line: &[u8]) -> usize {
        match login::block_bytes(line) {
            login::Line::Close => self.fail(),
            login::Line::Refused => self.out.extend_from_slice(texts::UNAUTHENTICATED),
            login::Line::TooLong => self.out.extend_from_slice(texts::AUTH_TOO_LONG),
            login::Line::Block(bytes) => {
                self.state = State::Block {
                    line: line.to_vec(),
                    value: Vec::new(),
                    wanted: bytes + CRLF_BYTES,
                };
            }
        }
        0
    }

    fn login_block(&mut self, turn: &mut Turn<'_>, block: &[u8]) {
        let Some(users) = &turn.cx.shared.users else {
            return;
        };
        let (login, end) = block.split_at(block.len() - CRLF_BYTES);
        if !block_ends_well(end) {
            self.out.extend_from_slice(texts::BAD_CHUNK);
            return;
        }
        turn.cx.counters.auth_cmds.add(1);
        let text = login::text(users, login);
        self.is_admitted = text == texts::STORED;
        turn.cx
            .counters
            .auth_errors
            .add(u64::from(!self.is_admitted));
        self.out.extend_from_slice(text);
    }
}
