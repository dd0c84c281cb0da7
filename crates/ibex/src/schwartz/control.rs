//! What operators do: bring failed jobs back, periodic jobs.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use ibex_schwartz::{CatchUp, Client, CronEntry, Database, Error};
use serde_json::json;

use super::EXIT_NOTHING;
use crate::output::print_text;

/// Jobs one call brings back when it does not say.
const RETRIES_DEFAULT: u32 = 1000;

/// Arguments of `ibex schwartz retry`.
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
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

/// What to do with periodic jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Cron {
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
pub(crate) enum CatchUpName {
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
pub(crate) async fn retry(client: &Client, args: Retry) -> anyhow::Result<ExitCode> {
    if args.all {
        let (retried, duplicates) = client
            .retry_failed(args.func.as_deref(), args.limit)
            .await?;
        let line = json!({ "retried": retried, "duplicates": duplicates });
        print_text(&format!("{line}\n"));
        return Ok(ExitCode::from(if retried == 0 { EXIT_NOTHING } else { 0 }));
    }
    for handle in &args.handles {
        client.retry(&handle.parse()?).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Periodic jobs live in the first database.
pub(crate) async fn cron(client: &Client, command: Cron) -> anyhow::Result<ExitCode> {
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
            let value: serde_json::Value = serde_json::from_str(&job).context("parse the job")?;
            if !value.get("func").is_some_and(serde_json::Value::is_string) {
                return Err(Error::Invalid("the job names no func".to_owned()).into());
            }
            let entry = database
                .cron_put(&name, &spec, &zone, catch_up.into(), &value.to_string())
                .await?;
            print_entry(&entry);
        }
        Cron::Delete { name } => {
            if !database.cron_delete(&name).await? {
                return Ok(ExitCode::from(EXIT_NOTHING));
            }
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
