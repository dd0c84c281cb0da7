//! `ibex gear client`: submits jobs from arguments or standard input and prints what the workers answer.

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ibex_gearman_client::{Client, Error, Event, Priority};

use super::{EXIT_UNREACHABLE, Servers};

/// Arguments of `ibex gear client`.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag letter of the original tool"
)]
pub struct Args {
    #[command(flatten)]
    servers: Servers,
    /// Function to call; may be repeated: each gets every workload.
    #[arg(short = 'f', long = "function", required = true)]
    functions: Vec<String>,
    /// Submit in the background and print nothing but errors (with -v, the handle).
    #[arg(short = 'b', long)]
    background: bool,
    /// High priority.
    #[arg(short = 'I', long, conflicts_with = "low")]
    high: bool,
    /// Low priority.
    #[arg(short = 'L', long)]
    low: bool,
    /// One job for each line of input, the line break included.
    #[arg(short = 'n', long, conflicts_with = "lines_bare")]
    lines: bool,
    /// One job for each line of input, without the line break.
    #[arg(short = 'N', long)]
    lines_bare: bool,
    /// Put `function: ` before each line of output.
    #[arg(short = 'P', long)]
    prefix: bool,
    /// Send an empty workload and do not read standard input.
    #[arg(short = 's', long)]
    empty: bool,
    /// Unique key: equal ones are run once.
    #[arg(short = 'u', long)]
    unique: Option<String>,
    /// Give up after this many milliseconds.
    #[arg(short = 't', long, value_name = "MS")]
    timeout: Option<u64>,
    /// Print `Task created: HANDLE`.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Workloads, one job each; without any, standard input is the workload.
    data: Vec<String>,
}

/// How one invocation went.
enum Outcome {
    Done,
    Failed,
}

/// Submits and prints.
///
/// # Errors
/// When standard input or output fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = args.servers.config()?.with_exceptions(true);
    if let Some(millis) = args.timeout {
        config = config.with_reply_deadline(Duration::from_millis(millis));
    }
    let client = match Client::connect(config).await {
        Ok(client) => client,
        Err(error) => bail!("{error}"),
    };
    let work = submit_all(&client, &args);
    let outcome = match args.timeout {
        None => work.await,
        Some(millis) => match tokio::time::timeout(Duration::from_millis(millis), work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                eprintln!("ibex gear: no result within {millis} ms");
                return Ok(ExitCode::from(EXIT_UNREACHABLE));
            }
        },
    };
    match outcome {
        Ok(Outcome::Done) => Ok(ExitCode::SUCCESS),
        Ok(Outcome::Failed) => Ok(ExitCode::from(1)),
        Err(error) if error.is::<Error>() => {
            eprintln!("ibex gear: {error:#}");
            Ok(ExitCode::from(EXIT_UNREACHABLE))
        }
        Err(error) => Err(error),
    }
}

async fn submit_all(client: &Client, args: &Args) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Done;
    for workload in workloads(args)? {
        for function in &args.functions {
            if let Outcome::Failed = submit(client, args, function, &workload).await? {
                outcome = Outcome::Failed;
            }
        }
    }
    Ok(outcome)
}

fn workloads(args: &Args) -> anyhow::Result<Vec<Vec<u8>>> {
    if !args.data.is_empty() {
        return Ok(args
            .data
            .iter()
            .map(|text| text.clone().into_bytes())
            .collect());
    }
    if args.empty {
        return Ok(vec![Vec::new()]);
    }
    let mut stdin = std::io::stdin().lock();
    if !args.lines && !args.lines_bare {
        let mut all = Vec::new();
        stdin.read_to_end(&mut all).context("read standard input")?;
        return Ok(vec![all]);
    }
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if stdin
            .read_until(b'\n', &mut line)
            .context("read standard input")?
            == 0
        {
            return Ok(lines);
        }
        if args.lines_bare && line.ends_with(b"\n") {
            line.pop();
        }
        lines.push(line);
    }
}

async fn submit(
    client: &Client,
    args: &Args,
    function: &str,
    workload: &[u8],
) -> anyhow::Result<Outcome> {
    let priority = match (args.high, args.low) {
        (true, _) => Priority::High,
        (_, true) => Priority::Low,
        _ => Priority::Normal,
    };
    if args.background {
        let mut submission = client
            .submit_background(function, workload.to_vec())
            .priority(priority);
        if let Some(unique) = &args.unique {
            submission = submission.unique(unique.clone());
        }
        let handle = submission.await?;
        if args.verbose {
            eprintln!("Task created: {handle}");
        }
        return Ok(Outcome::Done);
    }
    let mut submission = client
        .submit(function, workload.to_vec())
        .priority(priority);
    if let Some(unique) = &args.unique {
        submission = submission.unique(unique.clone());
    }
    let mut job = submission.await?;
    if args.verbose {
        eprintln!("Task created: {}", job.handle());
    }
    let prefix = if args.prefix { Some(function) } else { None };
    while let Some(event) = job.next().await? {
        match event {
            Event::Data(bytes) | Event::Complete(bytes) => print(prefix, &bytes)?,
            Event::Warning(bytes) => report(&bytes),
            Event::Status {
                numerator,
                denominator,
            } => {
                let percent = u64::from(numerator) * 100 / u64::from(denominator.max(1));
                eprintln!("{percent}% Complete");
            }
            Event::Exception(bytes) => {
                report(&bytes);
                eprintln!("Job failed");
                return Ok(Outcome::Failed);
            }
            Event::Fail => {
                eprintln!("Job failed");
                return Ok(Outcome::Failed);
            }
        }
    }
    Ok(Outcome::Done)
}

/// Results are bytes and stay bytes; only a wanted prefix is put in front of each line.
fn print(prefix: Option<&str>, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = match prefix {
        None => stdout.write_all(bytes),
        Some(prefix) => bytes
            .split_inclusive(|&byte| byte == b'\n')
            .try_for_each(|line| {
                stdout.write_all(prefix.as_bytes())?;
                stdout.write_all(b": ")?;
                stdout.write_all(line)
            }),
    };
    written
        .and_then(|()| stdout.flush())
        .context("write standard output")
}

fn report(bytes: &[u8]) {
    eprintln!("{}", String::from_utf8_lossy(bytes));
}
