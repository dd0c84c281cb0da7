//! Results of jobs that have ended, kept for a while: for clients that ask later (option `results`), and for submissions that an equal job's result will
//! do for (header `dedupe`).
//!
//! Owns what is kept and for how long. In memory, and of durable jobs in the store too, written together with the job's end, so that a restart knows them.
//! Bounded in bytes; what would be forgotten next goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::Mode;

use crate::handle::HandleText;
use crate::io::{Output, Reply};
use crate::job::{ConnId, JobId, Stored};
use crate::keys::{BY_WORKLOAD, Key, OwnedKey, key_of};
use crate::server::JobServer;

/// Bytes of a result that is kept.
pub(crate) const RESULT_BYTES_MAX: usize = 1 << 20;
/// What one result takes beside its bytes: three index entries, for the bound on memory.
const RESULT_OVERHEAD: usize = 256;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// WORK_COMPLETE with this result.
    Complete(Bytes),
    /// WORK_FAIL.
    Fail,
    /// WORK_EXCEPTION with this text.
    Exception(Bytes),
}

impl End {
    /// The packet's data; WORK_FAIL has none.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Complete(data) | Self::Exception(data) => data,
            Self::Fail => &[],
        }
    }

    fn bytes(&self) -> usize {
        self.data().len()
    }

    /// The packet that said so.
    pub(crate) fn packet(&self, handle: HandleText, wants_exceptions: bool) -> Reply {
        match self {
            Self::Complete(data) => Reply::WorkComplete {
                handle,
                data: data.clone(),
            },
            Self::Exception(data) if wants_exceptions => Reply::WorkException {
                handle,
                data: data.clone(),
            },
            Self::Exception(_) | Self::Fail => Reply::WorkFail { handle },
        }
    }
}

/// A result as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// The job's number.
    pub id: JobId,
    /// Function name.
    pub function: Bytes,
    /// Unique key as submitted.
    pub unique: Bytes,
    /// The argument, if it is the key (unique `-`); else empty.
    pub workload: Bytes,
    /// How the job ended.
    pub end: End,
    /// Milliseconds since 1970 at which it ended.
    pub ended_ms: u64,
    /// Milliseconds since 1970 until which it is kept.
    pub until_ms: u64,
}

#[derive(Debug)]
struct Kept {
    end: End,
    /// Wall clock.
    ended_ms: u64,
    until: Instant,
    /// Function and key, of jobs that have one.
    name: Option<(OwnedKey, Bytes)>,
    is_stored: bool,
}

/// The results that are kept.
#[derive(Debug, Default)]
pub(crate) struct Results {
    by_id: BTreeMap<JobId, Kept>,
    /// The last of each name.
    by_name: BTreeMap<(OwnedKey, Bytes), JobId>,
    expiry: BTreeSet<(Instant, JobId)>,
    bytes: usize,
}

impl Results {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, id: JobId) -> Option<&End> {
        self.by_id.get(&id).map(|kept| &kept.end)
    }

    /// Adds the jobs to `gone` whose stored results are to be deleted.
    fn keep(&mut self, id: JobId, kept: Kept, bytes_max: usize, gone: &mut Vec<JobId>) {
        self.bytes += kept.end.bytes() + RESULT_OVERHEAD;
        self.expiry.insert((kept.until, id));
        if let Some(name) = &kept.name {
            self.by_name.insert(name.clone(), id);
        }
        self.by_id.insert(id, kept);
        while self.bytes > bytes_max
            && let Some((_, first)) = self.expiry.first().copied()
        {
            self.forget(first, gone);
        }
    }

    fn forget(&mut self, id: JobId, gone: &mut Vec<JobId>) {
        let Some(kept) = self.by_id.remove(&id) else {
            return;
        };
        if kept.is_stored {
            gone.push(id);
        }
        self.bytes -= kept.end.bytes() + RESULT_OVERHEAD;
        self.expiry.remove(&(kept.until, id));
        if let Some(name) = kept.name
            && self.by_name.get(&name) == Some(&id)
        {
            self.by_name.remove(&name);
        }
    }

    fn forget_old(&mut self, now: Instant, gone: &mut Vec<JobId>) {
        while let Some((until, id)) = self.expiry.first().copied() {
            if until > now {
                return;
            }
            self.forget(id, gone);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.expiry.first().map(|(until, _)| *until)
    }

    /// # Panics
    /// When the indices disagree: a bug in this module.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.expiry.len(), self.by_id.len());
        let bytes: usize = self
            .by_id
            .values()
            .map(|kept| kept.end.bytes() + RESULT_OVERHEAD)
            .sum();
        assert_eq!(self.bytes, bytes);
        for (name, id) in &self.by_name {
            assert_eq!(self.by_id[id].name.as_ref(), Some(name));
        }
    }
}

impl JobServer {
    /// How long the result of a job that ends now is kept; `None` not at all.
    pub(crate) fn result_time(&self, index: u32) -> Option<Duration> {
        let job = self.jobs.get(index);
        let headers = job.headers();
        let ttl = headers
            .and_then(|headers| headers.result_ttl)
            .or(self.config.result_ttl)
            .filter(|_| job.is_background);
        let dedupe = headers.and_then(|headers| headers.dedupe);
        ttl.max(dedupe)
    }

    pub(crate) fn keep_result(&mut self, now: Instant, index: u32, end: End) {
        let Some(time) = self.result_time(index) else {
            return;
        };
        if end.bytes() > RESULT_BYTES_MAX {
            return;
        }
        let job = self.jobs.get(index);
        let (id, is_stored) = (job.id, job.stored != Stored::No);
        let function = self.function(job.function).name.clone();
        let key = key_of(job).map(Key::to_owned);
        let ended_ms = self.wall_ms(now);
        if is_stored {
            let by_workload = Some(job.workload()).filter(|_| job.unique() == BY_WORKLOAD);
            let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let stored = StoredResult {
                id,
                function: function.clone(),
                unique: Bytes::copy_from_slice(job.unique()),
                workload: by_workload.map_or_else(Bytes::new, Bytes::copy_from_slice),
                end: end.clone(),
                ended_ms,
                until_ms: ended_ms.saturating_add(time_ms),
            };
            self.output(Output::KeepResult(stored));
        }
        let kept = Kept {
            end,
            ended_ms,
            until: now + time,
            name: key.map(|key| (key, function)),
            is_stored,
        };
        self.keep(id, kept);
    }

    fn keep(&mut self, id: JobId, kept: Kept) {
        // One from an earlier life whose job had to run again.
        self.results.forget(id, &mut Vec::new());
        let mut gone = Vec::new();
        let bytes_max = self.config.results_bytes_max;
        self.results.keep(id, kept, bytes_max, &mut gone);
        self.forget_stored_results(gone);
    }

    fn forget_stored_results(&mut self, gone: Vec<JobId>) {
        for id in gone {
            self.output(Output::ForgetResult(id));
        }
    }

    /// A result of an earlier life. One whose job runs again, because its end had not reached the disk, is replaced when that ends.
    pub(crate) fn handle_restored_result(&mut self, now: Instant, stored: StoredResult) {
        self.skip_job_id(stored.id);
        let left_ms = stored.until_ms.saturating_sub(self.wall_ms(now));
        let until = now.checked_add(Duration::from_millis(left_ms));
        let Some(until) = until.filter(|_| left_ms > 0) else {
            self.output(Output::ForgetResult(stored.id));
            return;
        };
        let key = Key::of(&stored.unique, &stored.workload).map(Key::to_owned);
        let kept = Kept {
            end: stored.end,
            ended_ms: stored.ended_ms,
            until,
            name: key.map(|key| (key, stored.function)),
            is_stored: true,
        };
        self.keep(stored.id, kept);
    }

    /// The handle of a job with that name which ended well within the window.
    pub(crate) fn done_within(
        &self,
        now: Instant,
        key: Key<'_>,
        function: &[u8],
        window: Duration,
    ) -> Option<JobId> {
        let name = (key.to_owned(), Bytes::copy_from_slice(function));
        let id = self.results.by_name.get(&name)?;
        let kept = self.results.by_id.get(id)?;
        let age = Duration::from_millis(self.wall_ms(now).saturating_sub(kept.ended_ms));
        let is_recent = age < window;
        (is_recent && matches!(kept.end, End::Complete(_))).then_some(*id)
    }

    /// Answers a submission with the result of an equal job.
    pub(crate) fn answer_done(&mut self, conn: ConnId, id: JobId, mode: Mode) {
        self.counters.deduplicated += 1;
        let handle = self.handles.text(id);
        self.reply(conn, Reply::JobCreated { handle });
        if mode == Mode::Foreground {
            self.send_result(conn, id);
        }
    }

    /// Sends the packet that ended a job, if it is kept.
    pub(crate) fn send_result(&mut self, conn: ConnId, id: JobId) {
        let handle = self.handles.text(id);
        let wants_exceptions = self.config.exceptions_for_all
            || self.conns.get(&conn).is_some_and(|c| c.wants_exceptions);
        if let Some(end) = self.results.get(id) {
            let packet = end.packet(handle, wants_exceptions);
            self.reply(conn, packet);
        }
    }

    /// The kept result of a job with that unique key.
    pub(crate) fn result_with_unique(&self, unique: &Bytes) -> Option<JobId> {
        let key = OwnedKey::Unique(unique.clone());
        let (found, id) = self
            .results
            .by_name
            .range((key.clone(), Bytes::new())..)
            .next()?;
        (found.0 == key).then_some(*id)
    }

    pub(crate) fn forget_old_results(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.results.forget_old(now, &mut gone);
        self.forget_stored_results(gone);
    }

    /// Results that are kept, and their bytes.
    #[must_use]
    pub fn kept_results(&self) -> (usize, usize) {
        (self.results.len(), self.results.bytes())
    }
}
