//! Gearman job server with durable background jobs.

fn main() {}
