//! One binary with all tests that need real processes: the built daemons, their original clients, the units and the compose file. A module per subject.
//!
//! Every server is a child on a free port of the loopback in a folder of its own; a test whose peer is missing says so in one line and is counted as skipped.

mod booted;
mod composed;
mod gearman;
mod gearman_tools;
mod memcached;
mod mogilefs;
mod ops;
mod schwartz;
mod shipped;
