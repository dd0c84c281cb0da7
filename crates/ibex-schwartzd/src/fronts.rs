//! Doors for those who speak something else than HTTP, each off by default, one module each: `gearman`.
//!
//! A front turns bytes into the daemon's own operations and adds none of its own: [`App::put_each`] writes (and wakes, pokes and counts),
//! `Hub::fetch` takes, [`App::note_out`] puts a lease in the books, [`App::end_run`] ends it under its fence, `App::give_back` returns what a
//! connection had. So every job of a front is a row of the classic tables, and a lease is lost for a front exactly when it is for HTTP. A protocol that
//! is to come (beanstalk, SQS, Faktory) is a module here, a `listen` key, and nothing anywhere else.

pub(crate) mod gearman;

use crate::api::App;
use crate::http::Refusal;
use ::http::StatusCode;
use ibex_schwartz::{Handle, Inserted, Job};

/// A key whose job ended while it was looked at is tried so often.
const KEY_TRIES: usize = 3;

impl App {
    /// Inserts jobs together; the answers are on disk. Each answer is the handle of the new job or of the pending one with the same key.
    pub(crate) async fn put_each(&self, jobs: Vec<Job>) -> Result<Vec<Handle>, Refusal> {
        if self.hub.closing.is_cancelled() {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting_down",
                "this daemon stops",
            ));
        }
        let all = self.client.insert_each(jobs.clone()).await?;
        let mut handles = Vec::with_capacity(all.len());
        for (job, mut inserted) in jobs.into_iter().zip(all) {
            self.inserted(job.funcname(), &inserted);
            for _ in 0..KEY_TRIES {
                if inserted.handle().is_some() {
                    break;
                }
                inserted = self.client.insert(job.clone()).await?;
                self.inserted(job.funcname(), &inserted);
            }
            match inserted {
                Inserted::New(handle) | Inserted::Duplicate(Some(handle)) => handles.push(handle),
                Inserted::Duplicate(None) => {
                    return Err(Refusal::new(
                        StatusCode::CONFLICT,
                        "conflict",
                        "a job with this key is pending",
                    ));
                }
            }
        }
        Ok(handles)
    }
}
