//! `ibex schwartz`: jobs in and out of TheSchwartz tables, straight from the databases or through a daemon.
//!
//! Exit codes: 0 done, 2 nothing to do, 3 duplicate, 4 no database (or no daemon) available, 64 usage, 1 other.
//!
//! Every command that can go both ways does the same and prints the same; a module per group of commands holds both, side by side.

mod bench;
mod control;
mod jobs;
mod look;
mod place;
mod relay;
mod server;
mod top;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use ibex_schwartz::schema::{self, Dialect, Style};
use ibex_schwartz::{Client, Error};

use crate::output::print_text;
use place::Place;
use server::{Refused, Server};

/// Nothing to do.
const EXIT_NOTHING: u8 = 2;
/// A job with that key is pending.
const EXIT_DUPLICATE: u8 = 3;
/// No database answered.
const EXIT_NO_DATABASE: u8 = 4;
/// The command line makes no sense.
const EXIT_USAGE: u8 = 64;

/// A command line that parses and makes no sense all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Arguments of `ibex schwartz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Database `sqlite:PATH` or `mysql://user:password@host/db`; may be repeated. Default $SCHWARTZ_DB (blank-separated).
    #[arg(long = "db", global = true, value_name = "URL")]
    databases: Vec<String>,
    /// What the tables' names start with.
    #[arg(long, default_value = "", global = true)]
    prefix: String,
    /// Through the ibex-schwartzd at `http://host:port` instead of databases. Default $SCHWARTZ_SERVER, if no database is named.
    #[arg(long, global = true, value_name = "URL", conflicts_with = "databases")]
    server: Option<String>,
    /// File with the daemon's bearer token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the tables where they are missing.
    Init,
    /// Print the statements that make the tables.
    Schema {
        /// For which engine.
        #[arg(long, value_enum)]
        dialect: DialectName,
        /// Exactly the classic tables, for loaders of the original.
        #[arg(long)]
        bare: bool,
    },
    /// Insert a job and print its handle; a duplicate prints `duplicate` and exits with 3.
    Insert(jobs::Insert),
    /// Run a command for each job.
    Work(work::Args),
    /// State, exit status and failures of a job, as JSON.
    Status {
        /// The job's handle.
        handle: String,
    },
    /// Pending jobs, one JSON object a line.
    List(jobs::List),
    /// Remove a job that no worker has.
    Cancel {
        /// The job's handle.
        handle: String,
    },
    /// Make jobs that failed for good or were cancelled ready again.
    Retry(control::Retry),
    /// Hand out no job of a function, to no worker, until it is resumed.
    Pause {
        /// The function.
        func: String,
        /// Only for so many seconds.
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// End the pause of a function; exits with 2 when it was not paused.
    Resume {
        /// The function.
        func: String,
    },
    /// Make the lease of a job end later, and print when it ends; exits with 2 when no worker has the job.
    Extend(control::Extend),
    /// Periodic jobs; a running ibex-schwartzd inserts them.
    #[command(subcommand)]
    Cron(control::Cron),
    /// Functions with jobs over the limits, as schwartzmon prints them; exit code 1 if there is one.
    Queues(look::Queues),
    /// The last failures.
    Errors(look::Errors),
    /// Functions and workers, again and again.
    Top(top::Args),
    /// Load: insert jobs, work them, or both, and say how fast that was.
    Bench(bench::Args),
    /// Move rows of an application's outbox table into the queue.
    Relay(relay::Args),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DialectName {
    Sqlite,
    Mysql,
    Postgres,
}

/// Performs the command.
///
/// # Errors
/// Never: every failure is said on standard error and is an exit code of this family.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Command::Schema { dialect, bare } = args.command {
        print_schema(dialect, bare, &args.prefix);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(perform(args).await.unwrap_or_else(|error| {
        eprintln!("ibex schwartz: {error:#}");
        ExitCode::from(exit_code(&error))
    }))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_away = matches!(error.downcast_ref(), Some(Error::NoDatabase(_)))
        || error.downcast_ref().is_some_and(Refused::is_away);
    if is_away {
        EXIT_NO_DATABASE
    } else if error.is::<Usage>() {
        EXIT_USAGE
    } else {
        1
    }
}

fn print_schema(dialect: DialectName, bare: bool, prefix: &str) {
    let dialect = match dialect {
        DialectName::Sqlite => Dialect::Sqlite,
        DialectName::Mysql => Dialect::MySql,
        DialectName::Postgres => Dialect::Postgres,
    };
    let style = if bare { Style::Bare } else { Style::Own };
    for statement in schema::statements(dialect, style, prefix) {
        print_text(&format!("{statement};\n"));
    }
}

async fn connect(args: &Args) -> anyhow::Result<Place> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut urls = args.databases.clone();
    let mut server = args.server.clone();
    if urls.is_empty() && server.is_none() {
        urls.extend(
            variable("SCHWARTZ_DB")
                .split_whitespace()
                .map(str::to_owned),
        );
        if urls.is_empty() {
            server = Some(variable("SCHWARTZ_SERVER")).filter(|url| !url.is_empty());
        }
    }
    if let Some(url) = server {
        let server = Server::new(&url, args.token_file.as_deref())?;
        return Ok(Place::Daemon(Arc::new(server)));
    }
    if urls.is_empty() {
        let text = "no database named; give --db, --server, $SCHWARTZ_DB or $SCHWARTZ_SERVER";
        return Err(Usage(text.to_owned()).into());
    }
    let mut builder = Client::builder().prefix(args.prefix.clone());
    if matches!(args.command, Command::Init) {
        builder = builder.auto_init(true);
    }
    for url in urls {
        builder = builder.db(url);
    }
    Ok(Place::Tables(builder.build().await?))
}

async fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let place = connect(&args).await?;
    let code = match args.command {
        Command::Init => {
            place.tables("init")?;
            ExitCode::SUCCESS
        }
        Command::Schema { .. } => ExitCode::SUCCESS,
        Command::Insert(args) => jobs::insert(&place, args).await?,
        Command::Work(args) => work::run(&place, args).await?,
        Command::Status { handle } => jobs::status(&place, &handle).await?,
        Command::List(args) => jobs::list(&place, args).await?,
        Command::Cancel { handle } => jobs::cancel(&place, &handle).await?,
        Command::Retry(args) => control::retry(&place, args).await?,
        Command::Pause { func, seconds } => control::pause(&place, &func, seconds).await?,
        Command::Resume { func } => control::resume(&place, &func).await?,
        Command::Extend(args) => control::extend(&place, args).await?,
        Command::Cron(command) => control::cron(&place, command).await?,
        Command::Queues(args) => look::queues(&place, args).await?,
        Command::Errors(args) => look::errors(&place, args).await?,
        Command::Top(args) => top::run(&place, args).await?,
        Command::Bench(args) => bench::run(&place, args).await?,
        Command::Relay(args) => relay::run(place.tables("relay")?, args).await?,
    };
    place.close().await?;
    Ok(code)
}
