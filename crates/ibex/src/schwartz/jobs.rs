//! Single jobs: insert, status, list, cancel.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgGroup, ValueEnum};
use http::Method;
use ibex_schwartz::{Client, Handle, Inserted, Job, Query, State};
use serde_json::{Map, Value, json};

use super::place::{Place, argument};
use super::server::{Refused, Server, escaped};
use super::{EXIT_DUPLICATE, Usage};
use crate::output::print_text;

/// Jobs of one page of a daemon.
const PAGE_MAX: u32 = 1000;

/// Arguments of `ibex schwartz insert`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("argument").args(["arg", "arg_file", "arg_json"]))]
pub(super) struct Insert {
    /// The function.
    func: String,
    /// The argument as text.
    #[arg(long)]
    arg: Option<String>,
    /// The argument from a file; `-` is standard input.
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
    #[arg(long, value_name = "TIME", value_parser = time)]
    run_after: Option<Time>,
    /// Runs the job may have, before the worker's own policy.
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
}

/// When a job may run.
#[derive(Debug, Clone, Copy)]
enum Time {
    At(u64),
    In(u64),
}

fn time(text: &str) -> Result<Time, String> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| "not a number of seconds".to_owned())
    };
    match text.strip_prefix('+') {
        Some(seconds) => number(seconds).map(Time::In),
        None => number(text).map(Time::At),
    }
}

/// The argument of a new job.
enum Argument {
    Bytes(Vec<u8>),
    Frozen(Value),
}

impl Insert {
    fn argument(&self) -> anyhow::Result<Argument> {
        if let Some(file) = &self.arg_file {
            let bytes = if file.as_os_str() == "-" {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
            } else {
                std::fs::read(file)
            };
            return Ok(Argument::Bytes(
                bytes.with_context(|| format!("read {}", file.display()))?,
            ));
        }
        if let Some(text) = &self.arg_json {
            let value: Value = serde_json::from_str(text)
                .map_err(|error| Usage(format!("--arg-json: {error}")))?;
            return Ok(if self.storable {
                Argument::Frozen(value)
            } else {
                Argument::Bytes(value.to_string().into_bytes())
            });
        }
        Ok(Argument::Bytes(
            self.arg.clone().unwrap_or_default().into_bytes(),
        ))
    }

    fn job(self) -> anyhow::Result<Job> {
        let mut job = match self.argument()? {
            Argument::Bytes(bytes) => Job::new(self.func, bytes),
            Argument::Frozen(value) => Job::with_storable(self.func, &value)?,
        };
        if let Some(key) = self.uniqkey {
            job = job.uniqkey(key);
        }
        if let Some(value) = self.coalesce {
            job = job.coalesce(value);
        }
        if let Some(priority) = self.priority {
            job = job.priority(priority);
        }
        if let Some(runs) = self.max_attempts {
            job = job.max_attempts(runs);
        }
        Ok(match self.run_after {
            None => job,
            Some(Time::In(seconds)) => job.delay(seconds),
            Some(Time::At(epoch)) => job.run_after(epoch),
        })
    }

    fn request(self) -> anyhow::Result<Value> {
        let mut body = Map::new();
        let argument = self.argument()?;
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("func", Some(self.func.into()));
        match argument {
            Argument::Bytes(bytes) => put("arg_b64", Some(STANDARD.encode(bytes).into())),
            Argument::Frozen(value) => {
                put("args", Some(value));
                put("format", Some("storable".into()));
            }
        }
        put("uniqkey", self.uniqkey.map(Value::from));
        put("coalesce", self.coalesce.map(Value::from));
        put("priority", self.priority.map(Value::from));
        put("max_attempts", self.max_attempts.map(Value::from));
        match self.run_after {
            None => {}
            Some(Time::In(seconds)) => put("delay", Some(seconds.into())),
            Some(Time::At(epoch)) => put("run_after", Some(epoch.into())),
        }
        Ok(Value::Object(body))
    }
}

/// Inserts a job and prints its handle.
pub(super) async fn insert(place: &Place, args: Insert) -> anyhow::Result<ExitCode> {
    let handle = match place {
        Place::Tables(client) => match client.insert(args.job()?).await? {
            Inserted::New(handle) => Some(handle.to_string()),
            Inserted::Duplicate(_) => None,
        },
        Place::Daemon(server) => {
            let answer = server.post("/v1/jobs", &args.request()?).await?;
            let is_duplicate = answer["duplicate"] == true;
            let handle = answer["handle"].as_str().unwrap_or_default().to_owned();
            (!is_duplicate).then_some(handle)
        }
    };
    Ok(match handle {
        Some(handle) => {
            print_text(&format!("{handle}\n"));
            ExitCode::SUCCESS
        }
        None => {
            print_text("duplicate\n");
            ExitCode::from(EXIT_DUPLICATE)
        }
    })
}

/// Prints what is known of a job.
pub(super) async fn status(place: &Place, handle: &str) -> anyhow::Result<ExitCode> {
    let handle: Handle = handle.parse()?;
    let shown = match place {
        Place::Tables(client) => status_of_tables(client, &handle).await?,
        Place::Daemon(server) => status_of_daemon(server, &handle).await?,
    };
    print_text(&format!("{shown}\n"));
    Ok(ExitCode::SUCCESS)
}

async fn status_of_tables(client: &Client, handle: &Handle) -> anyhow::Result<Value> {
    let status = client.status(handle).await?;
    let failures = status.failures.iter();
    let failures: Vec<_> = failures.map(|failure| &failure.message).collect();
    Ok(json!({
        "pending": status.pending.is_some(),
        "state": status.pending.as_ref().map(|(_, state)| state.as_str()),
        "exit_status": status.exit_status,
        "ended": status.ended.as_ref().map(|ended| &ended.state),
        "result": status.result.as_ref().map(|result| argument(result)),
        "failures": failures,
    }))
}

async fn status_of_daemon(server: &Server, handle: &Handle) -> anyhow::Result<Value> {
    let answer = match server.get(&format!("/v1/jobs/{handle}")).await {
        Ok(answer) => answer,
        // Nothing is kept of it: the tables say the same.
        Err(refused) if refused.is_code("not_found") => json!({}),
        Err(refused) => return Err(refused.into()),
    };
    let state = answer["state"].as_str().unwrap_or_default();
    let is_pending = matches!(state, "scheduled" | "ready" | "grabbed" | "blocked");
    let failures = answer["failures"].as_array().into_iter().flatten();
    let failures: Vec<_> = failures.map(|failure| &failure["message"]).collect();
    let result = &answer["result"];
    let result = match result.as_str() {
        Some(text) => text.into(),
        None if result.is_null() => Value::Null,
        None => result.to_string().into(),
    };
    Ok(json!({
        "pending": is_pending,
        "state": is_pending.then_some(state),
        "exit_status": answer["exit_status"],
        "ended": (!is_pending && !state.is_empty()).then_some(state),
        "result": result,
        "failures": failures,
    }))
}

/// Arguments of `ibex schwartz list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only these functions.
    #[arg(long = "func")]
    funcs: Vec<String>,
    /// Only with this coalescing value.
    #[arg(long, conflicts_with = "coalesce_prefix")]
    coalesce: Option<String>,
    /// Only with a coalescing value that starts so.
    #[arg(long)]
    coalesce_prefix: Option<String>,
    /// Only in this state.
    #[arg(long, value_enum)]
    state: Option<StateName>,
    /// At most so many from each database.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
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

/// Prints pending jobs.
pub(super) async fn list(place: &Place, args: List) -> anyhow::Result<ExitCode> {
    match place {
        Place::Tables(client) => list_tables(client, args).await?,
        Place::Daemon(server) => list_daemon(server, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_tables(client: &Client, args: List) -> anyhow::Result<()> {
    let query = Query {
        funcs: args.funcs,
        coalesce: args.coalesce,
        coalesce_prefix: args.coalesce_prefix,
        state: args.state.map(State::from),
        limit: args.limit,
        ..Query::default()
    };
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
    Ok(())
}

async fn list_daemon(server: &Server, args: List) -> anyhow::Result<()> {
    let mut query = String::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", escaped(&value)));
        }
    };
    put("coalesce", args.coalesce);
    put("coalesce_prefix", args.coalesce_prefix);
    put(
        "state",
        args.state
            .map(|state| State::from(state).as_str().to_owned()),
    );
    // The call takes one function.
    let funcs = if args.funcs.is_empty() {
        vec![String::new()]
    } else {
        args.funcs
    };
    for func in funcs {
        let func = if func.is_empty() {
            func
        } else {
            format!("&func={}", escaped(&func))
        };
        let (mut left, mut after) = (args.limit, String::new());
        while left > 0 {
            let page = left.min(PAGE_MAX);
            let path = format!("/v1/jobs?limit={page}{query}{func}{after}");
            let answer = server.get(&path).await?;
            let jobs = answer["jobs"].as_array().cloned().unwrap_or_default();
            jobs.iter().for_each(print_listed);
            let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
            let last = jobs.last().and_then(|job| job["handle"].as_str());
            let (Some(last), true) = (last, count >= page) else {
                break;
            };
            after = format!("&after={}", escaped(last));
            left = left.saturating_sub(count);
        }
    }
    Ok(())
}

fn print_listed(job: &Value) {
    let line = json!({
        "handle": job["handle"],
        "jobid": job["jobid"],
        "funcname": job["func"],
        "state": job["state"],
        "uniqkey": job["uniqkey"],
        "coalesce": job["coalesce"],
        "priority": job["priority"],
        "insert_time": job["insert_time"],
        "run_after": job["run_after"],
        "grabbed_until": job["grabbed_until"],
        "arg": argument(&bytes_of(job)),
    });
    print_text(&format!("{line}\n"));
}

/// The argument of a job as a daemon shows it.
pub(super) fn bytes_of(job: &Value) -> Vec<u8> {
    let text = job["arg_b64"].as_str().unwrap_or_default();
    STANDARD.decode(text).unwrap_or_default()
}

/// Removes a job that no worker has.
pub(super) async fn cancel(place: &Place, handle: &str) -> anyhow::Result<ExitCode> {
    let handle: Handle = handle.parse()?;
    match place {
        Place::Tables(client) => client.cancel(&handle).await?,
        Place::Daemon(server) => {
            let path = format!("/v1/jobs/{handle}");
            let answer: Result<Value, Refused> = server
                .call(Method::DELETE, &path, None, Duration::ZERO)
                .await;
            if answer?["cancel_requested"] == true {
                eprintln!("a worker has it, and hears of it when it next makes its lease longer");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
