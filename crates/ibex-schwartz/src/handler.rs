//! Handlers as types: a function's name, its argument, its settings and its work in one place.
//!
//! Apart from the worker because programs implement it; the worker sees a function and settings like any other.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ibex_schwartz::Error> {
//! use ibex_schwartz::{Handler, Job, JobCtx, Outcome, Worker, testing};
//!
//! #[derive(serde::Deserialize)]
//! struct Mail {
//!     to: String,
//! }
//!
//! #[derive(Default)]
//! struct SendMail;
//!
//! impl Handler for SendMail {
//!     const FUNC: &'static str = "SendMail";
//!     type Arg = Mail;
//!
//!     fn max_retries(&self) -> u32 {
//!         5
//!     }
//!
//!     fn retry_delay(&self, failures: u32) -> u64 {
//!         60 * u64::from(failures)
//!     }
//!
//!     async fn work(&self, job: &mut JobCtx<Mail>) -> Outcome {
//!         if job.arg().to.contains('@') {
//!             Outcome::Complete
//!         } else {
//!             Outcome::permanent("no address")
//!         }
//!     }
//! }
//!
//! let client = testing::client().await?;
//! client.insert(Job::new("SendMail", r#"{"to":"fred@example.org"}"#)).await?;
//! let worker = Worker::new(&client).register::<SendMail>();
//! assert_eq!(worker.work_until_done().await?, 1);
//! # Ok(()) }
//! ```

use crate::policy::RetryPolicy;
use crate::worker::{FunctionOptions, JobContext, Outcome};
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// The work of one function. The settings are those of the original's worker classes, with its defaults.
pub trait Handler: Send + Sync + 'static {
    /// The function.
    const FUNC: &'static str;
    /// What its jobs carry: read from JSON, from what Perl froze, or from plain text (for a `String`). A job whose argument is none fails for good.
    type Arg: DeserializeOwned + Send + Sync + 'static;

    /// Seconds of a lease; kept alive while the job runs.
    fn grab_for(&self) -> u64 {
        3600
    }

    /// Failures that are forgiven: n means n + 1 runs.
    fn max_retries(&self) -> u32 {
        0
    }

    /// Seconds until the next run after so many failures, counted from 1; 0 is at once.
    fn retry_delay(&self, failures: u32) -> u64 {
        let _ = failures;
        0
    }

    /// Seconds the exit status is kept; 0 keeps none.
    fn keep_exit_status_for(&self) -> u64 {
        0
    }

    /// A run that takes longer has failed.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// One run. A panic is a failure.
    fn work(&self, job: &mut JobCtx<Self::Arg>) -> impl Future<Output = Outcome> + Send;
}

/// What a handler gets: its argument, and everything of a [`JobContext`].
pub struct JobCtx<A> {
    arg: A,
    context: JobContext,
}

impl<A> fmt::Debug for JobCtx<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobCtx")
            .field("handle", self.context.handle())
            .finish_non_exhaustive()
    }
}

impl<A> JobCtx<A> {
    /// The argument; its bytes are [`JobContext::arg`] of [`JobCtx::context`].
    pub fn arg(&self) -> &A {
        &self.arg
    }

    /// The argument, to be taken apart.
    pub fn arg_mut(&mut self) -> &mut A {
        &mut self.arg
    }

    /// The run, which can be cloned into other tasks.
    pub fn context(&self) -> &JobContext {
        &self.context
    }
}

impl<A> Deref for JobCtx<A> {
    type Target = JobContext;

    fn deref(&self) -> &JobContext {
        &self.context
    }
}

/// A handler's settings as those of a function.
pub(crate) fn options<H: Handler>(handler: &Arc<H>) -> FunctionOptions {
    let delays = Arc::clone(handler);
    FunctionOptions {
        grab_for: handler.grab_for(),
        retry: RetryPolicy::with(handler.max_retries(), move |failures| {
            delays.retry_delay(failures)
        }),
        keep_exit_status_for: handler.keep_exit_status_for(),
        timeout: handler.timeout(),
    }
}

/// Reads the argument and runs the handler.
pub(crate) async fn run<H: Handler>(handler: &H, context: JobContext) -> Outcome {
    if context.is_encrypted() {
        // A worker with the key may come.
        return Outcome::fail("the argument is encrypted with a key this worker does not have");
    }
    match read(&context) {
        Ok(arg) => {
            let mut job = JobCtx { arg, context };
            handler.work(&mut job).await
        }
        // Another run would read the same.
        Err(error) => Outcome::permanent(format!("argument cannot be read: {error}")),
    }
}

/// JSON, or frozen by Perl; what is neither is text, and nothing at all is null.
fn read<A: DeserializeOwned>(context: &JobContext) -> Result<A, String> {
    let bytes = context.arg();
    if crate::storable::is_frozen(bytes) {
        let value = crate::storable::decode(bytes).map_err(|error| error.to_string())?;
        return serde_json::from_value(value).map_err(|error| error.to_string());
    }
    let json = if bytes.is_empty() {
        serde_json::from_value(serde_json::Value::Null)
    } else {
        serde_json::from_slice(bytes)
    };
    json.or_else(|error| {
        let text = std::str::from_utf8(bytes).map_err(|_| error.to_string())?;
        serde_json::from_value(text.into()).map_err(|_| error.to_string())
    })
}
