//! The worker: Gearman functions, the job queue's functions, dead movers' leftovers, the reaper.
//!
//! Apart from what the functions do (`images`, `notify`); here is only how they are called, retried and woken.

use crate::app::App;
use crate::config::Config;
use crate::error::Error;
use crate::notify::{self, Mailer};
use crate::server::{self, Keeper};
use crate::{clock, images, jobs, metrics, queue};
use bytes::Bytes;
use ibex_gearman_client::{JobError, Worker as GearmanWorker};
use ibex_kit::{Failure, Kit, Step, Worker};
use ibex_schwartz::{FunctionOptions, Outcome, RetryPolicy, Worker as QueueWorker};
use std::sync::Arc;
use std::time::Duration;

/// Runs of a job: a comment's notices five times, a mail twelve times over about two days.
const COMMENT_RETRIES: u32 = 5;
const MAIL_RETRIES: u32 = 12;
/// Lease of a job, in seconds; a worker that dies gives it back after this.
const LEASE: u64 = 120;
/// How often dead movers are looked for.
const RECOVER_EVERY: Duration = Duration::from_secs(10);
/// Moves reaped in one step.
const REAP_AT_ONCE: u32 = 20;

/// The worker until it is told to stop.
///
/// # Errors
/// What keeps it from starting.
pub async fn work(config: Config, kit: Kit) -> Result<(), Failure> {
    let app = server::open(config).await?;
    for (cluster, error) in app.cluster.open_all().await {
        tracing::warn!(%cluster, %error, "cluster is away at the start, will be tried when needed");
    }
    metrics::register(&app, &kit);
    kit.worker(Keeper {
        app: app.clone(),
        swept: 0,
    });
    kit.spawn_background(
        "store check",
        server::watch_store(app.clone(), kit.check("store")),
    );
    spawn(&app, &kit)?;
    kit.ready().await?;
    kit.draining().cancelled().await;
    Ok(())
}

/// Starts everything a worker does, in this process.
pub(crate) fn spawn(app: &App, kit: &Kit) -> Result<(), Failure> {
    let mailer = Arc::new(Mailer::new(app).map_err(|error| Failure::config(error.to_string()))?);
    let queue = queue_worker(app, &mailer);
    let draining = kit.draining();
    kit.spawn("queue", async move { queue.run(draining).await });
    if !app.config.gearman.servers.is_empty() {
        let gearman = gearman_worker(app, kit);
        let draining = kit.draining();
        kit.spawn("gearman", async move {
            if let Err(error) = gearman.run(draining).await {
                tracing::error!(%error, "gearman worker does not start, pictures are scaled by the web processes");
            }
        });
    }
    kit.worker(Mover {
        app: app.clone(),
        recovered: 0,
    });
    Ok(())
}

fn gearman_worker(app: &App, kit: &Kit) -> GearmanWorker {
    let config = ibex_gearman_client::Config::new(app.config.gearman.servers.iter().cloned());
    let client = app.queue.client().clone();
    GearmanWorker::new(config)
        .id(format!("journal-{}", kit.node()))
        .concurrency(usize::try_from(app.config.worker.resizers).unwrap_or(1) + 1)
        .blocking_function(jobs::RESIZE, |job| {
            images::run(job.workload())
                .map(Bytes::from)
                .map_err(JobError::exception)
        })
        .function(jobs::WAKE, move |_job| {
            client.wake();
            async { Ok(Bytes::new()) }
        })
}

fn queue_worker(app: &App, mailer: &Arc<Mailer>) -> QueueWorker {
    let options = |retries| FunctionOptions {
        grab_for: LEASE,
        retry: RetryPolicy::backoff(retries),
        timeout: Some(Duration::from_secs(60)),
        ..FunctionOptions::default()
    };
    let (for_comment, for_mail, mailer) = (app.clone(), app.clone(), Arc::clone(mailer));
    QueueWorker::new(app.queue.client())
        .concurrency(4)
        .poll(app.config.worker.poll.std())
        .function_with(queue::COMMENT, options(COMMENT_RETRIES), move |job| {
            let app = for_comment.clone();
            async move {
                let Ok(what) = serde_json::from_slice(job.arg()) else {
                    return Outcome::permanent("argument is not JSON of this function");
                };
                outcome(notify::comment_posted(&app, what).await.map(drop))
            }
        })
        .function_with(queue::MAIL, options(MAIL_RETRIES), move |job| {
            let (app, mailer) = (for_mail.clone(), Arc::clone(&mailer));
            async move {
                let Ok(mail) = serde_json::from_slice(job.arg()) else {
                    return Outcome::permanent("argument is not JSON of this function");
                };
                outcome(mailer.send(&app, &mail).await)
            }
        })
}

/// What is gone needs no notice; what can never be done is not tried again; the rest is.
fn outcome(result: Result<(), Error>) -> Outcome {
    match result {
        Ok(()) | Err(Error::NotFound) => Outcome::Complete,
        Err(
            error @ (Error::Invalid(_) | Error::Refused(_) | Error::LoginNeeded | Error::Bug(_)),
        ) => Outcome::permanent(error.to_string()),
        Err(error @ (Error::TooMany | Error::Cluster(_) | Error::Files(_) | Error::Jobs(_))) => {
            Outcome::fail(error.to_string())
        }
    }
}

/// Finishes or undoes what dead movers left, and deletes what users left who moved away.
#[derive(Debug)]
struct Mover {
    app: App,
    recovered: u64,
}

impl Worker for Mover {
    fn name(&self) -> String {
        "moves".to_owned()
    }

    fn status(&self) -> ibex_kit::WorkerStatus {
        ibex_kit::WorkerStatus {
            done: self.recovered,
            total: None,
            note: "moves recovered and reaped".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        let recovered = self.app.cluster.recover(clock::now()).await?;
        for one in &recovered {
            tracing::info!(outcome = ?one, "move of a dead mover recovered");
        }
        let age =
            i64::try_from(self.app.config.worker.reap_after.std().as_secs()).unwrap_or(i64::MAX);
        let reaped = self.app.cluster.reap(age, REAP_AT_ONCE).await?;
        self.recovered += recovered.len() as u64 + reaped;
        Ok(if reaped > 0 {
            Step::Busy
        } else {
            Step::Idle {
                wait: RECOVER_EVERY,
            }
        })
    }
}
