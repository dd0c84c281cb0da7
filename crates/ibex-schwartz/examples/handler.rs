//! A job queue in one file: a typed handler, jobs put in, worked until none is left.
//!
//! `cargo run -p ibex-schwartz --example handler -- [sqlite:PATH | mysql://USER:PASSWORD@HOST/DATABASE]`

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use ibex_schwartz::{Atomic, Handler, Inserted, Job, JobCtx, Outcome, Schwartz, Worker};
use std::time::Duration;

#[derive(serde::Deserialize)]
struct Mail {
    to: String,
}

#[derive(Default)]
struct SendMail;

impl Handler for SendMail {
    const FUNC: &'static str = "SendMail";
    type Arg = Mail;

    fn max_retries(&self) -> u32 {
        5
    }

    fn retry_delay(&self, failures: u32) -> u64 {
        60 * u64::from(failures)
    }

    fn keep_exit_status_for(&self) -> u64 {
        3600
    }

    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(30))
    }

    async fn work(&self, job: &mut JobCtx<Mail>) -> Outcome {
        if !job.arg().to.contains('@') {
            return Outcome::permanent("no address");
        }
        println!("mail to {}, run {}", job.arg().to, job.attempt());
        Outcome::Complete
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ibex_schwartz::Error> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "sqlite::memory:".to_owned());
    let schwartz = Schwartz::builder().db(url).auto_init(true).build().await?;
    let jobs = ["fred@example.org", "wilma@example.org", "nobody"]
        .map(|to| Job::new("SendMail", serde_json::json!({ "to": to }).to_string()));
    let inserted = schwartz.insert_many(jobs.into(), Atomic::All).await?;
    let worker = Worker::new(&schwartz).register::<SendMail>();
    println!("{} jobs worked", worker.work_until_done().await?);
    for handle in inserted.iter().filter_map(Inserted::handle) {
        let status = schwartz.status(handle).await?;
        let failures: Vec<_> = status.failures.iter().map(|f| &f.message).collect();
        println!(
            "{handle}: exit status {:?} {failures:?}",
            status.exit_status
        );
    }
    schwartz.close().await
}
