//! How a run ended, and the classic settings of a function's jobs.
//!
//! Apart because handlers name these and nothing else of the runtime.

use crate::finish::Finish;
use crate::job::{Job, When};
use crate::policy::RetryPolicy;
use std::fmt;
use std::time::Duration;

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Done.
    Complete,
    /// Done, and this is kept beside the exit status, at least for a second: see [`crate::Status::result`].
    CompleteWith(bytes::Bytes),
    /// Failed: runs again as the function's policy says.
    Fail {
        /// What happened.
        message: String,
        /// Kept when it does not run again; 0 counts as 1.
        status: u16,
    },
    /// Failed for good.
    Permanent {
        /// What happened.
        message: String,
        /// Kept; 0 counts as 1.
        status: u16,
    },
    /// Not now; never counts as a failure.
    Decline(Option<When>),
    /// These jobs instead.
    Replace(Vec<Job>),
}

impl Outcome {
    /// A failure with status 1.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::Fail {
            message: message.into(),
            status: 1,
        }
    }

    /// A failure for good, with status 1.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::Permanent {
            message: message.into(),
            status: 1,
        }
    }
}

impl<E: fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Complete,
            Err(error) => Self::fail(error.to_string()),
        }
    }
}

/// The classic settings of a function's jobs.
#[derive(Debug, Clone)]
pub struct FunctionOptions {
    /// Seconds of a lease; kept alive while the job runs.
    pub grab_for: u64,
    /// Whether and when failures run again.
    pub retry: RetryPolicy,
    /// Seconds the exit status is kept; 0 keeps none.
    pub keep_exit_status_for: u64,
    /// A run that takes longer has failed.
    pub timeout: Option<Duration>,
}

impl Default for FunctionOptions {
    fn default() -> Self {
        Self {
            grab_for: 3600,
            retry: RetryPolicy::never(),
            keep_exit_status_for: 0,
            timeout: None,
        }
    }
}

/// An outcome as the end of a run of a function with these settings.
pub(super) fn ending(outcome: Outcome, options: &FunctionOptions) -> Finish {
    let keep = options.keep_exit_status_for;
    match outcome {
        Outcome::Complete => Finish::Complete { status: 0, keep },
        Outcome::CompleteWith(result) => Finish::CompleteWith {
            status: 0,
            keep,
            result,
        },
        Outcome::Fail { message, status } => Finish::Fail {
            message,
            status,
            retry: options.retry.clone(),
            keep,
        },
        Outcome::Permanent { message, status } => Finish::Fail {
            message,
            status,
            retry: RetryPolicy::permanent(),
            keep,
        },
        Outcome::Decline(when) => Finish::Decline(when),
        Outcome::Replace(jobs) => Finish::Replace { jobs, keep },
    }
}
