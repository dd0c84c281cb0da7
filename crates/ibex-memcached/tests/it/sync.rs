//! What the modules under [`crate::schedules`] are synchronised with: the checker's in place of the standard library's.

pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};
pub(crate) use shuttle::thread::yield_now;
pub(crate) use std::sync::PoisonError;
