//! The memcached protocols (text, meta, binary): bytes to requests and replies, both directions.
//!
//! A server cuts lines with [`line::split`], reads them with [`request::parse`] and answers with the texts of [`texts`];
//! a client writes requests with [`encode`] and reads answers with [`reply::parse`]. Everything borrows from the buffer it is given:
//! nothing here copies, allocates, reads a clock or opens a socket. Behaviour follows memcached's `doc/protocol.txt`.
//!
//! ```
//! use ibex_memcached_proto::{line, request};
//! let bytes = b"get apple pear\r\nget";
//! let line::Step::Line { line, consumed } = line::split(bytes, 0) else { panic!("one whole line is there") };
//! assert_eq!(consumed, 16);
//! let Ok(request::Request::Get { keys, .. }) = request::parse(line) else { panic!("it is a get") };
//! assert_eq!(keys.collect::<Vec<_>>(), [&b"apple"[..], b"pear"]);
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod binary;
pub mod encode;
pub mod line;
pub mod meta;
pub mod reply;
pub mod request;
pub mod texts;
pub mod udp;

/// Longest key in bytes on the wire. The original's `KEY_MAX_LENGTH`; base64 keys count as written.
pub const KEY_BYTES_MAX: usize = 250;
