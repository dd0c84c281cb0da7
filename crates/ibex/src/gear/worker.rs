//! `ibex gear worker`: runs a command for each job, workload on its standard input, its standard output the result.
//!
//! Input and output of the command are served at the same time, so a command may write before it has read everything; the original tool deadlocks
//! once a pipe is full.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use bytes::Bytes;
use ibex_gearman_client::worker::JobError;
use ibex_gearman_client::{Worker, WorkerJob};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::Servers;
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
    /// Command and its arguments, after `--`. Without one the workload is printed and the result is empty.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Serves until a signal, or until `--count` jobs are done.
///
/// # Errors
/// When the arguments name no usable server or function.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let left = Arc::new(AtomicU64::new(args.count));
    let command: Arc<[String]> = args.command.into();
    let mut worker = Worker::new(args.servers.config()?).concurrency(args.jobs);
    for function in args.functions {
        let (command, left, stop) = (Arc::clone(&command), Arc::clone(&left), stop.clone());
        worker = worker.function(function, move |job| {
            let (command, left, stop) = (Arc::clone(&command), Arc::clone(&left), stop.clone());
            async move {
                let result = perform(&command, &job).await;
                if left.load(Ordering::Relaxed) > 0 && left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    stop.cancel();
                }
                result
            }
        });
    }
    let on_signal = stop.clone();
    let signals = async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = worker.run(stop) => match ended {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => bail!("{error}"),
        },
        () = signals => Ok(ExitCode::SUCCESS),
    }
}

async fn perform(command: &[String], job: &WorkerJob) -> Result<Bytes, JobError> {
    let Some((program, arguments)) = command.split_first() else {
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
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    if output.status.success() {
        return Ok(output.stdout.into());
    }
    if !output.stdout.is_empty() {
        job.data(&output.stdout).await;
    }
    Err(JobError::Fail)
}
