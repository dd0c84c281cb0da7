//! Client and worker against scripted servers: what happens when a server is dead, hung, out of step, or gone in the middle.
//!
//! The same client against the real daemons, ours and the original, is tested with the daemon.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod client;
mod extensions;
mod fake;
mod worker;
