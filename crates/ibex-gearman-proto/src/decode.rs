//! Bytes read by a server to messages, one at a time, and the same for clients.
//!
//! Stateless: the caller keeps the unread bytes and drops what was consumed. A malformed message is either refused (an ERROR packet, the connection
//! goes on) or fatal
//! (at most one last answer, then close); the table is in `docs/gearman/failure-modes.md`, "Hostile input, row by row". Nothing is ever allocated for
//! announced lengths.

use bytes::BufMut;

use crate::admin::AdminCommand;
use crate::frame::{HEADER_BYTES, Header, REQ, RES, Step};
use crate::limits;
use crate::request::{Parsed, Request};
use crate::response::{Response, ResponseError};
use crate::text::{ErrorCode, admin_text, error_text};

/// A message at a server's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; boxing would allocate per packet"
)]
pub enum Incoming<'a> {
    /// A packet.
    Request(Request<'a>),
    /// A line of the admin protocol.
    Admin(AdminCommand<'a>),
    /// A whole packet that is answered by an ERROR; the connection goes on.
    Refused(Refusal),
}

/// Why a whole packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It carried the magic of server packets.
    ServerMagic,
    /// Its type does not exist. DIFFERS(gearmand): the original closes the connection, and dies of types from 2^31 on.
    UnknownType,
    /// Its type is one that only servers send.
    NotExpected,
}

impl Refusal {
    /// Code and text of the answer.
    #[must_use]
    pub const fn error(self) -> (ErrorCode, &'static str) {
        match self {
            Self::ServerMagic => (ErrorCode::InvalidMagic, error_text::REQUEST_MAGIC),
            Self::UnknownType => (ErrorCode::InvalidCommand, error_text::UNKNOWN_TYPE),
            Self::NotExpected => (ErrorCode::InvalidCommand, error_text::NOT_EXPECTED),
        }
    }
}

/// Input after which the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A NUL that does not begin a magic.
    #[error("bad magic")]
    BadMagic,
    /// A payload beyond the limit.
    #[error("packet of {payload_bytes} bytes exceeds the limit")]
    TooLarge {
        /// Announced.
        payload_bytes: u32,
    },
    /// Too few arguments.
    #[error("packet type {kind} lacks arguments")]
    MissingArguments {
        /// Packet type.
        kind: u32,
    },
    /// An admin line without an end.
    #[error("admin line exceeds {} bytes", limits::LINE_BYTES_MAX)]
    LineTooLong,
}

impl ParseError {
    /// Appends the last answer to the peer, if one is due.
    pub fn encode_farewell(self, out: &mut impl BufMut) {
        let mut error = |code: ErrorCode, text: &'static str| {
            Response::<&[u8]>::Error {
                code: code.as_str().as_bytes(),
                text: text.as_bytes(),
            }
            .encode(out);
        };
        match self {
            Self::BadMagic => {}
            Self::TooLarge { .. } => error(ErrorCode::DataTooLarge, error_text::TOO_LARGE),
            Self::MissingArguments { .. } => {
                error(ErrorCode::InvalidPacket, error_text::MISSING_ARGUMENTS)
            }
            Self::LineTooLong => out.put_slice(admin_text::LINE_TOO_LONG.as_bytes()),
        }
    }
}

/// A server's parser: nothing but its limits.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    packet_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(limits::PACKET_BYTES_MAX_DEFAULT)
    }
}

impl Decoder {
    /// Payload bytes it accepts.
    #[must_use]
    pub const fn payload_max(&self) -> usize {
        self.packet_bytes_max
    }

    /// A parser that accepts payloads of up to `packet_bytes_max` bytes.
    #[must_use]
    pub const fn new(packet_bytes_max: usize) -> Self {
        Self { packet_bytes_max }
    }

    /// Looks for a message at the front of `buf`.
    ///
    /// # Errors
    /// Input that ends the connection; see [`ParseError`].
    pub fn parse<'a>(&self, buf: &'a [u8]) -> Result<Step<Incoming<'a>>, ParseError> {
        match buf.first() {
            None => Ok(Step::Need(1)),
            Some(0) => self.parse_packet(buf),
            Some(_) => parse_line(buf),
        }
    }

    fn parse_packet<'a>(&self, buf: &'a [u8]) -> Result<Step<Incoming<'a>>, ParseError> {
        let seen = buf.get(..4).unwrap_or(buf);
        if !REQ.starts_with(seen) && !RES.starts_with(seen) {
            return Err(ParseError::BadMagic);
        }
        let Some(header) = Header::parse(buf) else {
            return Ok(Step::Need(HEADER_BYTES));
        };
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        if payload_bytes > self.packet_bytes_max {
            return Err(ParseError::TooLarge {
                payload_bytes: header.payload_bytes,
            });
        }
        let consumed = HEADER_BYTES + payload_bytes;
        let Some(payload) = buf.get(HEADER_BYTES..consumed) else {
            return Ok(Step::Need(consumed));
        };
        let message = if header.magic == RES {
            Incoming::Refused(Refusal::ServerMagic)
        } else {
            match Request::parse(header.kind, payload) {
                Parsed::Request(request) => Incoming::Request(request),
                Parsed::MissingArguments => {
                    return Err(ParseError::MissingArguments { kind: header.kind });
                }
                Parsed::NotExpected => Incoming::Refused(Refusal::NotExpected),
                Parsed::UnknownType => Incoming::Refused(Refusal::UnknownType),
            }
        };
        Ok(Step::Frame { message, consumed })
    }
}

fn parse_line(buf: &[u8]) -> Result<Step<Incoming<'_>>, ParseError> {
    let window = buf.get(..=limits::LINE_BYTES_MAX).unwrap_or(buf);
    let Some(at) = memchr::memchr(b'\n', window) else {
        return if buf.len() > limits::LINE_BYTES_MAX {
            Err(ParseError::LineTooLong)
        } else {
            Ok(Step::Need(buf.len() + 1))
        };
    };
    let line = buf.get(..at).unwrap_or_default();
    // DIFFERS(gearmand): the original takes the last letter of a name with a bare LF.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Step::Frame {
        message: Incoming::Admin(AdminCommand::parse(line)),
        consumed: at + 1,
    })
}

/// Looks for a server's packet at the front of `buf`, for clients and workers; payloads beyond `packet_bytes_max` are refused.
///
/// # Errors
/// Bytes that are no packet of a server; see [`ResponseError`].
pub fn decode_response(
    buf: &[u8],
    packet_bytes_max: usize,
) -> Result<Step<Response<&[u8]>>, ResponseError> {
    let seen = buf.get(..4).unwrap_or(buf);
    if !RES.starts_with(seen) {
        return Err(ResponseError::BadMagic);
    }
    let Some(header) = Header::parse(buf) else {
        return Ok(Step::Need(HEADER_BYTES));
    };
    let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
    if payload_bytes > packet_bytes_max {
        return Err(ResponseError::TooLarge {
            payload_bytes: header.payload_bytes,
            limit_bytes: packet_bytes_max,
        });
    }
    let consumed = HEADER_BYTES + payload_bytes;
    let Some(payload) = buf.get(HEADER_BYTES..consumed) else {
        return Ok(Step::Need(consumed));
    };
    let message = Response::parse(header.kind, payload)?;
    Ok(Step::Frame { message, consumed })
}
