//! What a program wants to see or change of every job: tracing, tenancy, counting.
//!
//! Apart because neither client nor worker knows what is done there. Hooks are called in the program that inserts or works, never by the
//! database: jobs of Perl programs and of other clients pass unseen.

use crate::error::Error;
use crate::job::Job;
use crate::worker::{JobContext, Outcome};

/// Called around inserts and runs, in the order the hooks were given to [`crate::ClientBuilder::hook`]. They must not block.
pub trait Hooks: Send + Sync {
    /// Before a job is inserted; may change it, for instance give it a trace context. An error refuses the insert, of a list as a whole.
    ///
    /// # Errors
    /// Whatever refuses the job.
    fn before_insert(&self, job: &mut Job) -> Result<(), Error> {
        let _ = job;
        Ok(())
    }

    /// Before a handler is called.
    fn before_work(&self, job: &JobContext) {
        let _ = job;
    }

    /// After a handler answered, panicked or was too late, before that is recorded.
    fn after_work(&self, job: &JobContext, outcome: &Outcome) {
        let _ = (job, outcome);
    }

    /// A job has failed for good, and that is recorded.
    fn on_dead(&self, job: &JobContext, message: &str) {
        let _ = (job, message);
    }
}
