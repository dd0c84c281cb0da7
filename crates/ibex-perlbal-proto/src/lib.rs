//! Perlbal's configuration and management language, HTTP/1 rules, X-REPROXY and range semantics, as pure functions.
//!
//! Owns every byte-level rule of the balancer: what a command line means ([`command`], [`tunable`]), what a valid
//! message is ([`head`], [`framing`], [`chunk`]), how one is passed on ([`forward`]), and the semantics of internal
//! redirects ([`reproxy`]), ranges and conditional requests ([`range`]), paths ([`path`]) and host patterns
//! ([`vhost`]). Apart from the daemon so that each rule can be read and tested without a socket.
//! It knows no clock, no socket and no file: bytes in, decisions out.
//!
//! ```
//! use ibex_perlbal_proto::head::{Limits, RequestParser};
//! let mut parser = RequestParser::default();
//! let mut buffer = bytes::BytesMut::from(&b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nrest"[..]);
//! let request = parser.parse(&mut buffer, &Limits::default()).unwrap().unwrap();
//! assert_eq!(&request.target[..], b"/a");
//! assert_eq!(&buffer[..], b"rest");
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod chunk;
pub mod command;
pub mod date;
pub mod forward;
pub mod framing;
pub mod head;
pub mod mime;
pub mod netmask;
pub mod path;
pub mod range;
pub mod reply;
pub mod reproxy;
pub mod tunable;
pub mod vhost;
