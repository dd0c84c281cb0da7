//! Where jobs live: slots with small indices, an index by number, and the queues threaded through the slots.
//!
//! Queues are lists inside the jobs, so that taking a job out of the middle (cancel, purge, last client gone) costs as little as taking it from the front.

use crate::job::{Job, JobId};
use crate::numbers::Numbers;

/// No job.
pub(crate) const NIL: u32 = u32::MAX;

/// All jobs.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    slots: Vec<Option<Job>>,
    free: Vec<u32>,
    by_id: Numbers,
}

/// Slots kept when everything is gone: below this, giving memory back is not worth the work.
const SLOTS_KEPT: usize = 4096;

impl Arena {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn insert(&mut self, job: Job) -> u32 {
        let id = job.id.0;
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[usize_of(index)] = Some(job);
                index
            }
            None => {
                let index = u32::try_from(self.slots.len())
                    .expect("fewer than four billion jobs fit into memory");
                assert_ne!(index, NIL, "fewer than four billion jobs fit into memory");
                self.slots.push(Some(job));
                index
            }
        };
        self.by_id.insert(id, index);
        index
    }

    pub(crate) fn remove(&mut self, index: u32) -> Job {
        let job = self.slots[usize_of(index)]
            .take()
            .expect("an index is only held while its job lives");
        self.by_id.remove(job.id.0);
        self.free.push(index);
        if self.by_id.len() == 0 && self.slots.len() > SLOTS_KEPT {
            // A backlog of millions must not keep its memory once it is worked off.
            *self = Self::default();
        }
        job
    }

    pub(crate) fn index_of(&self, id: JobId) -> Option<u32> {
        self.by_id.get(id.0)
    }

    /// The job of that number and those behind it, in the order of their numbers.
    pub(crate) fn from(&self, id: JobId) -> impl Iterator<Item = &Job> {
        self.by_id.from(id.0).map(|index| self.get(index))
    }

    /// The job with the largest number.
    pub(crate) fn last(&self) -> Option<&Job> {
        self.by_id.last().map(|index| self.get(index))
    }

    pub(crate) fn get(&self, index: u32) -> &Job {
        self.slots[usize_of(index)]
            .as_ref()
            .expect("an index is only held while its job lives")
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Job {
        self.slots[usize_of(index)]
            .as_mut()
            .expect("an index is only held while its job lives")
    }

    /// All jobs in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((u32::try_from(index).ok()?, slot.as_ref()?)))
    }
}

fn usize_of(index: u32) -> usize {
    usize::try_from(index).expect("no supported machine has smaller addresses than 32 bits")
}

/// A queue: first in, first out, with a door in front for jobs that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) len: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }
}

impl Queue {
    pub(crate) fn push_back(&mut self, jobs: &mut Arena, index: u32) {
        let last = self.tail;
        let job = jobs.get_mut(index);
        (job.previous, job.next) = (last, NIL);
        if last == NIL {
            self.head = index;
        } else {
            jobs.get_mut(last).next = index;
        }
        self.tail = index;
        self.len += 1;
    }

    pub(crate) fn push_front(&mut self, jobs: &mut Arena, index: u32) {
        let first = self.head;
        let job = jobs.get_mut(index);
        (job.previous, job.next) = (NIL, first);
        if first == NIL {
            self.tail = index;
        } else {
            jobs.get_mut(first).previous = index;
        }
        self.head = index;
        self.len += 1;
    }

    pub(crate) fn unlink(&mut self, jobs: &mut Arena, index: u32) {
        let job = jobs.get_mut(index);
        let (previous, next) = (job.previous, job.next);
        (job.previous, job.next) = (NIL, NIL);
        if previous == NIL {
            self.head = next;
        } else {
            jobs.get_mut(previous).next = next;
        }
        if next == NIL {
            self.tail = previous;
        } else {
            jobs.get_mut(next).previous = previous;
        }
        self.len -= 1;
    }

    /// The indices from front to back.
    pub(crate) fn indices(self, jobs: &Arena) -> impl Iterator<Item = u32> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            (at != NIL).then(|| {
                let index = at;
                at = jobs.get(index).next;
                index
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use ibex_gearman_proto::Priority;

    use super::*;
    use crate::function::FunctionId;
    use crate::job::Workload;

    #[test]
    fn a_queue_keeps_its_order_whatever_leaves() {
        let mut jobs = Arena::default();
        let mut queue = Queue::default();
        let indices: Vec<u32> = (1..=5)
            .map(|id| {
                jobs.insert(Job::new(
                    JobId(id),
                    FunctionId(0),
                    Priority::Normal,
                    b"",
                    Workload::Borrowed(b""),
                ))
            })
            .collect();
        for &index in &indices[..4] {
            queue.push_back(&mut jobs, index);
        }
        queue.push_front(&mut jobs, indices[4]);
        let order = |queue: Queue, jobs: &Arena| -> Vec<u64> {
            queue.indices(jobs).map(|i| jobs.get(i).id.0).collect()
        };
        assert_eq!(order(queue, &jobs), [5, 1, 2, 3, 4]);
        queue.unlink(&mut jobs, indices[1]);
        assert_eq!(order(queue, &jobs), [5, 1, 3, 4]);
        queue.unlink(&mut jobs, indices[4]);
        queue.unlink(&mut jobs, indices[3]);
        assert_eq!(order(queue, &jobs), [1, 3]);
        queue.unlink(&mut jobs, indices[0]);
        queue.unlink(&mut jobs, indices[2]);
        assert_eq!(queue, Queue::default());
    }
}
