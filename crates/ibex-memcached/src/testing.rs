//! One connection and everything behind it, without a thread of its own: what several tests drive.

use crate::ABOUT;
use crate::clock::Clock;
use crate::config::Config;
use crate::conn::{Conn, Turn, Verdict};
use crate::exec::Cx;
use crate::register::ConnEntry;
use crate::server::make_store;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::ways::Speaks;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The clock stands still.
const NOW: u32 = 1000;
/// So do dates.
const ZERO_UNIX: i64 = 1_700_000_000;

/// A connection.
pub(crate) struct Bench {
    shared: Arc<Shared>,
    /// Which worker's numbers it counts in: one thread each.
    worker: usize,
    conn: Conn,
    far: UnixStream,
    scratch: Vec<u8>,
    spares: Vec<Vec<u8>>,
    pub(crate) replies: Vec<u8>,
    pub(crate) is_closed: bool,
}

/// A daemon's insides.
pub(crate) fn shared(config: Config) -> Arc<Shared> {
    let store = make_store(&config, None);
    let kit = ibex_kit::Kit::for_test(ABOUT);
    let clock = Clock::resumed(ZERO_UNIX, 0);
    Arc::new(Shared::new(
        config,
        store,
        kit,
        Vec::new(),
        None,
        clock,
        None,
    ))
}

impl Bench {
    /// The only connection of a daemon with its defaults.
    pub(crate) fn new() -> Self {
        Self::of(&shared(Config::default()), 0)
    }

    pub(crate) fn of(shared: &Arc<Shared>, worker: usize) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let stream = Stream::Unix(mio::net::UnixStream::from_std(near));
        let conn = Conn::new(stream, ConnEntry::unlisted(), shared, Speaks::Usual);
        Self {
            shared: Arc::clone(shared),
            worker,
            conn,
            far,
            scratch: vec![0; 65_536],
            spares: Vec::new(),
            replies: Vec::new(),
            is_closed: false,
        }
    }

    /// Takes what was answered; whether that was anything.
    fn drain(&mut self) -> bool {
        let had = self.replies.len();
        let mut buffer = [0; 65_536];
        while let Ok(read @ 1..) = self.far.read(&mut buffer) {
            self.replies.extend_from_slice(&buffer[..read]);
        }
        self.replies.len() > had
    }

    /// Sends bytes and lets the connection work until it waits for more.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !self.is_closed {
            match self.far.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            self.conn.readable = true;
            self.conn.set_writable();
            let numbers = &self.shared.workers[self.worker];
            let cx = Cx {
                shared: &self.shared,
                counters: &numbers.counters,
                ring: &numbers.ring,
                fd: 0,
                now: NOW,
            };
            let verdict = self.conn.turn(&mut Turn {
                cx,
                numbers,
                waker: None,
                buffers_max: u64::MAX,
                scratch: &mut self.scratch,
                spares: &mut self.spares,
            });
            self.is_closed = verdict == Verdict::Close;
            let is_quiet = !self.drain() && verdict == Verdict::Wait;
            if is_quiet && bytes.is_empty() {
                return;
            }
        }
    }

    /// Sends a request; its reply.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.feed(request);
        std::mem::take(&mut self.replies)
    }
}
