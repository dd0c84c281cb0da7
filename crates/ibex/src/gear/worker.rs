//! `ibex gear worker`: runs a command for each job, workload on its standard input, its standard output the result.
//!
//! Input and output of the command are served at the same time, so a command may write before it has read everything; the original tool deadlocks
//! once a pipe is full.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use ibex_gearman_client::worker::JobError;
use ibex_gearman_client::{Worker, WorkerJob};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{EXIT_UNREACHABLE, PidFile, Servers};
use crate::output::print_bytes;

/// Arguments of `ibex gear worker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    servers: Servers,
    /// Function to serve; may be repeated.
    #[arg(short = 'f', long = "function", required = true)]
    functions: Vec<String>,
    /// Leave after this many jobs; 0 = never.
    #[arg(short = 'c', long, default_value_t = 0)]
    count: u64,
    /// Jobs at once.
    #[arg(short = 'j', long, default_value_t = 1)]
    jobs: usize,
    /// Send each line of the command's output at once, as a part of the result.
    #[arg(short = 'n', long, conflicts_with = "lines_bare")]
    lines: bool,
    /// The same without the line break.
    #[arg(short = 'N', long)]
    lines_bare: bool,
    /// Leave with exit code 2 when no job came within this many milliseconds.
    #[arg(short = 't', long, value_name = "MS")]
    timeout: Option<u64>,
    /// Write the process id into this file.
    #[arg(short = 'i', long = "pid-file", value_name = "FILE")]
    pid_file: Option<std::path::PathBuf>,
    /// Say of each job when it begins.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Command and its arguments, after `--`. Without one the workload is printed and the result is empty.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Serves until a signal, or until `--count` jobs are done. What it holds is finished first.
///
/// # Errors
/// When the arguments name no usable server or function.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _pid_file = PidFile::write(args.pid_file.as_deref())?;
    let stop = CancellationToken::new();
    let left = Arc::new(AtomicU64::new(args.count));
    let begun = Arc::new(Notify::new());
    let task = Arc::new(Task {
        command: args.command,
        lines: match (args.lines, args.lines_bare) {
            (true, _) => Lines::Whole,
            (_, true) => Lines::Bare,
            _ => Lines::No,
        },
        is_verbose: args.verbose,
        running: AtomicUsize::new(0),
    });
    let mut worker = Worker::new(args.servers.config()?).concurrency(args.jobs);
    for function in args.functions {
        let (task, left, stop) = (Arc::clone(&task), Arc::clone(&left), stop.clone());
        let begun = Arc::clone(&begun);
        worker = worker.function(function, move |job| {
            let (task, left, stop) = (Arc::clone(&task), Arc::clone(&left), stop.clone());
            begun.notify_one();
            async move {
                task.running.fetch_add(1, Ordering::Relaxed);
                let result = task.perform(&job).await;
                task.running.fetch_sub(1, Ordering::Relaxed);
                if left.load(Ordering::Relaxed) > 0 && left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    stop.cancel();
                }
                result
            }
        });
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let signalled = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        stop.cancel();
        // A second one does not wait.
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    let patience = args.timeout.map(Duration::from_millis);
    tokio::select! {
        ended = worker.run(stop.clone()) => match ended {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => bail!("{error}"),
        },
        () = signalled => Ok(ExitCode::from(1)),
        () = idle(&begun, &task, patience) => {
            eprintln!("ibex gear: no job within {} ms", args.timeout.unwrap_or_default());
            Ok(ExitCode::from(EXIT_UNREACHABLE))
        }
    }
}

/// Returns once no job has begun for that long.
async fn idle(begun: &Notify, task: &Task, patience: Option<Duration>) {
    let Some(patience) = patience else {
        return std::future::pending().await;
    };
    loop {
        let has_begun = tokio::time::timeout(patience, begun.notified()).await;
        if has_begun.is_err() && task.running.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// What becomes of the lines of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    No,
    Whole,
    Bare,
}

/// What is done for each job.
#[derive(Debug)]
struct Task {
    command: Vec<String>,
    lines: Lines,
    is_verbose: bool,
    running: AtomicUsize,
}

impl Task {
    async fn perform(&self, job: &WorkerJob) -> Result<Bytes, JobError> {
        if self.is_verbose {
            eprintln!(
                "Job={} Function={} Workload={} bytes",
                String::from_utf8_lossy(job.handle()),
                String::from_utf8_lossy(job.function()),
                job.workload().len()
            );
        }
        let Some((program, arguments)) = self.command.split_first() else {
            print_bytes(job.workload())?;
            return Ok(Bytes::new());
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let workload = job.workload().clone();
        let feed = async move {
            if let Some(mut stdin) = stdin
                && stdin.write_all(&workload).await.is_ok()
            {
                // A command that does not want all of its input closes early; its exit status is what counts.
                drop(stdin.shutdown().await);
            }
        };
        let stdout = child.stdout.take();
        let ((), output) = tokio::join!(feed, self.collect(job, stdout));
        let output = output?;
        if child.wait().await?.success() {
            return Ok(output.into());
        }
        if !output.is_empty() {
            job.data(&output).await;
        }
        Err(JobError::Fail)
    }

    /// The command's output, but for lines that are sent at once.
    async fn collect(
        &self,
        job: &WorkerJob,
        stdout: Option<ChildStdout>,
    ) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        let Some(stdout) = stdout else {
            return Ok(rest);
        };
        let mut stdout = BufReader::new(stdout);
        if self.lines == Lines::No {
            stdout.read_to_end(&mut rest).await?;
            return Ok(rest);
        }
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).await? > 0 {
            let shown = match self.lines {
                Lines::Bare => line.strip_suffix(b"\n").unwrap_or(&line),
                Lines::Whole | Lines::No => &line,
            };
            job.data(shown).await;
            line.clear();
        }
        Ok(rest)
    }
}
