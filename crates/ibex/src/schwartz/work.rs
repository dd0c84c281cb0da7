//! `ibex schwartz work`: a shell command for each job.
//!
//! The argument is the command's standard input (a structure frozen by Perl as JSON, unless `--raw`). Exit status 0 completes the job, 75 declines
//! it, 100 fails it for good, any other fails it;
//! the message of a failure is the last line of standard error.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ibex_schwartz::{Client, FunctionOptions, JobContext, Outcome, RetryPolicy, Worker, storable};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::EXIT_NOTHING;

/// Exit status of a command that says "not now" (EX_TEMPFAIL of sysexits.h).
const STATUS_DECLINE: i32 = 75;
/// Exit status of a command that says "never".
const STATUS_PERMANENT: i32 = 100;

/// Arguments of `ibex schwartz work`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Function to work; may be repeated.
    #[arg(long = "func", required = true)]
    funcs: Vec<String>,
    /// Command for `/bin/sh -c`. Environment: SCHWARTZ_JOBID, _HANDLE, _FUNCNAME, _UNIQKEY, _COALESCE, _ATTEMPT.
    #[arg(long)]
    exec: String,
    /// Work one job; exit code 2 if there is none.
    #[arg(long, conflicts_with = "until_done")]
    once: bool,
    /// Work until nothing is ready.
    #[arg(long)]
    until_done: bool,
    /// Give the argument as it is, even if Perl froze it.
    #[arg(long)]
    raw: bool,
    /// Seconds of a lease; kept alive while the command runs.
    #[arg(long, default_value_t = 3600)]
    grab_for: u64,
    /// Runs after the first one.
    #[arg(long, default_value_t = 0)]
    max_retries: u32,
    /// Seconds between runs.
    #[arg(long, default_value_t = 0)]
    retry_delay: u64,
    /// Seconds the exit status is kept.
    #[arg(long, default_value_t = 0)]
    keep_exit_status_for: u64,
    /// The most urgent jobs first.
    #[arg(long)]
    prioritize: bool,
    /// Only jobs of at least this priority.
    #[arg(long, requires = "prioritize")]
    floor: Option<u16>,
    /// Candidates read at a time.
    #[arg(long, default_value_t = 50)]
    batch_size: usize,
    /// Jobs at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Seconds between two looks at idle databases.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    poll: u64,
}

/// Works as told. SIGTERM and SIGINT finish the running jobs first.
///
/// # Errors
/// When no database answers at all, or signals cannot be watched.
pub(super) async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    let options = FunctionOptions {
        grab_for: args.grab_for,
        retry: RetryPolicy::fixed(args.max_retries, args.retry_delay),
        keep_exit_status_for: args.keep_exit_status_for,
        timeout: None,
    };
    let command: Arc<str> = args.exec.into();
    let mut worker = Worker::new(client)
        .concurrency(args.jobs)
        .batch_size(args.batch_size)
        .poll(Duration::from_secs(args.poll.max(1)));
    if args.prioritize {
        worker = worker.prioritize(args.floor);
    }
    let raw = args.raw;
    for func in args.funcs {
        let command = Arc::clone(&command);
        worker = worker.function_with(func, options.clone(), move |job| {
            let command = Arc::clone(&command);
            async move { perform(&command, raw, &job).await }
        });
    }
    if args.once {
        let found = worker.work_once().await?;
        return Ok(if found {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_NOTHING)
        });
    }
    if args.until_done {
        worker.work_until_done().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let on_signal = stop.clone();
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        on_signal.cancel();
    };
    tokio::join!(worker.run(stop), signals);
    Ok(ExitCode::SUCCESS)
}

async fn perform(command: &str, raw: bool, job: &JobContext) -> Outcome {
    let argument = argument(raw, job.arg());
    match execute(command, &argument, job).await {
        Ok((Some(0), _)) => Outcome::Complete,
        Ok((Some(STATUS_DECLINE), _)) => Outcome::Decline(None),
        Ok((Some(STATUS_PERMANENT), message)) => Outcome::Permanent {
            message,
            status: 100,
        },
        Ok((Some(status), message)) => Outcome::Fail {
            message,
            status: u16::try_from(status).unwrap_or(1),
        },
        Ok((None, message)) => Outcome::fail(format!("ended by a signal; {message}")),
        Err(error) => Outcome::fail(format!("run command: {error}")),
    }
}

fn argument(raw: bool, arg: &[u8]) -> Vec<u8> {
    if !raw
        && storable::is_frozen(arg)
        && let Ok(value) = storable::decode(arg)
    {
        return value.to_string().into_bytes();
    }
    arg.to_vec()
}

/// The exit status, if there is one, and the last line of standard error.
async fn execute(
    command: &str,
    argument: &[u8],
    job: &JobContext,
) -> std::io::Result<(Option<i32>, String)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("SCHWARTZ_JOBID", job.handle().jobid().to_string())
        .env("SCHWARTZ_HANDLE", job.handle().to_string())
        .env("SCHWARTZ_FUNCNAME", job.funcname())
        .env("SCHWARTZ_UNIQKEY", job.uniqkey().unwrap_or_default())
        .env("SCHWARTZ_COALESCE", job.coalesce().unwrap_or_default())
        .env("SCHWARTZ_ATTEMPT", job.attempt().to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input ends early; its exit status is what counts.
            drop(stdin.write_all(argument).await);
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Ok((output.status.code(), last.to_owned()))
}
