//! What is counted. Metrics and compatibility lists both read these.

/// Times in powers of two of microseconds: bucket n counts times below 2^n µs that bucket n − 1 does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// The counts.
    pub buckets: [u64; 32],
    /// Sum of all times, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    pub(crate) fn observe(&mut self, us: u64) {
        let bucket = usize::try_from(u64::BITS - us.leading_zeros())
            .unwrap_or(0)
            .min(31);
        self.buckets[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// What happened since the start. Metrics and compatibility lists both read these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Jobs created, by [`ibex_gearman_proto::Priority::index`], foreground.
    pub submitted_foreground: [u64; 3],
    /// Jobs created, by priority, background.
    pub submitted_background: [u64; 3],
    /// Submissions that joined a job.
    pub coalesced: u64,
    /// Submissions that were refused.
    pub refused: u64,
    /// Jobs handed to workers.
    pub assigned: u64,
    /// GRAB_JOBs answered by NO_JOB.
    pub grabs_empty: u64,
    /// Jobs that ended well.
    pub completed: u64,
    /// Jobs whose worker said WORK_FAIL.
    pub failed: u64,
    /// Jobs whose worker said WORK_EXCEPTION.
    pub excepted: u64,
    /// Jobs that waited again because their worker was lost, took too long or gave them back.
    pub requeued: u64,
    /// Jobs whose worker took too long.
    pub timed_out: u64,
    /// Background jobs given up.
    pub buried: u64,
    /// Jobs cancelled or purged by an operator.
    pub cancelled: u64,
    /// Foreground jobs dropped because their last client left.
    pub abandoned: u64,
    /// Submissions answered with the kept result of an equal job.
    pub deduplicated: u64,
    /// Jobs that no worker took within their `ttl`.
    pub expired: u64,
    /// Occurrences of recurring jobs.
    pub recurred: u64,
    /// NOOPs sent.
    pub noops: u64,
    /// ERROR packets sent.
    pub errors: u64,
    /// From submission (or return) to assignment.
    pub wait: Histogram,
    /// From assignment to the end.
    pub run: Histogram,
}
