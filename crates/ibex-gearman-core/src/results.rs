//! Results of jobs that have ended, kept for a while: for clients that ask later (option `results`), and for submissions that an equal job's result will
//! do for (header `dedupe`).
//!
//! Owns what is kept and for how long. In memory only: a result is worth less than its job, and a restart forgets it. Bounded in bytes; what would be
//! forgotten next goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::Mode;

use crate::handle::HandleText;
use crate::job::{ConnId, JobId};
use crate::server::{JobServer, Key, Reply};

/// Bytes of a result that is kept.
pub(crate) const RESULT_BYTES_MAX: usize = 1 << 20;
/// What one result takes beside its bytes: three index entries, for the bound on memory.
const RESULT_OVERHEAD: usize = 256;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Complete(Bytes),
    Fail,
    Exception(Bytes),
}

impl End {
    fn bytes(&self) -> usize {
        match self {
            Self::Complete(data) | Self::Exception(data) => data.len(),
            Self::Fail => 0,
        }
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

#[derive(Debug)]
struct Kept {
    end: End,
    ended_at: Instant,
    until: Instant,
    /// Function and key, of jobs that have one.
    name: Option<(Key, Bytes)>,
}

/// The results that are kept.
#[derive(Debug, Default)]
pub(crate) struct Results {
    by_id: BTreeMap<JobId, Kept>,
    /// The last of each name.
    by_name: BTreeMap<(Key, Bytes), JobId>,
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

    fn keep(&mut self, id: JobId, kept: Kept, bytes_max: usize) {
        self.bytes += kept.end.bytes() + RESULT_OVERHEAD;
        self.expiry.insert((kept.until, id));
        if let Some(name) = &kept.name {
            self.by_name.insert(name.clone(), id);
        }
        self.by_id.insert(id, kept);
        while self.bytes > bytes_max
            && let Some((_, first)) = self.expiry.first().copied()
        {
            self.forget(first);
        }
    }

    fn forget(&mut self, id: JobId) {
        let Some(kept) = self.by_id.remove(&id) else {
            return;
        };
        self.bytes -= kept.end.bytes() + RESULT_OVERHEAD;
        self.expiry.remove(&(kept.until, id));
        if let Some(name) = kept.name
            && self.by_name.get(&name) == Some(&id)
        {
            self.by_name.remove(&name);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((until, id)) = self.expiry.first().copied() {
            if until > now {
                return;
            }
            self.forget(id);
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
        let name = crate::submit::key_from(job.unique.clone(), &job.workload)
            .map(|key| (key, self.function(job.function).name.clone()));
        let kept = Kept {
            end,
            ended_at: now,
            until: now + time,
            name,
        };
        self.results
            .keep(job.id, kept, self.config.results_bytes_max);
    }

    /// The handle of a job with that name which ended well within the window.
    pub(crate) fn done_within(
        &self,
        now: Instant,
        key: &Key,
        function: &[u8],
        window: Duration,
    ) -> Option<JobId> {
        let name = (key.clone(), Bytes::copy_from_slice(function));
        let id = self.results.by_name.get(&name)?;
        let kept = self.results.by_id.get(id)?;
        let is_recent = now.saturating_duration_since(kept.ended_at) < window;
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
        let key = Key::Unique(unique.clone());
        let (found, id) = self
            .results
            .by_name
            .range((key.clone(), Bytes::new())..)
            .next()?;
        (found.0 == key).then_some(*id)
    }

    pub(crate) fn forget_old_results(&mut self, now: Instant) {
        self.results.forget_old(now);
    }

    /// Results that are kept, and their bytes.
    #[must_use]
    pub fn kept_results(&self) -> (usize, usize) {
        (self.results.len(), self.results.bytes())
    }
}
