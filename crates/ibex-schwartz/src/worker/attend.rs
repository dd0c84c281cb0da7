//! One run from its start to its record: the handler under its time limit, its lease kept alive, its end written down.
//!
//! Apart because it never fails: what cannot be recorded comes back when the lease ends.

use super::outcome::ending;
use super::{Function, Held, JobContext, Outcome, Worker};
use crate::error::Error;
use crate::finish::Finished;
use std::time::Duration;

/// What a job says whose handler promised a commit that did not come.
const NOT_COMMITTED: &str = "completed in a transaction that was not committed";

impl Worker {
    /// Runs one job to its end and records that.
    pub(super) async fn work(&self, held: Held) {
        let Some((_, function)) = self.find(&held.job().funcname) else {
            // Handed over by handle, for a function that is not ours.
            tracing::debug!(func = %held.job().funcname, job = %held.handle(), "no function for this job, given back");
            if let Err(error) = held.release().await {
                tracing::debug!(error = %error, "job comes back when its lease ends");
            }
            return;
        };
        let function = function.clone();
        let context = JobContext::new(held, &function.options);
        for hook in self.source.hooks() {
            hook.before_work(&context);
        }
        let outcome = attend(&function, &context).await;
        for hook in self.source.hooks() {
            hook.after_work(&context, &outcome);
        }
        self.record(&function, &context, outcome).await;
    }

    async fn record(&self, function: &Function, context: &JobContext, outcome: Outcome) {
        let Some(outcome) = kept_promise(context, outcome).await else {
            return;
        };
        let failure = match &outcome {
            Outcome::Fail { message, .. } | Outcome::Permanent { message, .. } => {
                Some(message.clone())
            }
            Outcome::Complete
            | Outcome::CompleteWith(_)
            | Outcome::Decline(_)
            | Outcome::Replace(_) => None,
        };
        let finish = ending(outcome, &function.options);
        match context.finish(finish, &function.options).await {
            Ok(Finished::Over) => {
                if let Some(message) = failure {
                    for hook in self.source.hooks() {
                        hook.on_dead(context, &message);
                    }
                }
            }
            Ok(_) => {}
            Err(Error::LeaseLost(_) | Error::NotFound(_)) => {
                tracing::warn!(job = %context.handle(), func = context.funcname(), "lease was lost, the outcome counts for nothing");
            }
            Err(error) => {
                tracing::warn!(job = %context.handle(), error = %error, "outcome could not be recorded, job comes back when its lease ends");
            }
        }
    }
}

/// What is left to record: nothing when the handler ended the job in its own transaction, a failure when it did not commit.
async fn kept_promise(context: &JobContext, outcome: Outcome) -> Option<Outcome> {
    if !context.is_ended() {
        return Some(outcome);
    }
    match context.is_still_ours().await {
        Ok(false) => None,
        Ok(true) => match outcome {
            Outcome::Complete | Outcome::CompleteWith(_) | Outcome::Replace(_) => {
                Some(Outcome::fail(NOT_COMMITTED))
            }
            Outcome::Fail { .. } | Outcome::Permanent { .. } | Outcome::Decline(_) => Some(outcome),
        },
        Err(error) => {
            tracing::warn!(job = %context.handle(), error = %error, "nobody knows whether the job's transaction was committed");
            None
        }
    }
}

/// Runs the handler under its time limit while the lease is kept alive; a panic is a failure.
async fn attend(function: &Function, context: &JobContext) -> Outcome {
    let mut task = tokio::spawn((function.handler)(context.clone()));
    let beat = Duration::from_secs((function.options.grab_for / 3).max(1));
    let own = context.held().timeout_s().map(Duration::from_secs);
    let shortest = [function.options.timeout, own].into_iter().flatten().min();
    let limit = async {
        match shortest {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    loop {
        tokio::select! {
            joined = &mut task => {
                return joined.unwrap_or_else(|error| Outcome::fail(if error.is_panic() { panic_text(error) } else { "cancelled".to_owned() }));
            }
            () = &mut limit => {
                task.abort();
                return Outcome::fail("timeout");
            }
            () = tokio::time::sleep(beat) => {
                if let Err(error) = context.heartbeat().await {
                    tracing::debug!(job = %context.handle(), error = %error, "lease could not be extended");
                }
            }
        }
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let panic = error.into_panic();
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked".to_owned())
}
