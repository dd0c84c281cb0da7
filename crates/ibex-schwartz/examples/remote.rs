//! The same kind of worker against a daemon, over HTTP: no database of its own.
//!
//! `cargo run -p ibex-schwartz --example remote -- http://127.0.0.1:7373 [TOKEN]`

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use ibex_schwartz::{Error, Job, JobContext, Outcome, Remote, Worker};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let (Some(url), token) = (args.next(), args.next().unwrap_or_default()) else {
        return Err(Error::Config("give the daemon's address".to_owned()));
    };
    let remote = Remote::with_token(&url, &token)?;
    for n in 0..3 {
        let job = Job::new("Count", n.to_string()).keep_exit_status_for(60);
        remote.insert(&job).await?;
    }
    let worker = Worker::new(&remote).register_fn("Count", |job: JobContext| async move {
        println!("{} is {:?}", job.handle(), job.arg());
        match job.progress(&json!({ "percent": 50 })).await {
            Ok(()) => Outcome::Complete,
            Err(error) => Outcome::fail(error.to_string()),
        }
    });
    println!("{} jobs worked", worker.work_until_done().await?);
    Ok(())
}
