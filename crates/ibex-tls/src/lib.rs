//! TLS for daemons with event loops of their own: certificates from files, sessions over non-blocking sockets, and whom a client's certificate names.
//!
//! The protocol is rustls's. What a daemon's keys are called, when files are read again, and who may do what is the daemon's business.

mod files;
mod name;
mod stream;

pub use files::{Clients, Files, KeyFormat, provider};
pub use name::common_name;
pub use stream::TlsStream;
