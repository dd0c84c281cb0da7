//! One connection of the load: requests on their way, answers read off.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BytesMut};
use ibex_memcached_proto::reply::{Code, Reply, Step, parse};

use super::report::Record;
use super::work::{Asked, Source};

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read at a time: some hundred small answers.
const READ_BYTES: usize = 64 << 10;

/// A request that is not answered yet.
#[derive(Debug)]
struct Sent {
    asked: Asked,
    /// When it was due, since the start of the run.
    due: Duration,
    hits: u32,
}

/// A connection in non-blocking mode.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    out: BytesMut,
    input: BytesMut,
    sent: VecDeque<Sent>,
}

impl Connection {
    pub(super) fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)
            .with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            out: BytesMut::new(),
            input: BytesMut::new(),
            sent: VecDeque::new(),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Adds a request, which [`Connection::flush`] sends.
    pub(super) fn ask(&mut self, due: Duration, write: impl FnOnce(&mut BytesMut) -> Asked) {
        let asked = write(&mut self.out);
        self.sent.push_back(Sent {
            asked,
            due,
            hits: 0,
        });
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("send to the server"),
            }
        }
        Ok(())
    }

    /// Reads what has come; whether anything had.
    pub(super) fn read(&mut self) -> anyhow::Result<bool> {
        let old = self.input.len();
        self.input.resize(old + READ_BYTES, 0);
        let room = self.input.get_mut(old..).unwrap_or(&mut []);
        let read = self.stream.read(room);
        self.input.truncate(old + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => bail!("the server closed a connection"),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error).context("read from the server"),
        }
    }

    /// Counts the answers that are complete at `now`. With `refill` what a read missed is stored.
    pub(super) fn count(
        &mut self,
        now: Duration,
        record: &mut Record,
        mut refill: Option<&mut Source<'_>>,
    ) -> anyhow::Result<()> {
        loop {
            let (is_answered, consumed) = match parse(&self.input)? {
                Step::Need(_) => return Ok(()),
                Step::Frame { reply, consumed } => {
                    let sent = self.sent.front_mut();
                    let sent = sent.context("the server sent more than was asked for")?;
                    (answers(&reply, sent, record)?, consumed)
                }
            };
            self.input.advance(consumed);
            if !is_answered {
                continue;
            }
            let Some(sent) = self.sent.pop_front() else {
                continue;
            };
            record.answered(sent.asked, sent.hits, sent.due, now);
            if let (Asked::Read { keys, key }, Some(source)) = (sent.asked, refill.as_deref_mut())
                && sent.hits < keys
            {
                self.ask(now, |out| source.store(out, key));
            }
        }
    }
}

/// Whether the request is answered with this reply, which is noted.
fn answers(reply: &Reply<'_>, sent: &mut Sent, record: &mut Record) -> anyhow::Result<bool> {
    match (reply, sent.asked) {
        (Reply::Value(_), Asked::Read { .. }) => {
            sent.hits += 1;
            Ok(false)
        }
        (Reply::Meta { code: Code::Va, .. }, Asked::Read { keys, .. }) => {
            sent.hits += 1;
            Ok(keys == 1)
        }
        (
            Reply::End
            | Reply::Meta {
                code: Code::En | Code::Mn,
                ..
            },
            Asked::Read { .. },
        )
        | (Reply::Stored | Reply::Meta { code: Code::Hd, .. }, Asked::Store) => Ok(true),
        (Reply::ServerError(_), _) => {
            record.refused();
            Ok(true)
        }
        (other, asked) => bail!("the server answers {other:?} to {asked:?}"),
    }
}
