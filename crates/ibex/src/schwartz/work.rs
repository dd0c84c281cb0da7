//! `ibex schwartz work`: a shell command for each job.
//!
//! The argument is the command's standard input (a structure frozen by Perl as JSON, unless `--raw`). Exit status 0 completes the job, 75 declines
//! it, 100 fails it for good, any other fails it; the message of a failure is the last line of standard error.
//!
//! The first SIGTERM or SIGINT ends this when the running commands are done, the second ends the commands, too, and gives their jobs back. Commands
//! have process groups of their own, so that a terminal's Ctrl-C is heard here only.

mod remote;

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use ibex_schwartz::{
    Client, FunctionOptions, JobContext, Outcome, RetryPolicy, When, Worker, storable,
};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::EXIT_NOTHING;
use super::place::Place;

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
    /// Candidates read at a time; of no meaning through a daemon.
    #[arg(long, default_value_t = 50)]
    batch_size: usize,
    /// Jobs at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    jobs: u16,
    /// Seconds between two looks at idle databases; a daemon tells at once.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    poll: u64,
    /// Name of this worker, as a daemon shows it.
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
}

/// What signals ask for.
#[derive(Debug, Clone, Default)]
struct Stop {
    /// Take no more jobs.
    soon: CancellationToken,
    /// End the commands.
    now: CancellationToken,
}

impl Stop {
    /// Listens for signals as long as the program runs.
    fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
        let told = stop.clone();
        tokio::spawn(async move {
            for token in [told.soon, told.now] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(stop)
    }
}

/// Works as told.
///
/// # Errors
/// When no database answers at all, or signals cannot be watched.
pub(super) async fn run(place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    match place {
        Place::Tables(client) => run_tables(client, args, stop).await,
        Place::Daemon(server) => remote::run(server, args, stop).await,
    }
}

async fn run_tables(client: &Client, args: Args, stop: Stop) -> anyhow::Result<ExitCode> {
    let options = FunctionOptions {
        grab_for: args.grab_for,
        retry: RetryPolicy::fixed(args.max_retries, args.retry_delay),
        keep_exit_status_for: args.keep_exit_status_for,
        timeout: None,
    };
    let command: Arc<str> = args.exec.into();
    let mut worker = Worker::new(client)
        .concurrency(usize::from(args.jobs))
        .batch_size(args.batch_size)
        .poll(Duration::from_secs(args.poll));
    if args.prioritize {
        worker = worker.prioritize(args.floor);
    }
    let raw = args.raw;
    for func in args.funcs {
        let (command, stop) = (Arc::clone(&command), stop.clone());
        worker = worker.function_with(func, options.clone(), move |job| {
            let (command, stop) = (Arc::clone(&command), stop.clone());
            async move { perform(&command, raw, &job, &stop).await }
        });
    }
    if args.once {
        let found = worker.work_once().await?;
        return Ok(ExitCode::from(if found { 0 } else { EXIT_NOTHING }));
    }
    if args.until_done {
        let loops = (0..args.jobs).map(|_| until_done(&worker, &stop));
        try_join_all(loops).await?;
        return Ok(ExitCode::SUCCESS);
    }
    worker.run(stop.soon).await;
    Ok(ExitCode::SUCCESS)
}

async fn until_done(worker: &Worker, stop: &Stop) -> Result<(), ibex_schwartz::Error> {
    while !stop.soon.is_cancelled() && worker.work_once().await? {}
    Ok(())
}

async fn perform(command: &str, raw: bool, job: &JobContext, stop: &Stop) -> Outcome {
    let task = Task {
        argument: argument(raw, job.arg()),
        environment: [
            job.handle().jobid().to_string(),
            job.handle().to_string(),
            job.funcname().to_owned(),
            job.uniqkey().unwrap_or_default().to_owned(),
            job.coalesce().unwrap_or_default().to_owned(),
            job.attempt().to_string(),
        ],
    };
    match task.execute(command, &stop.now).await {
        End::Complete => Outcome::Complete,
        End::Decline => Outcome::Decline(None),
        End::Stopped => Outcome::Decline(Some(When::Now)),
        End::Permanent(message) => Outcome::Permanent {
            message,
            status: 100,
        },
        End::Fail(message, status) => Outcome::Fail { message, status },
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

/// What a command gets.
struct Task {
    argument: Vec<u8>,
    /// Values of [`VARIABLES`].
    environment: [String; 6],
}

const VARIABLES: [&str; 6] = [
    "SCHWARTZ_JOBID",
    "SCHWARTZ_HANDLE",
    "SCHWARTZ_FUNCNAME",
    "SCHWARTZ_UNIQKEY",
    "SCHWARTZ_COALESCE",
    "SCHWARTZ_ATTEMPT",
];

/// How a command ended.
enum End {
    Complete,
    Decline,
    Permanent(String),
    Fail(String, u16),
    /// By us, because this worker was told to end at once.
    Stopped,
}

impl Task {
    /// Runs the command; `cut` ends it.
    async fn execute(self, command: &str, cut: &CancellationToken) -> End {
        match self.output(command, cut).await {
            Ok(None) => End::Stopped,
            Ok(Some((Some(0), _))) => End::Complete,
            Ok(Some((Some(STATUS_DECLINE), _))) => End::Decline,
            Ok(Some((Some(STATUS_PERMANENT), message))) => End::Permanent(message),
            Ok(Some((Some(status), message))) => {
                End::Fail(message, u16::try_from(status).unwrap_or(1))
            }
            Ok(Some((None, message))) => End::Fail(format!("ended by a signal; {message}"), 1),
            Err(error) => End::Fail(format!("run command: {error}"), 1),
        }
    }

    /// The exit status, if there is one, and the last line of standard error; nothing when it was cut off.
    async fn output(
        self,
        command: &str,
        cut: &CancellationToken,
    ) -> std::io::Result<Option<(Option<i32>, String)>> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .envs(VARIABLES.into_iter().zip(&self.environment))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = group_of(&child);
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input ends early; its exit status is what counts.
                drop(stdin.write_all(&self.argument).await);
            }
        };
        let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::select! {
            output = ended => output?,
            () = cut.cancelled() => {
                let killed = group.map(|group| {
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
                });
                if let Some(Err(error)) = killed {
                    eprintln!("ibex schwartz: the command ended by itself: {error}");
                }
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        Ok(Some((output.status.code(), last.to_owned())))
    }
}

fn group_of(child: &Child) -> Option<rustix::process::Pid> {
    let id = i32::try_from(child.id()?).ok()?;
    rustix::process::Pid::from_raw(id)
}
