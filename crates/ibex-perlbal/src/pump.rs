//! A response body on its way from a backend to a client.
//!
//! Owns the buffer between the two: reading goes on while the client is slow, up to a limit, so that the backend is free
//! long before the client has everything. The backend connection goes back to the pool before the last bytes are written.
//! Apart from the proxy because reproxied URLs flow the same way. It changes framing, never content.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use ibex_perlbal_proto::chunk::{LAST_CHUNK, encode};
use ibex_perlbal_proto::forward::ClientBody;
use ibex_perlbal_proto::framing::{BodyReader, Step};

use crate::client::{Client, Cut, Turn};
use crate::socket::Socket;
use crate::upstream::Lease;

/// Pieces written by one system call.
const SLICES_MAX: usize = 16;
/// The rate of a reading client is judged over this time.
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// What flows, and under which conditions.
pub(crate) struct Flow {
    /// Head of the response, sent first.
    pub(crate) head: BytesMut,
    /// Reader of the backend's body.
    pub(crate) reader: BodyReader,
    /// Framing towards the client.
    pub(crate) body: ClientBody,
    /// The backend connection may be used again afterwards, until then.
    pub(crate) reuse: Reuse,
    /// Bytes held for the client before reading stops.
    pub(crate) buffer_max: usize,
    /// Longest time the backend may make no progress.
    pub(crate) patience: Duration,
}

/// Whether a backend connection outlives its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    No,
    Until(Option<Instant>),
}

/// Bytes waiting for the client.
#[derive(Default)]
struct Outbox {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    fn push_body(&mut self, data: Bytes, body: ClientBody) {
        if body == ClientBody::Chunked {
            let mut framed = BytesMut::with_capacity(data.len() + 16);
            encode(&mut framed, &data);
            self.push(framed.freeze());
        } else {
            self.push(data);
        }
    }

    /// Writes what the socket takes; says how much.
    fn write(&mut self, socket: &Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let written = socket.try_write_slices(slices.get(..count).unwrap_or_default())?;
        let mut left = written;
        while let Some(piece) = self.pieces.front_mut() {
            let take = left.min(piece.len());
            piece.advance(take);
            left -= take;
            if !piece.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
        self.bytes -= written;
        Ok(written)
    }
}

/// Sends the response. On error the client connection has to be cut, so that a truncated body is seen as such.
pub(crate) async fn pump(
    client: &mut Client,
    turn: &Turn,
    lease: Lease,
    mut flow: Flow,
) -> Result<(), Cut> {
    let mut out = Outbox::default();
    out.push(std::mem::take(&mut flow.head).freeze());
    let mut source = Some(lease);
    let mut is_paused = false;
    let mut window = Window::new(turn.entry.send_min_rate);
    loop {
        source = take_what_is_there(source, &mut flow, &mut out)?;
        if out.bytes == 0 && source.is_none() {
            return Ok(());
        }
        is_paused = if is_paused {
            out.bytes > flow.buffer_max / 2
        } else {
            out.bytes >= flow.buffer_max
        };
        match if out.bytes > 0 {
            out.write(&client.wire.socket)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        } {
            Ok(n) => {
                client.balancer.metrics.sent(n);
                window.wrote(n)?;
                if out.bytes > 0 || source.is_none() {
                    continue;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Cut),
        }
        wait(
            client,
            turn,
            &mut source,
            &mut flow,
            Want {
                read: !is_paused,
                write: out.bytes > 0,
            },
        )
        .await?;
    }
}

#[derive(Clone, Copy)]
struct Want {
    read: bool,
    write: bool,
}

/// Waits until one side can go on, and reads if it is the backend.
async fn wait(
    client: &Client,
    turn: &Turn,
    source: &mut Option<Lease>,
    flow: &mut Flow,
    want: Want,
) -> Result<(), Cut> {
    let Some(lease) = source.as_mut().filter(|_| want.read) else {
        return Ok(client.wire.socket.writable_within(turn.entry.idle).await?);
    };
    let wire = lease.wire();
    tokio::select! {
        read = tokio::time::timeout(flow.patience, wire.fill()) => match read {
            Ok(Ok(0)) if flow.reader.ends_by_close() => flow.reader = BodyReader::Length(0),
            Ok(Ok(n)) if n > 0 => {}
            _ => return Err(Cut),
        },
        ready = client.wire.socket.writable_within(turn.entry.idle), if want.write => ready?,
    }
    Ok(())
}

/// Moves decoded body from the backend's buffer to the outbox. At the end the connection goes back at once: the client's
/// last bytes are still to be written, but nobody has to wait for that.
fn take_what_is_there(
    source: Option<Lease>,
    flow: &mut Flow,
    out: &mut Outbox,
) -> Result<Option<Lease>, Cut> {
    let Some(mut lease) = source else {
        return Ok(None);
    };
    while out.bytes < flow.buffer_max {
        match flow
            .reader
            .next(&mut lease.wire().buffer)
            .map_err(|_| Cut)?
        {
            Step::Data(data) => out.push_body(data, flow.body),
            Step::Need => return Ok(Some(lease)),
            Step::End => {
                if flow.body == ClientBody::Chunked {
                    out.push(Bytes::from_static(LAST_CHUNK));
                }
                // Bytes behind the end are nobody's: such a connection is not used again.
                if let (Reuse::Until(expires), true) = (flow.reuse, lease.wire().buffer.is_empty())
                {
                    lease.give_back(expires);
                }
                return Ok(None);
            }
        }
    }
    Ok(Some(lease))
}

/// Judges how fast a client takes what it is sent.
struct Window {
    bytes_per_sec_min: u64,
    since: Instant,
    bytes: u64,
}

impl Window {
    fn new(bytes_per_sec_min: u64) -> Self {
        Self {
            bytes_per_sec_min,
            since: Instant::now(),
            bytes: 0,
        }
    }

    fn wrote(&mut self, n: usize) -> Result<(), Cut> {
        self.bytes += n as u64;
        let elapsed = self.since.elapsed();
        if elapsed < RATE_WINDOW {
            return Ok(());
        }
        if self.bytes < self.bytes_per_sec_min.saturating_mul(elapsed.as_secs()) {
            return Err(Cut);
        }
        *self = Self::new(self.bytes_per_sec_min);
        Ok(())
    }
}
