//! Recurring jobs (SUBMIT_JOB_SCHED): which there are, when each is due, and the background job each occurrence becomes.
//!
//! A recurring job is known by function and unique key: a later submission of the same pair replaces it, once that is stored. Each occurrence is
//! submitted like SUBMIT_JOB_BG with that unique key, so one that comes while the one before still waits or runs joins it. An occurrence that fell
//! into a time without a server is made up for once, at the start; one that could not be stored is tried again after [`RETRY_MS`].
//!
//! DIFFERS(gearmand): the original answers INVALID_COMMAND.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Submit};

use crate::cron::Cron;
use crate::headers::Headers;
use crate::io::{Output, Reply};
use crate::job::{ConnId, JobId};
use crate::keys::Key;
use crate::server::JobServer;
use crate::view::ScheduleView;

/// Recurring jobs there may be: far more than anybody writes by hand, few enough to be looked through.
const SCHEDULES_MAX: usize = 10_000;

/// After this the store is asked again for an occurrence it refused: long for a hiccup, short for anything that recurs.
const RETRY_MS: u64 = 10_000;

/// A wall clock set back by more than this is believed, and due times are reckoned anew; less, and nothing recurs twice. Cron draws the same line.
const BACK_MS: u64 = 3 * 3_600_000;

/// A recurring job as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSchedule {
    /// Its number, from the numbers of jobs.
    pub id: JobId,
    /// Function name.
    pub function: Bytes,
    /// Unique key; with the function, its name.
    pub unique: Bytes,
    /// Minute, hour, day of month, month, day of week, as sent.
    pub fields: [Bytes; 5],
    /// Milliseconds since 1970 of the next occurrence.
    pub next_ms: u64,
    /// Argument of each occurrence.
    pub workload: Bytes,
}

/// Whether the five fields can be read and ever fit.
#[must_use]
pub fn is_schedule(fields: &[Bytes; 5]) -> bool {
    Cron::parse(fields).is_some()
}

/// Function and unique key.
type Name = (Bytes, Bytes);

#[derive(Debug)]
struct Recurring {
    id: JobId,
    cron: Cron,
    next_ms: u64,
    workload: Bytes,
}

/// On its way into the store.
#[derive(Debug)]
struct Pending {
    name: Name,
    recurring: Recurring,
    conn: ConnId,
    place: u64,
    /// An operator dropped it meanwhile.
    is_dropped: bool,
}

/// All recurring jobs.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    by_name: BTreeMap<Name, Recurring>,
    names: BTreeMap<JobId, Name>,
    due: BTreeSet<(u64, JobId)>,
    pending: BTreeMap<JobId, Pending>,
}

impl Schedules {
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|(next_ms, _)| *next_ms)
    }

    pub(crate) fn is_pending(&self, id: JobId) -> bool {
        self.pending.contains_key(&id)
    }

    pub(crate) fn is_known(&self, id: JobId) -> bool {
        self.names.contains_key(&id)
    }

    fn put(&mut self, name: Name, recurring: Recurring) {
        self.take(&name);
        self.due.insert((recurring.next_ms, recurring.id));
        self.names.insert(recurring.id, name.clone());
        self.by_name.insert(name, recurring);
    }

    fn take(&mut self, name: &Name) -> Option<Recurring> {
        let gone = self.by_name.remove(name)?;
        self.due.remove(&(gone.next_ms, gone.id));
        self.names.remove(&gone.id);
        Some(gone)
    }

    fn stored(name: &Name, recurring: &Recurring) -> StoredSchedule {
        StoredSchedule {
            id: recurring.id,
            function: name.0.clone(),
            unique: name.1.clone(),
            fields: recurring.cron.fields.clone(),
            next_ms: recurring.next_ms,
            workload: recurring.workload.clone(),
        }
    }

    /// # Panics
    /// When the indices disagree: a bug in this module.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.due.len(), self.by_name.len());
        assert_eq!(self.names.len(), self.by_name.len());
        for (name, recurring) in &self.by_name {
            assert!(self.due.contains(&(recurring.next_ms, recurring.id)));
            assert_eq!(self.names.get(&recurring.id), Some(name));
            assert!(!self.pending.contains_key(&recurring.id));
        }
    }
}

impl JobServer {
    /// SUBMIT_JOB_SCHED, its names and sizes checked.
    pub(crate) fn submit_schedule(
        &mut self,
        now: Instant,
        conn: ConnId,
        submit: &Submit<'_>,
        fields: [&[u8]; 5],
    ) -> Result<(), (ErrorCode, &'static str)> {
        let bad = (ErrorCode::InvalidArgument, error_text::BAD_SCHEDULE);
        let cron = Cron::parse(&fields.map(Bytes::copy_from_slice)).ok_or(bad)?;
        let next_ms = cron.next_after(self.wall_ms(now)).ok_or(bad)?;
        if self.is_draining {
            return Err((ErrorCode::QueueError, error_text::DRAINING));
        }
        if self.schedules.by_name.len() + self.schedules.pending.len() >= SCHEDULES_MAX {
            return Err((ErrorCode::QueueError, error_text::QUEUE_FULL));
        }
        let id = self.take_job_id();
        let name = (
            Bytes::copy_from_slice(submit.function),
            Bytes::copy_from_slice(submit.unique),
        );
        let recurring = Recurring {
            id,
            cron,
            next_ms,
            workload: Bytes::copy_from_slice(submit.workload),
        };
        if !self.config.has_store {
            self.schedules.put(name, recurring);
            let handle = self.handles.text(id);
            self.reply(conn, Reply::JobCreated { handle });
            return Ok(());
        }
        let stored = Schedules::stored(&name, &recurring);
        let place = self.hold_place(conn);
        let pending = Pending {
            name,
            recurring,
            conn,
            place,
            is_dropped: false,
        };
        self.schedules.pending.insert(id, pending);
        self.output(Output::KeepSchedule(stored));
        Ok(())
    }

    pub(crate) fn handle_schedule_kept(&mut self, id: JobId) {
        let Some(pending) = self.schedules.pending.remove(&id) else {
            return;
        };
        if !pending.is_dropped {
            self.schedules.put(pending.name, pending.recurring);
        }
        let handle = self.handles.text(id);
        self.fill_place(pending.conn, pending.place, Reply::JobCreated { handle });
    }

    pub(crate) fn handle_schedule_refused(&mut self, id: JobId) {
        let Some(pending) = self.schedules.pending.remove(&id) else {
            return;
        };
        self.counters.refused += 1;
        self.counters.errors += 1;
        let error = Reply::Error {
            code: Bytes::from_static(ErrorCode::QueueError.as_str().as_bytes()),
            text: Bytes::from_static(error_text::STORE_FAILED.as_bytes()),
        };
        self.fill_place(pending.conn, pending.place, error);
        let name = pending.name;
        let is_overtaken = self.schedules.pending.values().any(|p| p.name == name);
        if is_overtaken {
            return;
        }
        // A commit whose outcome is unknown may have stored what is refused now: the row is made what it was, to be sure.
        match self.schedules.by_name.get(&name) {
            Some(current) => {
                let stored = Schedules::stored(&name, current);
                self.output(Output::RestoreSchedule(stored));
            }
            None => self.output_drop(name),
        }
    }

    pub(crate) fn handle_restored_schedule(&mut self, stored: StoredSchedule) {
        self.skip_job_id(stored.id);
        if let Some(cron) = Cron::parse(&stored.fields) {
            let recurring = Recurring {
                id: stored.id,
                cron,
                next_ms: stored.next_ms,
                workload: stored.workload,
            };
            self.schedules
                .put((stored.function, stored.unique), recurring);
        }
    }

    /// Ends a recurring job; occurrences that are jobs already stay. Says whether there was one.
    pub fn drop_schedule(&mut self, function: &[u8], unique: &[u8]) -> bool {
        let name = (
            Bytes::copy_from_slice(function),
            Bytes::copy_from_slice(unique),
        );
        let mut is_known = self.schedules.take(&name).is_some();
        for pending in self.schedules.pending.values_mut() {
            if pending.name == name {
                pending.is_dropped = true;
                is_known = true;
            }
        }
        if is_known && self.config.has_store {
            self.output_drop(name);
        }
        is_known
    }

    /// `cancel job` of a recurring job's handle.
    pub(crate) fn drop_schedule_numbered(&mut self, id: JobId) -> bool {
        match self.schedules.names.get(&id).cloned() {
            Some((function, unique)) => self.drop_schedule(&function, &unique),
            None => false,
        }
    }

    fn output_drop(&mut self, (function, unique): Name) {
        self.output(Output::DropSchedule { function, unique });
    }

    /// Submits the occurrences whose time has come.
    pub(crate) fn release_recurring(&mut self, now: Instant) {
        let wall_ms = self.wall_ms(now);
        while let Some((next_ms, id)) = self.schedules.due.first().copied() {
            if next_ms > wall_ms {
                break;
            }
            let name = self.schedules.names[&id].clone();
            let recurring = &self.schedules.by_name[&name];
            let workload = recurring.workload.clone();
            let next_ms = recurring.cron.next_after(wall_ms).unwrap_or(u64::MAX);
            self.submit_occurrence(now, id, &name, &workload);
            self.move_schedule(&name, next_ms);
        }
    }

    fn submit_occurrence(&mut self, now: Instant, id: JobId, name: &Name, workload: &Bytes) {
        self.counters.recurred += 1;
        let submit = Submit::new(&name.0, &name.1, workload).background();
        if self.is_draining {
            self.counters.refused += 1;
            return;
        }
        let key = Key::of(submit.unique, submit.workload);
        let function = self.names.get(submit.function).copied();
        let taken = key
            .zip(function)
            .and_then(|(key, function)| self.keys.find(&self.jobs, function, key));
        let index = match taken {
            Some(index) => {
                self.join(None, index, submit.mode);
                index
            }
            None if self.check_room(None, &submit).is_err() => {
                self.counters.refused += 1;
                return;
            }
            None => {
                let index = self.create(&submit, 0, Headers::default());
                self.launch(now, None, index);
                index
            }
        };
        self.note_occurrence(index, id);
    }

    /// The store refused an occurrence.
    pub(crate) fn retry_occurrence(&mut self, now: Instant, id: JobId) {
        if let Some(name) = self.schedules.names.get(&id).cloned() {
            let retry_ms = self.wall_ms(now).saturating_add(RETRY_MS);
            let next_ms = self.schedules.by_name[&name].next_ms.min(retry_ms);
            self.move_schedule(&name, next_ms);
        }
    }

    fn move_schedule(&mut self, name: &Name, next_ms: u64) {
        let Some(mut recurring) = self.schedules.take(name) else {
            return;
        };
        recurring.next_ms = next_ms;
        self.schedules.put(name.clone(), recurring);
        if self.config.has_store {
            let (function, unique) = name.clone();
            self.output(Output::MoveSchedule {
                function,
                unique,
                next_ms,
            });
        }
    }

    /// The wall clock was set, from `before_ms`.
    pub(crate) fn reckon_schedules(&mut self, now: Instant, before_ms: u64) {
        let wall_ms = self.wall_ms(now);
        if wall_ms.saturating_add(BACK_MS) >= before_ms {
            return;
        }
        let moved: Vec<(Name, u64)> = self
            .schedules
            .by_name
            .iter()
            .filter_map(|(name, recurring)| {
                let next_ms = recurring.cron.next_after(wall_ms)?;
                (next_ms < recurring.next_ms).then(|| (name.clone(), next_ms))
            })
            .collect();
        for (name, next_ms) in moved {
            self.move_schedule(&name, next_ms);
        }
    }

    /// The recurring jobs, by function and unique key.
    pub fn schedules(&self) -> impl Iterator<Item = ScheduleView> {
        self.schedules
            .by_name
            .iter()
            .map(|((function, unique), r)| ScheduleView {
                handle: self.handles.text(r.id),
                function: function.clone(),
                unique: unique.clone(),
                fields: r.cron.fields.clone(),
                next_ms: r.next_ms,
                workload_bytes: r.workload.len(),
            })
    }
}
