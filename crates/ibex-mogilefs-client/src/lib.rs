//! A MogileFS client: tracker calls, uploads and downloads, administration.
//!
//! A [`Client`] knows several trackers and treats them as one: it starts at a random one, goes round, skips one that refused a connection for a
//! while, and drops a
//! connection after any timeout so that a late reply can never answer the next request. Bytes go straight to and from the storage nodes over pooled
//! HTTP/1.1 connections.
//!
//! - [`tracker`] owns the connections to trackers and the rules of trying again.
//! - [`node`] owns HTTP to storage nodes; the tracker daemon uses it too.
//! - [`client`] puts both together: what it means to store and to fetch a file.
//! - [`download`] is a file being read, which goes on from another replica when one breaks off.
//! - [`admin`] is the cluster's description: domains, classes, hosts, devices, settings, and an idempotent [`admin::Layout`].
//!
//! ```no_run
//! # async fn example() -> Result<(), ibex_mogilefs_client::Error> {
//! use ibex_mogilefs_client::{Client, Config};
//!
//! let client = Client::connect(Config::new(["127.0.0.1:7001"], "photos")).await?;
//! client.store("cat.jpg", "original", "meow").await?;
//! assert_eq!(client.fetch("cat.jpg").await?, "meow");
//! # Ok(())
//! # }
//! ```
//!
//! What it does not do: cache paths, retry for ever, or hide a refusal; every call ends within its own deadline.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
pub mod client;
pub mod config;
pub mod download;
pub mod error;
pub mod node;
pub mod tracker;
mod upload;

pub use client::{Client, FileInfo, PathsOptions, Stored};
pub use config::Config;
pub use download::Download;
pub use error::Error;
pub use ibex_mogilefs_proto::{Checksum, DevId, ErrorCode, Fid, HashAlgorithm};
