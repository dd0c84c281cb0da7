//! What a tracker decides, without doing any of it: which disks a new file goes to, whether a file has enough replicas and where the next one belongs, which
//! replica is one too many, in which order readers try replicas, what a check of a file found and what repairs it.
//!
//! ```text
//!   database rows ──► Cluster (hosts, devices, zones) ──► placement   create_open, get_paths
//!   monitor probes ─►                                 ──► policy      happy / too happy / place here
//!                                                     ──► replicate   next step for one file
//!                                                     ──► fsck        findings and repairs
//!                                                     ──► rebalance   what to move where
//! ```
//!
//! Invariants, checked by the simulation in `tests/it/sim.rs`:
//! - a step never removes a replica unless enough others exist that count;
//! - no two steps for the same situation contradict each other: copying and removing ends;
//! - the same situation and the same seed give the same answer.
//!
//! The crate knows no clock, no socket, no database; randomness is a generator handed in.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod fsck;
pub mod ids;
pub mod netmask;
pub mod placement;
pub mod policy;
pub mod rebalance;
pub mod replicate;
pub mod state;
mod weighted;

pub use cluster::{Cluster, Device, Host};
pub use ibex_mogilefs_proto::{DevId, Fid};
pub use ids::{ClassId, DomainId, HostId};
pub use netmask::{Netmask, Zones};
pub use policy::{Policy, Verdict};
pub use state::{DeviceState, HostState, Observed};
