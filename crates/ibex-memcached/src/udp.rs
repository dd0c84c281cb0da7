//! The udp thread: requests in datagrams, one datagram each, answered in as many as the reply takes.
//!
//! Off unless addresses are given. There is no session: a request that is not whole in its datagram is dropped, and so is what the socket does not take of a
//! reply. Requests are carried out by the same code as those of a connection, with a [`Conn`] that has no socket. The sender of a datagram can be forged, so a
//! reply has a bound (`udp_reply_max`), and what streams (dumps, watch) or stops the daemon is not to be had here.

use crate::conn::{Conn, Turn};
use crate::exec::Cx;
use crate::register::ConnEntry;
use crate::shared::Shared;
use crate::stats::UDP_PREFIX;
use crate::stream::Stream;
use crate::ways::Speaks;
use ibex_kit::Heartbeat;
use ibex_memcached_proto::udp::{self, DATAGRAM_BYTES_MAX};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// The thread turns at least this often, for its heartbeat and to see that the daemon stops.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Largest datagram there is.
const REQUEST_BYTES_MAX: usize = 65_535;
/// Datagrams of one socket in a row.
const BATCH: usize = 256;

/// Descriptor and address as the statistics show them.
pub(crate) fn shown(socket: &std::net::UdpSocket) -> (i32, String) {
    let address = socket
        .local_addr()
        .map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
    (socket.as_raw_fd(), format!("{UDP_PREFIX}{address}"))
}

/// Whether an address is shown as one of datagrams.
pub(crate) fn is_datagram(shown: &str) -> bool {
    shown.starts_with(UDP_PREFIX)
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Udp {
    shared: Arc<Shared>,
    poll: Poll,
    waker: Arc<Waker>,
    sockets: Vec<UdpSocket>,
    conn: Conn,
    request: Vec<u8>,
    datagram: Vec<u8>,
    spares: Vec<Vec<u8>>,
    heartbeat: Heartbeat,
}

impl Udp {
    pub(crate) fn new(shared: Arc<Shared>, sockets: Vec<std::net::UdpSocket>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(usize::MAX))?);
        let mut sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from_std).collect();
        for (number, socket) in sockets.iter_mut().enumerate() {
            let token = Token(number);
            poll.registry()
                .register(socket, token, Interest::READABLE)?;
        }
        let conn = Conn::new(
            Stream::Datagram,
            ConnEntry::unlisted(),
            &shared,
            Speaks::Usual,
        );
        let heartbeat = shared.kit.heartbeat("udp");
        Ok(Self {
            shared,
            poll,
            waker,
            sockets,
            conn,
            request: vec![0; REQUEST_BYTES_MAX],
            datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX),
            spares: Vec::new(),
            heartbeat,
        })
    }

    /// Wakes the thread, to see that the daemon stops.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Runs until the daemon stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        // A socket of which a whole batch was read may hold more, for which no event comes.
        let mut again = true;
        while !self.shared.is_stopping() {
            let timeout = if again { Duration::ZERO } else { TURN_MAX };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            self.heartbeat.beat();
            if again || !events.is_empty() {
                again = (0..self.sockets.len()).fold(false, |again, number| {
                    let is_left = self.batch(number);
                    again || is_left
                });
            }
        }
        Ok(())
    }

    /// Answers what waits at a socket; `true` if more may wait.
    fn batch(&mut self, number: usize) -> bool {
        let now = self.shared.clock.now();
        for _ in 0..BATCH {
            let Some(socket) = self.sockets.get(number) else {
                return false;
            };
            match socket.recv_from(&mut self.request) {
                Ok((bytes, peer)) => self.answer(number, now, bytes, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // An error of an earlier reply, such as a port that is closed by now, is told here; it is the peer's matter.
                Err(_) => {}
            }
        }
        true
    }

    fn answer(&mut self, number: usize, now: u32, bytes: usize, peer: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        let numbers = &shared.datagrams;
        let counters = &numbers.counters;
        counters.bytes_read.add(bytes as u64);
        let Ok(request) = udp::parse(&self.request[..bytes]) else {
            return counters.datagrams_dropped.add(1);
        };
        let mut turn = Turn {
            cx: Cx {
                shared: &shared,
                counters,
                ring: &numbers.ring,
                fd: 0,
                now,
            },
            numbers,
            waker: None,
            buffers_max: u64::MAX,
            scratch: &mut [],
            spares: &mut self.spares,
        };
        let reply_max = shared.config.udp_reply_max.as_usize();
        let (mut reply, is_whole) = self.conn.datagram(&mut turn, request.payload, reply_max);
        counters.datagrams_dropped.add(u64::from(!is_whole));
        if let (Some(parts), Some(socket)) =
            (udp::datagrams(request.id, &reply), self.sockets.get(number))
        {
            counters
                .datagrams_answered
                .add(u64::from(!reply.is_empty()));
            for (frame, payload) in parts {
                self.datagram.clear();
                self.datagram.extend_from_slice(&frame);
                self.datagram.extend_from_slice(payload);
                match socket.send_to(&self.datagram, peer) {
                    Ok(sent) => counters.bytes_written.add(sent as u64),
                    // The peer asks again; a reply with a hole is of no use to it.
                    Err(_) => break,
                }
            }
        }
        reply.clear();
        if self.spares.is_empty() {
            self.spares.push(reply);
        }
    }
}
