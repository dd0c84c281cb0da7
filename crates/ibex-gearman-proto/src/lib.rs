//! The Gearman protocol: packets and admin text to messages, both directions.
//!
//! Everything here is a pure function of bytes. The crate opens no socket, keeps no buffer and knows no job: [`Decoder`] turns the bytes a *server*
//! has read into
//! [`Incoming`] messages, [`Response::parse`] and [`decode_response`] do the same for the bytes a *client or worker* has read, and [`Request::encode`],
//! [`Response::encode`] go the other way. Messages borrow from the buffer they were parsed from; whoever keeps them copies, once, where it keeps them.
//!
//! A frame is twelve bytes of header (magic, type, payload length, big endian) and a payload of NUL-separated arguments whose last one is the rest of
//! the payload
//! (protocol text of the C server: `PROTOCOL`). On the same port a line whose first byte is not NUL is an admin command ([`AdminCommand`]).
//!
//! ```
//! use ibex_gearman_proto::{Decoder, Incoming, Mode, Priority, Request, Step, Submit};
//!
//! let mut wire = Vec::new();
//! Request::Submit(Submit::new(b"reverse", b"", b"test")).encode(&mut wire);
//! assert_eq!(&wire, b"\0REQ\0\0\0\x07\0\0\0\x0dreverse\0\0test");
//!
//! let Ok(Step::Frame { message, consumed }) = Decoder::default().parse(&wire) else { panic!("a whole frame") };
//! assert_eq!(consumed, wire.len());
//! let Incoming::Request(Request::Submit(submit)) = message else { panic!("a submission") };
//! assert_eq!((submit.function, submit.mode, submit.priority), (&b"reverse"[..], Mode::Foreground, Priority::Normal));
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admin;
mod decode;
mod frame;
pub mod headers;
pub mod kind;
pub mod limits;
mod request;
mod response;
pub mod text;

pub use admin::{AdminCommand, DeadTarget, QueueLimits};
pub use decode::{Decoder, Incoming, ParseError, Refusal, decode_response};
pub use frame::{HEADER_BYTES, Step};
pub use request::{Grab, Mode, Priority, Request, Submit};
pub use response::{Response, ResponseError};
pub use text::ErrorCode;

/// The port registered with IANA for the service `gearman`.
pub const DEFAULT_PORT: u16 = 4730;
