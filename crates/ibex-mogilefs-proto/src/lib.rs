//! The MogileFS wire formats, both directions: the tracker's line protocol and its admin console, the storage node's side channel and usage file, and the paths
//! under which a node keeps a file.
//!
//! The crate turns bytes into messages and messages into bytes. It opens no socket, reads no clock and keeps no state between calls, so the tracker,
//! the storage node, the client
//! library and the tests all speak through the same few functions.
//!
//! ```
//! use ibex_mogilefs_proto::{Command, Line, Pairs, Reply};
//!
//! let Line::Command { name, args } = Line::parse(b"get_paths domain=t&key=a+b") else { panic!("a command") };
//! assert_eq!(Command::parse(name), Some(Command::GetPaths));
//! assert_eq!(Pairs::decode(args).value("key"), Some(&b"a b"[..]));
//!
//! let mut out = bytes::BytesMut::new();
//! Reply::Ok(Pairs::new().with("paths", "0")).encode(Some(b"7"), &mut out);
//! assert_eq!(&out[..], b"OK callid=7&paths=0\r\n");
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checksum;
pub mod command;
pub mod console;
pub mod error_code;
pub mod ids;
pub mod line;
pub mod path;
pub mod reply;
pub mod side;
pub mod urlencode;
pub mod usage;

pub use checksum::{Checksum, HashAlgorithm};
pub use command::Command;
pub use error_code::ErrorCode;
pub use ids::{DevId, Fid};
pub use line::{Line, LineError, REQUEST_BYTES_MAX, Step};
pub use reply::{Reply, ReplyError};
pub use urlencode::Pairs;
