//! Jobs from a daemon: waiting fetches, leases kept alive, finishes.
//!
//! Apart because over tables the library's worker does all of this.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Args, EXIT_NOTHING, End, Stop, Task, argument};
use crate::schwartz::jobs::bytes_of;
use crate::schwartz::look::listed;
use crate::schwartz::server::{Refused, Server};

/// How long one fetch waits, in milliseconds: a stop need not wait longer than the connection takes to close.
const WAIT_MS: u64 = 30_000;
/// A daemon or its databases that are away are asked again after this.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Works jobs of a daemon.
pub(super) async fn run(server: &Server, args: Args, stop: Stop) -> anyhow::Result<ExitCode> {
    let name = args.worker.clone().unwrap_or_else(|| {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        format!("{host}-{}", std::process::id())
    });
    let worker = Remote {
        server,
        name,
        args: &args,
        stop,
    };
    if args.once {
        let job = worker.fetch(0).await?;
        return match job {
            Some(job) => {
                worker.work(&job).await;
                Ok(ExitCode::SUCCESS)
            }
            None => Ok(ExitCode::from(EXIT_NOTHING)),
        };
    }
    let loops = (0..args.jobs).map(|_| worker.run());
    try_join_all(loops).await?;
    Ok(ExitCode::SUCCESS)
}

struct Remote<'a> {
    server: &'a Server,
    name: String,
    args: &'a Args,
    stop: Stop,
}

impl Remote<'_> {
    /// One of the loops: until nothing is ready, or until it is told to stop.
    async fn run(&self) -> Result<(), Refused> {
        let wait = if self.args.until_done { 0 } else { WAIT_MS };
        while !self.stop.soon.is_cancelled() {
            match self.fetch(wait).await {
                Ok(Some(job)) => self.work(&job).await,
                Ok(None) if self.args.until_done => return Ok(()),
                Ok(None) => {}
                Err(refused) if self.args.until_done || !refused.is_away() => return Err(refused),
                Err(refused) => {
                    eprintln!("ibex schwartz: {refused}; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(AWAY_PAUSE) => {}
                        () = self.stop.soon.cancelled() => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// One job; none after `wait_ms`, when told to stop, or when the daemon tells this worker to take no more.
    async fn fetch(&self, wait_ms: u64) -> Result<Option<Value>, Refused> {
        let body = json!({
            "worker": self.name, "funcs": self.args.funcs, "max": 1, "wait_ms": wait_ms, "grab_for": self.args.grab_for,
            "prioritize": self.args.prioritize, "floor": self.args.floor,
        });
        let waits = Duration::from_millis(wait_ms);
        let call = self
            .server
            .call(Method::POST, "/v1/fetch", Some(&body), waits);
        let answer = tokio::select! {
            answer = call => answer?,
            // The connection ends with the call; a job that was on its way is given back.
            () = self.stop.soon.cancelled() => return Ok(None),
        };
        match answer["state"].as_str() {
            Some("stop") => {
                self.stop.soon.cancel();
                return Ok(None);
            }
            Some(_) if wait_ms > 0 => tokio::select! {
                () = tokio::time::sleep(AWAY_PAUSE) => {}
                () = self.stop.soon.cancelled() => {}
            },
            Some(_) | None => {}
        }
        Ok(listed(&answer, "jobs").into_iter().next())
    }

    /// Runs the command for one job and says how that ended. What cannot be said comes back when the lease ends.
    async fn work(&self, job: &Value) {
        let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| job[name].as_u64().unwrap_or(0).to_string();
        let task = Task {
            argument: argument(self.args.raw, &bytes_of(job)),
            environment: [
                number("jobid"),
                text("handle"),
                text("func"),
                text("uniqkey"),
                text("coalesce"),
                number("attempt"),
            ],
        };
        let cut = self.stop.now.child_token();
        let run = task.execute(&self.args.exec, &cut);
        let mut end = tokio::select! {
            end = run => end,
            never = self.keep(job, &cut) => match never {},
        };
        if matches!(end, End::Stopped) && !self.stop.now.is_cancelled() {
            end = End::Permanent("cancelled".to_owned());
        }
        let path = format!("/v1/jobs/{}", text("handle"));
        let (op, mut body) = self.finish(job, end);
        body["lease"] = job["lease"].clone();
        if let Err(refused) = self.server.post(&format!("{path}/{op}"), &body).await {
            eprintln!("ibex schwartz: {}: {refused}", text("handle"));
        }
    }

    /// Makes the lease longer again and again, and ends the command when someone wants the run to stop.
    async fn keep(&self, job: &Value, cut: &CancellationToken) -> Infallible {
        let path = format!(
            "/v1/jobs/{}/extend",
            job["handle"].as_str().unwrap_or_default()
        );
        let body = json!({ "lease": job["lease"], "grab_for": self.args.grab_for });
        loop {
            tokio::time::sleep(Duration::from_secs((self.args.grab_for / 3).max(1))).await;
            match self.server.post(&path, &body).await {
                Ok(answer) if answer["cancel"] == true => cut.cancel(),
                Ok(_) => {}
                Err(refused) => eprintln!("ibex schwartz: lease not extended: {refused}"),
            }
        }
    }

    fn finish(&self, job: &Value, end: End) -> (&'static str, Value) {
        let keep = self.args.keep_exit_status_for;
        match end {
            End::Complete => ("complete", json!({ "keep_exit_status_for": keep })),
            // As the library: it comes back when the lease would have ended.
            End::Decline => ("decline", json!({ "run_after": job["lease_expires"] })),
            End::Stopped => ("decline", json!({ "delay": 0 })),
            End::Permanent(message) => (
                "fail",
                json!({ "message": message, "exit_status": 100, "permanent": true, "keep_exit_status_for": keep }),
            ),
            End::Fail(message, status) => {
                let attempt = job["attempt"].as_u64().unwrap_or(1);
                let is_last = attempt > u64::from(self.args.max_retries);
                (
                    "fail",
                    json!({
                        "message": message, "exit_status": status, "permanent": is_last, "retry_in": self.args.retry_delay,
                        "keep_exit_status_for": keep,
                    }),
                )
            }
        }
    }
}
