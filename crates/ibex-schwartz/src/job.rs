//! Jobs before and after they are rows.
//!
//! Apart because both directions and all limits of the classic columns are here, checked before any database is asked. It
//! writes nothing.

use crate::error::Error;
use crate::handle::Handle;
use crate::options::{Concurrency, Merge, OnDeath, Options, Parent, Rate, Unique};
use crate::policy::Backoff;
use crate::tenant::Tenant;
use bytes::Bytes;

/// Limits of the classic tables; what exceeds them is refused before a statement is sent.
pub mod limits {
    /// Characters of a function name, key or coalescing value: the columns are VARCHAR(255).
    pub const NAME_CHARS_MAX: usize = 255;
    /// Bytes of an argument: MEDIUMBLOB.
    pub const ARG_BYTES_MAX: usize = 16_777_215;
    /// The last second a job can be set to; one more is the mark of parked jobs.
    pub const RUN_AFTER_MAX: u64 = 4_294_967_294;
    /// Characters of an error message: VARCHAR(255).
    pub const MESSAGE_CHARS_MAX: usize = 255;
}

/// When a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// As soon as a worker takes it.
    #[default]
    Now,
    /// This many seconds from the database's now.
    In(u64),
    /// At this second since the epoch.
    At(u64),
}

/// A job to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub(crate) funcname: String,
    pub(crate) arg: Bytes,
    pub(crate) uniqkey: Option<String>,
    pub(crate) coalesce: Option<String>,
    pub(crate) run_after: When,
    pub(crate) priority: Option<u16>,
    /// What it asks for beyond the classic columns; most jobs ask for nothing.
    pub(crate) options: Option<Box<Options>>,
}

impl Job {
    /// A job for `funcname`; the argument is bytes, stored as they are.
    pub fn new(funcname: impl Into<String>, arg: impl Into<Bytes>) -> Self {
        Self {
            funcname: funcname.into(),
            arg: arg.into(),
            uniqkey: None,
            coalesce: None,
            run_after: When::Now,
            priority: None,
            options: None,
        }
    }

    /// A job whose argument Perl thaws to the same structure (arrays and objects only).
    ///
    /// # Errors
    /// [`Error::Invalid`] when `value` is neither an array nor an object, or too deep.
    pub fn with_storable(
        funcname: impl Into<String>,
        value: &serde_json::Value,
    ) -> Result<Self, Error> {
        let arg =
            crate::storable::encode(value).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Self::new(funcname, arg))
    }

    /// While a job of the same function with this key is pending, inserting another one does nothing.
    #[must_use]
    pub fn uniqkey(mut self, key: impl Into<String>) -> Self {
        self.uniqkey = Some(key.into());
        self
    }

    /// Jobs with the same value can be worked together.
    #[must_use]
    pub fn coalesce(mut self, value: impl Into<String>) -> Self {
        self.coalesce = Some(value.into());
        self
    }

    /// Not before this second since the epoch.
    #[must_use]
    pub fn run_after(mut self, epoch: u64) -> Self {
        self.run_after = When::At(epoch);
        self
    }

    /// Not before this many seconds from now, by the database's clock.
    #[must_use]
    pub fn delay(mut self, seconds: u64) -> Self {
        self.run_after = When::In(seconds);
        self
    }

    /// Bigger is more urgent, for workers that look at priorities.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = Some(priority);
        self
    }

    fn options(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    /// At most so many jobs of the key are handed out at once, over all programs on the database. The job is kept from Perl workers, too,
    /// until it is its turn.
    #[must_use]
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.options().concurrency = Some(concurrency);
        self
    }

    /// At most so many runs of the key in so many seconds.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.options().rate = Some(rate);
        self
    }

    /// While an equal job counts, inserting this one does nothing.
    #[must_use]
    pub fn unique(mut self, unique: Unique) -> Self {
        self.options().unique = Some(unique);
        self
    }

    /// Folds the argument into a waiting job of the function with the same coalescing value, if there is one.
    #[must_use]
    pub fn merge(mut self, merge: Merge) -> Self {
        self.options().merge = Some(merge);
        self
    }

    /// Not before `parent` is over; call it for each parent.
    #[must_use]
    pub fn depends_on(mut self, parent: Parent, on_death: OnDeath) -> Self {
        self.options().parents.push((parent, on_death));
        self
    }

    /// Counts in this batch, see [`crate::Client::batch`].
    #[must_use]
    pub fn batch(mut self, batch: &Handle) -> Self {
        self.options().batch = Some(batch.clone());
        self
    }

    /// Is removed as `expired` when no worker started it within so many seconds.
    #[must_use]
    pub fn expires_in(mut self, seconds: u64) -> Self {
        self.options().expires_in = Some(seconds);
        self
    }

    /// Runs at most so many times, whatever its worker's policy says.
    #[must_use]
    pub fn max_attempts(mut self, runs: u32) -> Self {
        self.options().max_attempts = Some(runs);
        self
    }

    /// Waits so long between its runs, whatever its function and its worker say.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options().backoff = Some(backoff);
        self
    }

    /// A run that takes longer than so many seconds (1 to 30 days) has failed with "timeout", however often its worker says that it lives.
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.options().timeout_s = Some(seconds);
        self
    }

    /// Its exit status is kept for so many seconds, whatever its function and its worker say; 0 keeps none.
    #[must_use]
    pub fn keep_exit_status_for(mut self, seconds: u64) -> Self {
        self.options().keep = Some(seconds);
        self
    }

    /// A word to find it by ([`crate::Query::tag`]), 1 to 64 characters; call it for each, 16 at most. The same word twice is one.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        let tags = &mut self.options().tags;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        self
    }

    /// Belongs to a tenant: of the function's jobs each tenant's have their turn, however many another has waiting, for workers of ours that take
    /// them in order of age.
    #[must_use]
    pub fn tenant(self, key: impl Into<String>) -> Self {
        self.tenant_cost(key, 1)
    }

    /// As [`Job::tenant`], for a job that counts as so many (1 to 1000): its tenant's next turns are the rarer.
    #[must_use]
    pub fn tenant_cost(mut self, key: impl Into<String>, cost: u32) -> Self {
        let key = key.into();
        self.options().tenant = Some(Tenant { key, cost });
        self
    }

    /// Carries at most 65,536 bytes for the worker beside the argument, in the classic table `note` under `sz.meta`.
    #[must_use]
    pub fn meta(mut self, meta: impl Into<Bytes>) -> Self {
        self.options().meta = Some(meta.into());
        self
    }

    /// Carries a trace context (W3C `traceparent`), in the classic table `note` under `sz.trace`.
    #[must_use]
    pub fn trace(mut self, traceparent: impl Into<String>) -> Self {
        self.options().trace = Some(traceparent.into());
        self
    }

    /// The function.
    #[must_use]
    pub fn funcname(&self) -> &str {
        &self.funcname
    }

    /// The argument.
    #[must_use]
    pub fn arg(&self) -> &Bytes {
        &self.arg
    }

    /// When it may run.
    #[must_use]
    pub fn when(&self) -> When {
        self.run_after
    }

    /// Its priority, if it has one.
    #[must_use]
    pub fn priority_value(&self) -> Option<u16> {
        self.priority
    }

    /// Checks every limit of the classic columns.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::TooLarge`].
    pub fn check(&self) -> Result<(), Error> {
        check_funcname(&self.funcname)?;
        check_name("uniqkey", self.uniqkey.as_deref())?;
        check_name("coalesce", self.coalesce.as_deref())?;
        if let Some(options) = &self.options {
            options.check(self.coalesce.is_some())?;
        }
        if self.arg.len() > limits::ARG_BYTES_MAX {
            return Err(Error::TooLarge {
                bytes: self.arg.len(),
                max: limits::ARG_BYTES_MAX,
            });
        }
        match self.run_after {
            When::At(epoch) if epoch > limits::RUN_AFTER_MAX => Err(Error::Invalid(format!(
                "run_after is at most {}",
                limits::RUN_AFTER_MAX
            ))),
            When::In(seconds) if seconds > limits::RUN_AFTER_MAX / 2 => {
                Err(Error::Invalid("delay is beyond the end of time".to_owned()))
            }
            When::Now | When::In(_) | When::At(_) => Ok(()),
        }
    }
}

pub(crate) fn check_funcname(name: &str) -> Result<(), Error> {
    let count = name.chars().count();
    if count == 0 || count > limits::NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::Invalid(
            "a function name has 1 to 255 characters, none of them a control".to_owned(),
        ));
    }
    Ok(())
}

pub(crate) fn name_is_short(name: &str) -> bool {
    name.chars().count() <= limits::NAME_CHARS_MAX
}

fn check_name(what: &str, value: Option<&str>) -> Result<(), Error> {
    match value {
        Some(value) if !name_is_short(value) => {
            Err(Error::Invalid(format!("{what} has at most 255 characters")))
        }
        Some(_) | None => Ok(()),
    }
}

/// A job as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJob {
    /// The row's number, never used again in its database.
    pub jobid: u64,
    /// Number of the function there.
    pub funcid: u32,
    /// The function.
    pub funcname: String,
    /// The argument; see [`crate::storable`] for those that Perl froze.
    pub arg: Bytes,
    /// Unique among pending jobs of the function.
    pub uniqkey: Option<String>,
    /// Groups jobs that can be worked together.
    pub coalesce: Option<String>,
    /// Epoch seconds.
    pub insert_time: Option<u64>,
    /// Epoch seconds.
    pub run_after: u64,
    /// Epoch seconds; the end of the lease, and its fence.
    pub grabbed_until: u64,
    /// Bigger is more urgent.
    pub priority: Option<u16>,
    /// Bytes of the argument in the row; more than `arg` has when a [`crate::Query::arg_bytes`] cut it.
    pub arg_bytes: u64,
    /// The argument is sealed with a key this program does not have, or only its beginning was read: `arg` is empty.
    pub is_encrypted: bool,
    /// Such an argument as it lies in the row, for those who have the key; empty for all others, and when it was cut.
    pub sealed: Bytes,
    /// Only the beginning of the argument was read, see [`crate::Query::arg_bytes`].
    pub is_cut: bool,
}

/// Cuts a message to what the classic column holds, in characters and never inside one.
pub(crate) fn cut_message(message: &str) -> String {
    // The column's character set may have no four-byte characters; U+0000 cannot be told from an end by C programs.
    message
        .chars()
        .map(|c| if c == '\0' { ' ' } else { c })
        .take(limits::MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_at_minus_one_zero_and_plus_one() {
        let name = |count| Job::new("x".repeat(count), "").check().is_ok();
        assert_eq!(
            [name(0), name(1), name(254), name(255), name(256)],
            [false, true, true, true, false]
        );
        let key = |count: usize| Job::new("f", "").uniqkey("☺".repeat(count)).check().is_ok();
        assert_eq!([key(0), key(255), key(256)], [true, true, false]);
        let arg = |bytes: usize| Job::new("f", vec![0; bytes]).check().is_ok();
        assert_eq!(
            [arg(limits::ARG_BYTES_MAX), arg(limits::ARG_BYTES_MAX + 1)],
            [true, false]
        );
        let at = |epoch| Job::new("f", "").run_after(epoch).check().is_ok();
        assert_eq!(
            [at(limits::RUN_AFTER_MAX), at(limits::RUN_AFTER_MAX + 1)],
            [true, false]
        );
        assert!(Job::new("a\nb", "").check().is_err());
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let cut = cut_message(&"☺".repeat(300));
        assert_eq!((cut.chars().count(), cut.len()), (255, 765));
        assert_eq!(cut_message("short"), "short");
    }
}
