//! Properties of the codecs over whole streams.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod corpus;
