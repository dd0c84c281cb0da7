//! Which job has which key: what makes two submissions to one function the same.
//!
//! The index holds hashes and slots, not keys; the job itself is compared. The hash is keyed ([`crate::Config::hash_seed`]): strangers choose the keys.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};

use bytes::Bytes;

use crate::arena::Arena;
use crate::function::FunctionId;
use crate::job::Job;

/// What makes two submissions to one function the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// The unique key.
    Unique(&'a [u8]),
    /// Unique key `-`: the workload.
    Workload(&'a [u8]),
}

/// The unique key that stands for the workload.
pub(crate) const BY_WORKLOAD: &[u8] = b"-";

impl<'a> Key<'a> {
    /// `None` for what is never the same as anything: no unique key, or `-` without a workload.
    pub(crate) fn of(unique: &'a [u8], workload: &'a [u8]) -> Option<Self> {
        match unique {
            b"" => None,
            BY_WORKLOAD if workload.is_empty() => None,
            BY_WORKLOAD => Some(Self::Workload(workload)),
            unique => Some(Self::Unique(unique)),
        }
    }

    pub(crate) fn to_owned(self) -> OwnedKey {
        match self {
            Self::Unique(unique) => OwnedKey::Unique(Bytes::copy_from_slice(unique)),
            Self::Workload(workload) => OwnedKey::Workload(Bytes::copy_from_slice(workload)),
        }
    }
}

/// A key that outlives its job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OwnedKey {
    Unique(Bytes),
    Workload(Bytes),
}

/// Slots of the jobs that have a key.
#[derive(Debug)]
pub(crate) struct Keys {
    seed: u64,
    slots: BTreeSet<(u64, FunctionId, u32)>,
}

impl Keys {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            slots: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The job of that function with that key.
    pub(crate) fn find(&self, jobs: &Arena, function: FunctionId, key: Key<'_>) -> Option<u32> {
        let hash = self.hash(key);
        self.slots
            .range((hash, function, 0)..=(hash, function, u32::MAX))
            .map(|(_, _, slot)| *slot)
            .find(|slot| key_of(jobs.get(*slot)) == Some(key))
    }

    /// The job with that unique key, in the first of the functions that have one.
    pub(crate) fn first_with_unique(&self, jobs: &Arena, unique: &[u8]) -> Option<u32> {
        let key = Key::Unique(unique);
        let hash = self.hash(key);
        self.slots
            .range((hash, FunctionId(0), 0)..=(hash, FunctionId(u32::MAX), u32::MAX))
            .map(|(_, _, slot)| *slot)
            .find(|slot| key_of(jobs.get(*slot)) == Some(key))
    }

    pub(crate) fn insert(&mut self, function: FunctionId, key: Key<'_>, slot: u32) {
        self.slots.insert((self.hash(key), function, slot));
    }

    /// Forgets the key of a job that was in that slot.
    pub(crate) fn remove(&mut self, job: &Job, slot: u32) {
        if let Some(key) = key_of(job) {
            self.slots.remove(&(self.hash(key), job.function, slot));
        }
    }

    fn hash(&self, key: Key<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        let (kind, bytes) = match key {
            Key::Unique(unique) => (0, unique),
            Key::Workload(workload) => (1, workload),
        };
        hasher.write_u8(kind);
        hasher.write(bytes);
        hasher.finish()
    }

    /// # Panics
    /// When an entry does not lead to a job with that key: a bug in this crate.
    pub(crate) fn check_invariants(&self, jobs: &Arena) {
        for (hash, function, slot) in &self.slots {
            let job = jobs.get(*slot);
            let key = key_of(job).expect("a job in the index has a key");
            assert!(job.is_keyed && job.function == *function);
            assert_eq!(self.hash(key), *hash, "a key leads to its job");
        }
    }
}

/// A job's key, whether it holds it or not. The workload of a job with a key of that kind never leaves memory.
pub(crate) fn key_of(job: &Job) -> Option<Key<'_>> {
    Key::of(job.unique(), job.workload())
}
