//! `ibex schwartz relay`: rows of an application's own table become jobs, each once.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ibex_schwartz::{Client, Outbox};
use ibex_sql::{Config, Db};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_NOTHING;
use crate::output::print_text;

/// Arguments of `ibex schwartz relay`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The application's database.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The outbox's table there.
    #[arg(long, default_value = "app_outbox")]
    table: String,
    /// Names this outbox among all of the queue; must never change.
    #[arg(long)]
    source: String,
    /// Make the table if it is not there.
    #[arg(long)]
    create: bool,
    /// Go on, looking again after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    poll: Option<u64>,
}

/// Moves what is there and prints how much that was; exit code 2 if there was nothing. With `--poll` until SIGTERM or SIGINT.
pub(super) async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::new(&args.from).context("--from")?;
    let db = Db::open(&config)
        .await
        .context("open the outbox's database")?;
    let outbox = Outbox::new(db.clone(), args.table, args.source)?;
    if args.create {
        outbox.create().await?;
    }
    let code = match args.poll {
        None => {
            let moved = relay(client, &outbox).await?;
            ExitCode::from(if moved == 0 { EXIT_NOTHING } else { 0 })
        }
        Some(seconds) => follow(client, &outbox, Duration::from_secs(seconds)).await?,
    };
    db.close().await?;
    Ok(code)
}

async fn relay(client: &Client, outbox: &Outbox) -> anyhow::Result<u64> {
    let relayed = client.relay(outbox).await?;
    let moved = relayed.jobs + relayed.duplicates + relayed.refused;
    if moved > 0 {
        let line = json!({ "jobs": relayed.jobs, "duplicates": relayed.duplicates, "refused": relayed.refused });
        print_text(&format!("{line}\n"));
    }
    Ok(moved)
}

/// A database that is away is waited for.
async fn follow(client: &Client, outbox: &Outbox, every: Duration) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    loop {
        if let Err(error) = relay(client, outbox).await {
            eprintln!("ibex schwartz: {error:#}; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}
