//! What operators do: bring failed jobs back, pause and resume functions, make a lease longer, periodic jobs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use http::Method;
use ibex_schwartz::{CatchUp, Client, CronEntry, Database, Error, Finish, Finished, Handle};
use serde_json::{Value, json};

use super::place::Place;
use super::server::{Server, escaped};
use super::{EXIT_NOTHING, Usage};
use crate::output::print_text;

/// Jobs one call brings back when it does not say.
const RETRIES_DEFAULT: u32 = 1000;

/// Arguments of `ibex schwartz retry`.
#[derive(Debug, clap::Args)]
pub(super) struct Retry {
    /// The jobs' handles.
    #[arg(required_unless_present = "all")]
    handles: Vec<String>,
    /// All that failed for good.
    #[arg(long, conflicts_with = "handles")]
    all: bool,
    /// With --all: only of this function.
    #[arg(long, requires = "all")]
    func: Option<String>,
    /// With --all: at most so many from each database.
    #[arg(long, requires = "all", default_value_t = RETRIES_DEFAULT)]
    limit: u32,
}

/// Arguments of `ibex schwartz extend`.
#[derive(Debug, clap::Args)]
pub(super) struct Extend {
    /// The job's handle.
    handle: String,
    /// Seconds from now until the lease ends, if that is later.
    #[arg(value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: u64,
    /// The worker's lease, needed through a daemon.
    #[arg(long)]
    lease: Option<String>,
}

/// What to do with periodic jobs.
#[derive(Debug, Subcommand)]
pub(super) enum Cron {
    /// One JSON object a line.
    List,
    /// Add or replace one; its next run is counted from now.
    Set {
        /// Its name.
        name: String,
        /// `minute hour day month weekday`, with seconds before it, `@daily` and its like, or `@every 5m`.
        spec: String,
        /// The job as POST /v1/jobs takes it, such as `{"func":"Report","args":{}}`.
        job: String,
        /// Time zone, such as Europe/Vienna.
        #[arg(long, default_value = "")]
        zone: String,
        /// What becomes of missed runs.
        #[arg(long, value_enum, default_value = "none")]
        catch_up: CatchUpName,
    },
    /// Remove one; exits with 2 when there is none of that name.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum CatchUpName {
    None,
    One,
    All,
}

impl From<CatchUpName> for CatchUp {
    fn from(name: CatchUpName) -> Self {
        match name {
            CatchUpName::None => Self::None,
            CatchUpName::One => Self::One,
            CatchUpName::All => Self::All,
        }
    }
}

/// Brings jobs back and prints how many.
pub(super) async fn retry(place: &Place, args: Retry) -> anyhow::Result<ExitCode> {
    if args.all {
        let line = match place {
            Place::Tables(client) => {
                let func = args.func.as_deref();
                let (retried, duplicates) = client.retry_failed(func, args.limit).await?;
                json!({ "retried": retried, "duplicates": duplicates })
            }
            Place::Daemon(server) => {
                let body = json!({ "func": args.func, "limit": args.limit });
                server.post("/v1/retry", &body).await?
            }
        };
        print_text(&format!("{line}\n"));
        return Ok(nothing_if(line["retried"] == 0));
    }
    for handle in &args.handles {
        let handle: Handle = handle.parse()?;
        match place {
            Place::Tables(client) => client.retry(&handle).await?,
            Place::Daemon(server) => {
                let path = format!("/v1/jobs/{handle}/retry");
                server.post(&path, &json!({})).await?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing_if(is_nothing: bool) -> ExitCode {
    ExitCode::from(if is_nothing { EXIT_NOTHING } else { 0 })
}

/// Pauses a function.
pub(super) async fn pause(
    place: &Place,
    func: &str,
    seconds: Option<u64>,
) -> anyhow::Result<ExitCode> {
    match place {
        Place::Tables(client) => client.pause(func, seconds).await?,
        Place::Daemon(server) => {
            let time = seconds.map_or(String::new(), |seconds| format!("?for={seconds}"));
            let path = format!("/v1/funcs/{}/pause{time}", escaped(func));
            server.post(&path, &json!({})).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a pause.
pub(super) async fn resume(place: &Place, func: &str) -> anyhow::Result<ExitCode> {
    let was_paused = match place {
        Place::Tables(client) => client.resume(func).await?,
        Place::Daemon(server) => {
            let path = format!("/v1/funcs/{}/resume", escaped(func));
            server.post(&path, &json!({})).await?["was_paused"] == true
        }
    };
    Ok(nothing_if(!was_paused))
}

/// Makes a lease longer, whoever has it, and prints when it ends.
pub(super) async fn extend(place: &Place, args: Extend) -> anyhow::Result<ExitCode> {
    let handle: Handle = args.handle.parse()?;
    let until = match place {
        Place::Tables(client) => {
            let now = client.time().await?;
            let held = client.peek(&handle).await?;
            let held = held.ok_or(Error::NotFound(handle.jobid()))?;
            if held.lease <= now {
                return Ok(nothing_if(true));
            }
            match held.finish(Finish::Extend(args.seconds)).await? {
                Finished::Extended(until) => until,
                Finished::Over
                | Finished::Retried { .. }
                | Finished::Declined
                | Finished::Replaced(_) => held.lease,
            }
        }
        Place::Daemon(server) => {
            let lease = args.lease.ok_or_else(|| {
                Usage("extend through a daemon needs the worker's --lease".to_owned())
            })?;
            let body = json!({ "lease": lease, "grab_for": args.seconds });
            let path = format!("/v1/jobs/{handle}/extend");
            let answer = server.post(&path, &body).await?;
            answer["lease_expires"]
                .as_u64()
                .context("no lease_expires")?
        }
    };
    print_text(&format!("{until}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Periodic jobs.
pub(super) async fn cron(place: &Place, command: Cron) -> anyhow::Result<ExitCode> {
    match place {
        Place::Tables(client) => cron_tables(client, command).await,
        Place::Daemon(server) => cron_daemon(server, command).await,
    }
}

/// They live in the first database.
async fn cron_tables(client: &Client, command: Cron) -> anyhow::Result<ExitCode> {
    let database: &Database = client.databases().first().context("no database")?;
    match command {
        Cron::List => {
            for entry in database.cron_list().await? {
                print_entry(&entry);
            }
        }
        Cron::Set {
            name,
            spec,
            job,
            zone,
            catch_up,
        } => {
            let value = template(&job)?;
            let entry = database
                .cron_put(&name, &spec, &zone, catch_up.into(), &value.to_string())
                .await?;
            print_entry(&entry);
        }
        Cron::Delete { name } => {
            return Ok(nothing_if(!database.cron_delete(&name).await?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn template(job: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(job).context("parse the job")?;
    if !value.get("func").is_some_and(Value::is_string) {
        return Err(Error::Invalid("the job names no func".to_owned()).into());
    }
    Ok(value)
}

async fn cron_daemon(server: &Server, command: Cron) -> anyhow::Result<ExitCode> {
    match command {
        Cron::List => {
            let answer = server.get("/v1/cron").await?;
            for entry in answer["cron"].as_array().into_iter().flatten() {
                print_text(&format!("{entry}\n"));
            }
        }
        Cron::Set {
            name,
            spec,
            job,
            zone,
            catch_up,
        } => {
            let catch_up = CatchUp::from(catch_up).as_str();
            let body =
                json!({ "spec": spec, "zone": zone, "catch_up": catch_up, "job": template(&job)? });
            let path = format!("/v1/cron/{}", escaped(&name));
            let entry = server
                .call(Method::PUT, &path, Some(&body), Duration::ZERO)
                .await?;
            print_text(&format!("{entry}\n"));
        }
        Cron::Delete { name } => {
            let path = format!("/v1/cron/{}", escaped(&name));
            let done = server
                .call(Method::DELETE, &path, None, Duration::ZERO)
                .await;
            return match done {
                Ok(_) => Ok(ExitCode::SUCCESS),
                Err(refused) if refused.is_code("not_found") => Ok(nothing_if(true)),
                Err(refused) => Err(refused.into()),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_entry(entry: &CronEntry) {
    let job = serde_json::from_str::<serde_json::Value>(&entry.template).unwrap_or_default();
    let line = json!({
        "name": entry.name, "spec": entry.spec, "zone": entry.zone, "catch_up": entry.catch_up.as_str(),
        "job": job, "next_at": entry.next_at, "last_at": entry.last_at,
    });
    print_text(&format!("{line}\n"));
}
