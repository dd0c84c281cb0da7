//! The Gearman job server as a state machine without sockets or clocks.
