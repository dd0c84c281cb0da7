//! `ibex schwartz`: jobs in and out of TheSchwartz tables, straight from the databases.
//!
//! Exit codes: 0 done, 2 nothing to do, 3 duplicate, 4 no database available, 64 usage, 1 other.

mod control;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Subcommand, ValueEnum};
use ibex_schwartz::schema::{self, Dialect, Style};
use ibex_schwartz::{Client, Error, Handle, Inserted, Job, Query, State, storable};
use serde_json::json;

use crate::output::print_text;

/// Nothing to do.
const EXIT_NOTHING: u8 = 2;
/// A job with that key is pending.
const EXIT_DUPLICATE: u8 = 3;
/// No database answered.
const EXIT_NO_DATABASE: u8 = 4;

/// Arguments of `ibex schwartz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Database `sqlite:PATH` or `mysql://user:password@host/db`; may be repeated. Default $SCHWARTZ_DB (blank-separated).
    #[arg(long = "db", global = true)]
    databases: Vec<String>,
    /// What the tables' names start with.
    #[arg(long, default_value = "", global = true)]
    prefix: String,
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
    Insert(Insert),
    /// Run a command for each job.
    Work(work::Args),
    /// State, exit status and failures of a job, as JSON.
    Status {
        /// The job's handle.
        handle: String,
    },
    /// Pending jobs, one JSON object a line.
    List {
        /// Only these functions.
        #[arg(long = "func")]
        funcs: Vec<String>,
        /// Only with this coalescing value.
        #[arg(long)]
        coalesce: Option<String>,
        /// Only with a coalescing value that starts so.
        #[arg(long)]
        coalesce_prefix: Option<String>,
        /// Only in this state.
        #[arg(long, value_enum)]
        state: Option<StateName>,
        /// At most so many from each database.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
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
    /// Periodic jobs; a running ibex-schwartzd inserts them.
    #[command(subcommand)]
    Cron(control::Cron),
    /// Functions with jobs over the limits, as schwartzmon prints them; exit code 1 if there is one.
    Queues {
        /// Only this function.
        #[arg(long)]
        job: Option<String>,
        /// Seconds the oldest job may wait.
        #[arg(long, default_value_t = 0)]
        maxage: u64,
        /// Jobs that may wait.
        #[arg(long, default_value_t = 0)]
        maxcount: u64,
    },
    /// The last failures.
    Errors {
        /// Only of this function.
        #[arg(long)]
        func: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 100)]
        last: u32,
        /// Only those of the last so many seconds.
        #[arg(long, value_name = "SECONDS")]
        inlast: Option<u64>,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("argument").args(["arg", "arg_file", "arg_json"]))]
struct Insert {
    /// The function.
    func: String,
    /// The argument as text.
    #[arg(long)]
    arg: Option<String>,
    /// The argument from a file.
    #[arg(long, value_name = "FILE")]
    arg_file: Option<PathBuf>,
    /// The argument as JSON.
    #[arg(long, value_name = "JSON")]
    arg_json: Option<String>,
    /// Freeze the JSON argument so that Perl workers get the structure.
    #[arg(long, requires = "arg_json")]
    storable: bool,
    /// At most one pending job of the function with this key.
    #[arg(long)]
    uniqkey: Option<String>,
    /// Jobs with the same value may be worked together.
    #[arg(long)]
    coalesce: Option<String>,
    /// Bigger is more urgent.
    #[arg(long)]
    priority: Option<u16>,
    /// Not before: epoch seconds, or `+SECONDS` from now.
    #[arg(long, value_name = "TIME")]
    run_after: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DialectName {
    Sqlite,
    Mysql,
    Postgres,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateName {
    Scheduled,
    Ready,
    Grabbed,
    Blocked,
}

impl From<StateName> for State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Scheduled => Self::Scheduled,
            StateName::Ready => Self::Ready,
            StateName::Grabbed => Self::Grabbed,
            StateName::Blocked => Self::Blocked,
        }
    }
}

/// Performs the command.
///
/// # Errors
/// When arguments make no sense or a database refuses; "none available" is an exit code.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Command::Schema { dialect, bare } = args.command {
        print_schema(dialect, bare, &args.prefix);
        return Ok(ExitCode::SUCCESS);
    }
    match perform(args).await {
        Err(error) if matches!(error.downcast_ref(), Some(Error::NoDatabase(_))) => {
            eprintln!("ibex schwartz: {error:#}");
            Ok(ExitCode::from(EXIT_NO_DATABASE))
        }
        Err(error) if error.is::<Error>() => {
            eprintln!("ibex schwartz: {error:#}");
            Ok(ExitCode::from(1))
        }
        outcome => outcome,
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

async fn connect(args: &Args) -> anyhow::Result<Client> {
    let mut urls = args.databases.clone();
    if urls.is_empty() {
        let list = std::env::var("SCHWARTZ_DB").unwrap_or_default();
        urls.extend(list.split_whitespace().map(str::to_owned));
    }
    anyhow::ensure!(
        !urls.is_empty(),
        "no database named; give --db or $SCHWARTZ_DB"
    );
    let mut builder = Client::builder().prefix(args.prefix.clone());
    if matches!(args.command, Command::Init) {
        builder = builder.auto_init(true);
    }
    for url in urls {
        builder = builder.db(url);
    }
    Ok(builder.build().await?)
}

async fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let client = connect(&args).await?;
    let code = match args.command {
        Command::Init | Command::Schema { .. } => ExitCode::SUCCESS,
        Command::Insert(args) => insert(&client, args).await?,
        Command::Work(args) => work::run(&client, args).await?,
        Command::Status { handle } => status(&client, &handle.parse()?).await?,
        Command::List {
            funcs,
            coalesce,
            coalesce_prefix,
            state,
            limit,
        } => {
            let state = state.map(State::from);
            list(
                &client,
                Query {
                    funcs,
                    coalesce,
                    coalesce_prefix,
                    state,
                    limit,
                    ..Query::default()
                },
            )
            .await?
        }
        Command::Cancel { handle } => {
            client.cancel(&handle.parse()?).await?;
            ExitCode::SUCCESS
        }
        Command::Retry(args) => control::retry(&client, args).await?,
        Command::Pause { func, seconds } => {
            client.pause(&func, seconds).await?;
            ExitCode::SUCCESS
        }
        Command::Resume { func } => {
            let was_paused = client.resume(&func).await?;
            ExitCode::from(if was_paused { 0 } else { EXIT_NOTHING })
        }
        Command::Cron(command) => control::cron(&client, command).await?,
        Command::Queues {
            job,
            maxage,
            maxcount,
        } => queues(&client, job, maxage, maxcount).await?,
        Command::Errors { func, last, inlast } => errors(&client, func, last, inlast).await?,
    };
    client.close().await?;
    Ok(code)
}

async fn insert(client: &Client, args: Insert) -> anyhow::Result<ExitCode> {
    let mut job = match (args.arg, args.arg_file, args.arg_json) {
        (_, Some(file), _) => {
            let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            Job::new(args.func, bytes)
        }
        (_, _, Some(text)) => {
            let value: serde_json::Value =
                serde_json::from_str(&text).context("parse --arg-json")?;
            if args.storable {
                Job::with_storable(args.func, &value)?
            } else {
                Job::new(args.func, value.to_string())
            }
        }
        (text, None, None) => Job::new(args.func, text.unwrap_or_default()),
    };
    if let Some(key) = args.uniqkey {
        job = job.uniqkey(key);
    }
    if let Some(value) = args.coalesce {
        job = job.coalesce(value);
    }
    if let Some(priority) = args.priority {
        job = job.priority(priority);
    }
    job = match args.run_after.as_deref() {
        None => job,
        Some(time) => match time.strip_prefix('+') {
            Some(seconds) => job.delay(seconds.parse().context("parse --run-after")?),
            None => job.run_after(time.parse().context("parse --run-after")?),
        },
    };
    match client.insert(job).await? {
        Inserted::New(handle) => {
            print_text(&format!("{handle}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Inserted::Duplicate(_) => {
            print_text("duplicate\n");
            Ok(ExitCode::from(EXIT_DUPLICATE))
        }
    }
}

async fn status(client: &Client, handle: &Handle) -> anyhow::Result<ExitCode> {
    let status = client.status(handle).await?;
    let failures: Vec<_> = status
        .failures
        .iter()
        .map(|failure| &failure.message)
        .collect();
    let shown = json!({
        "pending": status.pending.is_some(),
        "state": status.pending.as_ref().map(|(_, state)| state.as_str()),
        "exit_status": status.exit_status,
        "ended": status.ended.as_ref().map(|ended| &ended.state),
        "result": status.result.as_ref().map(|result| argument(result)),
        "failures": failures,
    });
    print_text(&format!("{shown}\n"));
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, query: Query) -> anyhow::Result<ExitCode> {
    for (handle, job, state) in client.list(&query).await? {
        let line = json!({
            "handle": handle.to_string(),
            "jobid": job.jobid,
            "funcname": job.funcname,
            "state": state.as_str(),
            "uniqkey": job.uniqkey,
            "coalesce": job.coalesce,
            "priority": job.priority,
            "insert_time": job.insert_time,
            "run_after": job.run_after,
            "grabbed_until": job.grabbed_until,
            "arg": argument(&job.arg),
        });
        print_text(&format!("{line}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// An argument as JSON shows it: a frozen structure thawed, text as text, other bytes in Rust's escapes.
fn argument(arg: &[u8]) -> serde_json::Value {
    if storable::is_frozen(arg)
        && let Ok(value) = storable::decode(arg)
    {
        return value;
    }
    match std::str::from_utf8(arg) {
        Ok(text) => text.into(),
        Err(_) => arg.escape_ascii().to_string().into(),
    }
}

async fn queues(
    client: &Client,
    job: Option<String>,
    maxage: u64,
    maxcount: u64,
) -> anyhow::Result<ExitCode> {
    let mut is_over = false;
    for count in client.counts().await? {
        if job.as_ref().is_some_and(|job| *job != count.funcname) {
            continue;
        }
        if count.ready > maxcount && count.oldest_ready_age >= maxage {
            is_over = true;
            print_text(&format!(
                "{}\n  outstanding: {}\n  behind_secs: {}\n",
                count.funcname, count.ready, count.oldest_ready_age
            ));
        }
    }
    Ok(ExitCode::from(u8::from(is_over)))
}

async fn errors(
    client: &Client,
    func: Option<String>,
    last: u32,
    inlast: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let since = match inlast {
        None => 0,
        Some(seconds) => client.time().await?.saturating_sub(seconds),
    };
    let mut failures = client.errors(func.as_deref(), since, last).await?;
    failures.reverse();
    for (handle, failure) in failures {
        let time = clock_text(failure.time);
        print_text(&format!(
            "{time} [{}]: {}\n",
            handle.jobid(),
            failure.message
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Local time in the form of C's `asctime`, as schwartzmon prints it; a number that is no time stays a number.
fn clock_text(epoch: u64) -> String {
    let second = i64::try_from(epoch).ok();
    let time = second.and_then(|second| jiff::Timestamp::from_second(second).ok());
    time.map_or_else(
        || epoch.to_string(),
        |time| {
            let local = time.to_zoned_datetime(jiff::tz::TimeZone::system());
            local.strftime("%a %b %e %H:%M:%S %Y").to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_shown_readably() {
        assert_eq!(argument(b"to=fred"), json!("to=fred"));
        assert_eq!(argument(b"\xff\x00"), json!("\\xff\\x00"));
        let frozen = storable::encode(&json!({"a": "b"})).unwrap();
        assert_eq!(argument(&frozen), json!({"a": "b"}));
    }
}
