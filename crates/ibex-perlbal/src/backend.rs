//! One exchange over a backend connection: request out, response head in.
//!
//! Owns sending head and body while listening for an early answer, and the time limits of both. Apart from the proxy, which
//! decides what to make of the outcome. The body of the response is `pump`'s.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use ibex_perlbal_proto::chunk::{LAST_CHUNK, encode};
use ibex_perlbal_proto::forward::OutBody;
use ibex_perlbal_proto::head::{Limits, Response, ResponseParser};

use crate::client::{BodyError, Client, Turn};
use crate::registry::State;
use crate::socket::{Socket, Wire};
use crate::upload::Upload;

/// Interim responses (1xx) a backend may send before its answer.
const INTERIM_MAX: usize = 16;
/// After a failed write the backend may have said why; it gets this long.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Slice of a spool file sent by one call.
const SLICE_BYTES: usize = 512 * 1024;

/// A response head.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// It came before the request was completely sent: neither connection can be used again.
    pub(crate) is_early: bool,
}

/// Why there is no response head.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client is gone.
    ClientGone,
    /// The client's body could not be read.
    Body(BodyError),
    /// The backend closed or broke the connection; nothing of a response had come if `silent`.
    Broken { silent: bool },
    /// The backend took too long.
    Slow,
}

/// What an exchange needs.
pub(crate) struct Exchange<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) out_body: OutBody,
    pub(crate) limits: Limits,
    pub(crate) patience: Duration,
    /// Give up when the client closes.
    pub(crate) watches_client: bool,
    /// The request asks to switch protocols, so 101 is an answer.
    pub(crate) may_switch: bool,
}

/// Sends a request and waits for the head of the response.
pub(crate) async fn exchange(
    client: &mut Client,
    turn: &mut Turn,
    wire: &mut Wire,
    upload: &Upload,
    terms: &Exchange<'_>,
) -> Result<Answer, Failure> {
    let Wire { socket, buffer } = wire;
    let mut heads = Heads::new(terms.limits);
    heads.may_switch = terms.may_switch;
    client.info.set_state(State::BackendReqSent);
    let sent = tokio::select! {
        biased;
        sent = send(client, turn, socket, upload, terms) => sent,
        early = heads.next(socket, buffer, None) => {
            return early.map(|response| Answer { response, is_early: true });
        }
    };
    match sent {
        Ok(()) => {}
        Err(SendError::Body(BodyError::Gone)) => return Err(Failure::ClientGone),
        Err(SendError::Body(error)) => return Err(Failure::Body(error)),
        Err(SendError::Slow) => return Err(Failure::Slow),
        Err(SendError::Backend) => {
            let last = heads.next(socket, buffer, Some(LAST_WORDS)).await;
            return last
                .map(|response| Answer {
                    response,
                    is_early: true,
                })
                .map_err(|_| Failure::Broken { silent: true });
        }
    }
    client.info.set_state(State::WaitRes);
    let response = tokio::select! {
        biased;
        head = heads.next(socket, buffer, Some(terms.patience)) => head?,
        () = client.gone(), if terms.watches_client => return Err(Failure::ClientGone),
    };
    Ok(Answer {
        response,
        is_early: false,
    })
}

/// Reads response heads, past interim ones.
pub(crate) struct Heads {
    parser: ResponseParser,
    limits: Limits,
    interim: usize,
    silent: bool,
    may_switch: bool,
}

impl Heads {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            parser: ResponseParser::default(),
            limits,
            interim: 0,
            silent: true,
            may_switch: false,
        }
    }

    /// The next final head. Safe to cancel: what was read stays in the buffer.
    pub(crate) async fn next(
        &mut self,
        socket: &Socket,
        buffer: &mut BytesMut,
        patience: Option<Duration>,
    ) -> Result<Response, Failure> {
        loop {
            let silent = self.silent && buffer.is_empty();
            match self.parser.parse(buffer, &self.limits) {
                Ok(Some(response)) if response.status == 101 && self.may_switch => {
                    return Ok(response);
                }
                Ok(Some(response)) if response.status == 101 => {
                    return Err(Failure::Broken { silent: false });
                }
                Ok(Some(response)) if response.status < 200 => {
                    self.silent = false;
                    self.interim += 1;
                    if self.interim > INTERIM_MAX {
                        return Err(Failure::Broken { silent: false });
                    }
                    continue;
                }
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(_) => return Err(Failure::Broken { silent: false }),
            }
            let read = match patience {
                Some(patience) => tokio::time::timeout(patience, socket.read(buffer))
                    .await
                    .map_err(|_| Failure::Slow)?,
                None => socket.read(buffer).await,
            };
            match read {
                Ok(n) if n > 0 => {}
                Ok(_) | Err(_) => return Err(Failure::Broken { silent }),
            }
        }
    }
}

enum SendError {
    Body(BodyError),
    Backend,
    Slow,
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            Self::Slow
        } else {
            Self::Backend
        }
    }
}

async fn send(
    client: &mut Client,
    turn: &mut Turn,
    socket: &Socket,
    upload: &Upload,
    terms: &Exchange<'_>,
) -> Result<(), SendError> {
    let patience = terms.patience;
    match upload {
        Upload::None => socket.write_all(terms.head, patience).await?,
        Upload::Memory { pieces, .. } => {
            socket
                .write_two(
                    terms.head,
                    pieces.first().map(|p| &p[..]).unwrap_or_default(),
                    patience,
                )
                .await?;
            for piece in pieces.iter().skip(1) {
                socket.write_all(piece, patience).await?;
            }
        }
        Upload::Spooled(spool) => {
            socket.write_all(terms.head, patience).await?;
            send_file(socket, &spool.file, 0, spool.bytes, patience).await?;
        }
        Upload::Stream { prefix, .. } => {
            socket.write_all(terms.head, patience).await?;
            for piece in prefix {
                send_piece(socket, piece, terms).await?;
            }
            while let Some(piece) = client.next_body(turn).await.map_err(SendError::Body)? {
                send_piece(socket, &piece, terms).await?;
            }
            if terms.out_body == OutBody::Chunked {
                socket.write_all(LAST_CHUNK, patience).await?;
            }
        }
    }
    Ok(())
}

async fn send_piece(socket: &Socket, piece: &[u8], terms: &Exchange<'_>) -> io::Result<()> {
    if terms.out_body == OutBody::Chunked {
        let mut framed = BytesMut::with_capacity(piece.len() + 16);
        encode(&mut framed, piece);
        socket.write_all(&framed, terms.patience).await
    } else {
        socket.write_all(piece, terms.patience).await
    }
}

/// Sends a part of a file without copying it through this process.
pub(crate) async fn send_file(
    socket: &Socket,
    file: &std::fs::File,
    offset: u64,
    count: u64,
    patience: Duration,
) -> io::Result<()> {
    let mut at = offset;
    let end = offset + count;
    while at < end {
        let slice = usize::try_from(end - at)
            .unwrap_or(SLICE_BYTES)
            .min(SLICE_BYTES);
        match socket.try_sendfile(file, &mut at, slice) {
            // The file became shorter under us.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                socket.writable_within(patience).await?
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
