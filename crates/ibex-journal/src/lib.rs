//! Blogging site that composes the whole family.

pub mod smtp_sink;
pub mod seed;
