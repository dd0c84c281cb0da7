//! Properties of the codec, over whole streams: round trips, splits, prefixes, and the table of malformed input.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod corpus;
mod malformed;
mod properties;
