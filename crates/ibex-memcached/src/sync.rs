//! What store, namespaces and crawls are synchronised with, by name, so that a checker of schedules can put its own in place (tests/it/schedules.rs).

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
pub(crate) use std::thread::yield_now;
