//! Gearman job server with durable background jobs.
