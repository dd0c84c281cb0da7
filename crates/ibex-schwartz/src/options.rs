//! What a job can ask for beyond the classic columns: limits, windows, parents, batches.
//!
//! Apart from `job.rs` because none of it has a column of the original: it is kept in our own tables, and a job that asks for nothing of it
//! never touches them. Every limit is checked here, before any database is asked.

use crate::error::Error;
use crate::handle::Handle;
use crate::job::{limits, name_is_short};
use crate::policy::Backoff;
use crate::tenant::Tenant;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::fmt::Write;

/// Parents of one job.
pub(crate) const PARENTS_MAX: usize = 1000;
/// Longest window, time to live or rate period: a year.
const SECONDS_MAX: u64 = 366 * 86_400;
/// Bytes of what a job carries beside its argument.
const NOTE_BYTES_MAX: usize = 65_536;
/// Longest run a job may allow itself: 30 days.
const TIMEOUT_MAX: u64 = 30 * 86_400;
/// Longest an exit status is kept: ten years.
const KEEP_MAX: u64 = 3660 * 86_400;
/// What a job of a tenant may cost at most.
const COST_MAX: u32 = 1000;
/// Tags of one job.
const TAGS_MAX: usize = 16;
/// Characters of a tag.
const TAG_CHARS_MAX: usize = 64;
/// Jobs at once, or per period, of one key.
const COUNT_MAX: u32 = 1_000_000;

/// What a failed run does to the place its job has under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFail {
    /// The place is kept until the job is over: with a limit of 1 the jobs of a key end in the order they were inserted.
    Block,
    /// Others of the key go on while the job waits for its next run.
    Skip,
}

/// At most so many jobs of a key are handed out at once, over all programs on the database, Perl's included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    /// 1 to 255 characters; the same key may be used by several functions.
    pub key: String,
    /// From 1. Jobs of a key with different limits: the newest insert's is valid.
    pub limit: u32,
    /// What failures do.
    pub on_fail: OnFail,
}

impl Concurrency {
    /// With a limit of 1 in strict order, else failures let others pass.
    pub fn new(key: impl Into<String>, limit: u32) -> Self {
        let on_fail = if limit == 1 {
            OnFail::Block
        } else {
            OnFail::Skip
        };
        Self {
            key: key.into(),
            limit,
            on_fail,
        }
    }
}

/// At most so many runs of a key in so many seconds, in bursts of at most as many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 255 characters.
    pub key: String,
    /// Runs, from 1.
    pub jobs: u32,
    /// Seconds, from 1.
    pub per: u64,
}

/// What a unique window looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UniqueBy {
    /// The function alone.
    Func,
    /// The function and the argument's bytes.
    Arg,
    /// The function and these fields of an argument that is a JSON object.
    Fields(Vec<String>),
    /// The function and this text.
    Key(String),
}

/// Jobs that would be the same are not inserted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// What makes two jobs the same.
    pub by: UniqueBy,
    /// Seconds from the insert; 0 has no end but the job's own.
    pub window: u64,
    /// While the earlier job waits.
    pub pending: bool,
    /// While a worker has it.
    pub grabbed: bool,
    /// After it completed, until the window ends.
    pub completed: bool,
}

impl Unique {
    /// Until the earlier job is over.
    #[must_use]
    pub fn until_done(by: UniqueBy) -> Self {
        Self {
            by,
            window: 0,
            pending: true,
            grabbed: true,
            completed: false,
        }
    }

    /// Until a worker takes the earlier job.
    #[must_use]
    pub fn until_start(by: UniqueBy) -> Self {
        Self {
            grabbed: false,
            ..Self::until_done(by)
        }
    }

    /// For so many seconds from the insert, whether it is done by then or not.
    #[must_use]
    pub fn window(by: UniqueBy, seconds: u64) -> Self {
        Self {
            window: seconds,
            completed: true,
            ..Self::until_done(by)
        }
    }

    /// The states as bits of a column.
    pub(crate) fn states(&self) -> u32 {
        u32::from(self.pending) | u32::from(self.grabbed) << 1 | u32::from(self.completed) << 2
    }

    /// What two equal jobs have in common, as 32 hex digits.
    pub(crate) fn digest(&self, func: &str, arg: &[u8]) -> Result<String, Error> {
        let mut digest = Md5::new();
        digest.update(func.as_bytes());
        match &self.by {
            UniqueBy::Func => digest.update(b"\0func"),
            UniqueBy::Arg => {
                digest.update(b"\0arg\0");
                digest.update(arg);
            }
            UniqueBy::Key(key) => {
                digest.update(b"\0key\0");
                digest.update(key.as_bytes());
            }
            UniqueBy::Fields(fields) => {
                let object: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(arg).map_err(|_| {
                        Error::Invalid("unique by fields needs a JSON object".to_owned())
                    })?;
                for field in fields {
                    let value = object.get(field).cloned().unwrap_or_default();
                    digest.update(b"\0field\0");
                    digest.update(serde_json::json!([field, value]).to_string().as_bytes());
                }
            }
        }
        Ok(digest
            .finalize()
            .iter()
            .fold(String::with_capacity(32), |mut text, byte| {
                // Writing to a string cannot fail.
                write!(text, "{byte:02x}").unwrap_or_default();
                text
            }))
    }
}

/// A second job with the same function and coalescing value is folded into the one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// JSON arrays are joined, other arguments become lines of one.
    Append,
    /// The newest argument is valid.
    Last,
    /// The newest argument is valid, and the later time.
    MaxDelay,
}

/// A job that must be over before another may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// One that was inserted before.
    Job(Handle),
    /// One of the same list, counted from 0.
    InList(usize),
}

/// What becomes of a job when a parent fails for good or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeath {
    /// It is cancelled, and those that depend on it.
    #[default]
    Cancel,
    /// It runs all the same, once all parents are over.
    Run,
}

/// Everything a job asks for beyond the classic columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) rate: Option<Rate>,
    pub(crate) unique: Option<Unique>,
    pub(crate) merge: Option<Merge>,
    pub(crate) parents: Vec<(Parent, OnDeath)>,
    pub(crate) batch: Option<Handle>,
    pub(crate) expires_in: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) meta: Option<Bytes>,
    pub(crate) trace: Option<String>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout_s: Option<u64>,
    pub(crate) keep: Option<u64>,
    pub(crate) tags: Vec<String>,
    pub(crate) tenant: Option<Tenant>,
}

impl Options {
    /// Whether it must be kept from workers until its turn comes.
    pub(crate) fn is_gated(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some() || !self.parents.is_empty()
    }

    /// Whether it has a row of its own beside the classic one.
    pub(crate) fn has_row(&self) -> bool {
        self.is_gated()
            || self.batch.is_some()
            || self.expires_in.is_some()
            || self.max_attempts.is_some()
            || self.backoff.is_some()
            || self.timeout_s.is_some()
            || self.keep.is_some()
            || !self.tags.is_empty()
            || self.tenant.is_some()
            || self.has_notes()
    }

    /// Whether it carries something beside its argument.
    pub(crate) fn has_notes(&self) -> bool {
        self.meta.is_some() || self.trace.is_some()
    }

    /// The handles it names: all must be of the database it goes to.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.parents
            .iter()
            .filter_map(|(parent, _)| match parent {
                Parent::Job(handle) => Some(handle),
                Parent::InList(_) => None,
            })
            .chain(&self.batch)
    }

    pub(crate) fn check(&self, has_coalesce: bool) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Invalid(what.to_owned()));
        let counts = |count: u32| (1..=COUNT_MAX).contains(&count);
        let seconds = |seconds: u64| (1..=SECONDS_MAX).contains(&seconds);
        if let Some(concurrency) = &self.concurrency
            && !(is_key(&concurrency.key) && counts(concurrency.limit))
        {
            return refuse(
                "concurrency has a key of 1 to 255 characters and a limit of 1 to 1000000",
            );
        }
        if let Some(rate) = &self.rate
            && !(is_key(&rate.key) && counts(rate.jobs) && seconds(rate.per))
        {
            return refuse(
                "rate has a key of 1 to 255 characters, 1 to 1000000 jobs and a period of at most a year",
            );
        }
        if let Some(unique) = &self.unique {
            if unique.window > SECONDS_MAX {
                return refuse("a unique window is at most a year");
            }
            if unique.completed && unique.window == 0 {
                return refuse("unique against completed jobs needs a window");
            }
            if unique.states() == 0 {
                return refuse("unique needs a state to look at");
            }
        }
        if self.merge.is_some() && !has_coalesce {
            return refuse("merging needs a coalescing value");
        }
        if self.merge.is_some() && (self.has_row() || self.unique.is_some()) {
            return refuse(
                "merging goes with no limit, window, batch or parent: the waiting job has its own",
            );
        }
        if self.parents.len() > PARENTS_MAX {
            return refuse("a job depends on at most 1000 others");
        }
        if !self.expires_in.is_none_or(seconds) {
            return refuse("a job expires after 1 second to a year");
        }
        if self
            .meta
            .as_ref()
            .is_some_and(|meta| meta.len() > NOTE_BYTES_MAX)
            || self.trace.as_ref().is_some_and(|trace| trace.len() > 1024)
        {
            return refuse("meta has at most 65536 bytes, a trace context 1024");
        }
        if self.max_attempts == Some(0) {
            return refuse("a job has at least one attempt");
        }
        self.check_policy()
    }

    fn check_policy(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Invalid(what.to_owned()));
        if let Some(backoff) = &self.backoff {
            backoff.check()?;
        }
        if !self
            .timeout_s
            .is_none_or(|seconds| (1..=TIMEOUT_MAX).contains(&seconds))
        {
            return refuse("an attempt may take 1 second to 30 days");
        }
        if self.keep.is_some_and(|seconds| seconds > KEEP_MAX) {
            return refuse("an exit status is kept ten years at most");
        }
        if self
            .tenant
            .as_ref()
            .is_some_and(|tenant| !is_key(&tenant.key) || !(1..=COST_MAX).contains(&tenant.cost))
        {
            return refuse(
                "a tenant has a key of 1 to 255 characters, and its job costs 1 to 1000",
            );
        }
        if self.tags.len() > TAGS_MAX || !self.tags.iter().all(|tag| is_tag(tag)) {
            return refuse(
                "a job has at most 16 tags of 1 to 64 characters, none of them a control",
            );
        }
        Ok(())
    }
}

/// Whether a text can be a tag.
fn is_tag(tag: &str) -> bool {
    let count = tag.chars().count();
    (1..=TAG_CHARS_MAX).contains(&count) && !tag.chars().any(char::is_control)
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && name_is_short(key)
}

/// `now` plus seconds, inside the column.
pub(crate) fn bounded(epoch: u64) -> u64 {
    epoch.min(limits::RUN_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_jobs_have_equal_digests_and_others_have_not() {
        let by = |by: UniqueBy, func: &str, arg: &str| {
            Unique::until_done(by).digest(func, arg.as_bytes()).unwrap()
        };
        let fields = || UniqueBy::Fields(vec!["a".to_owned()]);
        assert_eq!(
            by(fields(), "f", r#"{"a":1,"b":2}"#),
            by(fields(), "f", r#"{"b":3,"a":1}"#)
        );
        let all = [
            by(fields(), "f", r#"{"a":1}"#),
            by(fields(), "f", r#"{"a":2}"#),
            by(fields(), "f", "{}"),
            by(UniqueBy::Func, "f", ""),
            by(UniqueBy::Func, "g", ""),
            by(UniqueBy::Arg, "f", ""),
            by(UniqueBy::Arg, "f", "x"),
            by(UniqueBy::Key("x".to_owned()), "f", ""),
        ];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(
            Unique::until_done(fields()).digest("f", b"[1]").is_err(),
            "no object"
        );
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let refused = |options: Options| options.check(false).is_err();
        let with = |limit, key: &str| Options {
            concurrency: Some(Concurrency::new(key, limit)),
            ..Options::default()
        };
        assert!(!refused(with(1, "k")) && refused(with(0, "k")) && refused(with(1, "")));
        assert!(refused(with(1, &"k".repeat(256))) && refused(with(1_000_001, "k")));
        let rate = |jobs, per| Options {
            rate: Some(Rate {
                key: "k".to_owned(),
                jobs,
                per,
            }),
            ..Options::default()
        };
        assert!(!refused(rate(1, 1)) && refused(rate(0, 1)) && refused(rate(1, 0)));
        let unique = |unique| Options {
            unique: Some(unique),
            ..Options::default()
        };
        assert!(refused(unique(Unique::window(UniqueBy::Func, 0))));
        assert!(!refused(unique(Unique::window(UniqueBy::Func, 1))));
        let merge = Options {
            merge: Some(Merge::Last),
            ..Options::default()
        };
        assert!(merge.check(true).is_ok() && merge.check(false).is_err());
        assert!(refused(Options {
            max_attempts: Some(0),
            ..Options::default()
        }));
    }

    #[test]
    fn limits_of_policies_and_tags() {
        let refused = |options: Options| options.check(false).is_err();
        let timeout = |seconds| Options {
            timeout_s: Some(seconds),
            ..Options::default()
        };
        assert!(refused(timeout(0)) && !refused(timeout(1)));
        assert!(!refused(timeout(TIMEOUT_MAX)) && refused(timeout(TIMEOUT_MAX + 1)));
        let keep = |seconds| Options {
            keep: Some(seconds),
            ..Options::default()
        };
        assert!(!refused(keep(0)) && !refused(keep(KEEP_MAX)) && refused(keep(KEEP_MAX + 1)));
        let tenant = |key: &str, cost| Options {
            tenant: Some(Tenant {
                key: key.to_owned(),
                cost,
            }),
            ..Options::default()
        };
        assert!(!refused(tenant("t", 1)) && !refused(tenant("t", 1000)));
        assert!(refused(tenant("", 1)) && refused(tenant("t", 0)) && refused(tenant("t", 1001)));
        let tags = |tags: Vec<String>| Options {
            tags,
            ..Options::default()
        };
        let many = |count: usize| (0..count).map(|n| n.to_string()).collect();
        assert!(!refused(tags(many(16))) && refused(tags(many(17))));
        assert!(!refused(tags(vec!["☺".repeat(64)])) && refused(tags(vec!["☺".repeat(65)])));
        assert!(refused(tags(vec![String::new()])) && refused(tags(vec!["a\nb".to_owned()])));
    }
}
