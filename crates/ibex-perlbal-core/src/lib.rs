//! The balancer's decisions: which request gets which backend connection, when to connect where, what to buffer.
//!
//! ```text
//!   Ask ──► [ queues: high | normal | low ] ──┐
//!                                             ├──► Assign(ticket, connection)
//!   Connect ──► connecting ──► verifying ──► idle ◄── Released
//!      ▲                            │          │
//!      └── wanted = waiting + ahead − idle − pending     Close
//! ```
//!
//! Owns the principle of the original: requests wait in the proxy's own queue until a connection is proven free;
//! connections take requests, not the other way round, so a fast or idle backend comes back for work sooner and no
//! weights are needed. Apart from the daemon as a state machine: time is an argument, randomness a seed, effects are
//! outputs. It opens no socket and reads no clock.
//!
//! Invariants, checked after every change in debug builds: a waiting request and a usable idle connection never exist at
//! the same time; every ticket is assigned or refused at most once unless it comes back as stale; class order, and first
//! come first served within a class; a node that left the pool gets no new request.

#![forbid(unsafe_code)]

pub mod dispatcher;
mod nodes;
mod queue;
pub mod retry;
pub mod upload;
