//! `ibex gear client`: submits jobs from arguments or standard input and prints what the workers answer.

use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use ibex_gearman_client::{Client, Error, Handle, Priority};

use super::show::{Outcome, Show};
use super::{EXIT_UNREACHABLE, PidFile, Servers};

/// Jobs of `--map` that are out at once, unless told otherwise.
const MAP_JOBS: usize = 64;

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
    #[arg(
        short = 'f',
        long = "function",
        required_unless_present = "wait",
        conflicts_with = "wait"
    )]
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
    /// Write the process id into this file.
    #[arg(short = 'i', long = "pid-file", value_name = "FILE")]
    pid_file: Option<std::path::PathBuf>,
    /// A job for each line of input, many at once; each result is a line of output, in the order of the input.
    #[arg(long, conflicts_with_all = ["background", "lines", "lines_bare", "empty", "prefix", "data"])]
    map: bool,
    /// Jobs of --map at once, 64 by default.
    #[arg(short = 'j', long, requires = "map")]
    jobs: Option<usize>,
    /// Submit in the background, not to be run before this: a time such as 2030-01-31T12:00:00Z, seconds since 1970, or +SECONDS from now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Wait for a job that was submitted before and print its result (ibex-gearmand).
    #[arg(long, value_name = "HANDLE", conflicts_with_all = ["background", "at", "map", "data"])]
    wait: Option<String>,
    /// A line of JSON for each job: function, handle, status, data (data_base64 if it is no text), warnings.
    #[arg(long)]
    json: bool,
    /// How long the result of a background job is kept for --wait, in seconds (ibex-gearmand).
    #[arg(long, value_name = "SECONDS")]
    result_ttl: Option<u64>,
    /// How often a background job that fails is tried in all (ibex-gearmand).
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Give the job up when no worker took it within that many seconds (ibex-gearmand).
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Fail at once when no worker can do the function (ibex-gearmand).
    #[arg(long)]
    no_wait_for_workers: bool,
    /// Workloads, one job each; without any, standard input is the workload.
    data: Vec<String>,
}

/// Submits and prints.
///
/// # Errors
/// When standard input or output fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _pid_file = PidFile::write(args.pid_file.as_deref())?;
    let mut config = args
        .servers
        .config()?
        .with_exceptions(true)
        .with_no_workers_error(args.no_wait_for_workers);
    if let Some(millis) = args.timeout {
        config = config.with_reply_deadline(Duration::from_millis(millis));
    }
    let client = match Client::connect(config).await {
        Ok(client) => client,
        Err(error) => bail!("{error}"),
    };
    let work = work(&client, &args);
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
        Err(error) => match error.downcast_ref::<Error>() {
            Some(cause) => {
                eprintln!("ibex gear: {error:#}");
                Ok(ExitCode::from(exit_code(cause)))
            }
            None => Err(error),
        },
    }
}

/// A server that says no has been reached.
fn exit_code(error: &Error) -> u8 {
    let is_answer = error.is_job_failure()
        || matches!(error, Error::Refused { .. } | Error::Unsupported { .. });
    if is_answer { 1 } else { EXIT_UNREACHABLE }
}

async fn work(client: &Client, args: &Args) -> anyhow::Result<Outcome> {
    if let Some(handle) = &args.wait {
        return wait_for(client, args, handle).await;
    }
    if args.map {
        return map(client, args).await;
    }
    let mut outcome = Outcome::Done;
    for workload in workloads(args)? {
        for function in &args.functions {
            if submit(client, args, function, &workload).await? == Outcome::Failed {
                outcome = Outcome::Failed;
            }
        }
    }
    Ok(outcome)
}

/// A handle does not say its server: the first that knows it will be it.
async fn wait_for(client: &Client, args: &Args, handle: &str) -> anyhow::Result<Outcome> {
    let mut last = None;
    for address in args.servers.addresses() {
        let handle = Handle::new(handle.to_owned(), address.parse()?);
        match client.attach(&handle).await {
            Ok(job) => return args.show(None).job(None, job).await,
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no server named")?.into())
}

/// Results in the order of the lines, however they come. What failed is an empty line, or a line of JSON that says so.
async fn map(client: &Client, args: &Args) -> anyhow::Result<Outcome> {
    let [function] = &args.functions[..] else {
        bail!("--map is for one function");
    };
    let show = args.show(None);
    let lines = tokio::task::spawn_blocking(|| lines_of_input(true)).await??;
    let submissions = lines.into_iter().map(|line| async move {
        client
            .submit(function, line)
            .priority(args.priority())
            .await
    });
    let mut results = futures_util::stream::iter(submissions)
        .map(|submission| async move {
            let job = submission.await?;
            let handle = job.handle().to_string();
            Ok::<_, Error>((handle, job.complete().await))
        })
        .buffered(args.jobs.unwrap_or(MAP_JOBS).max(1));
    let mut outcome = Outcome::Done;
    while let Some(result) = results.next().await {
        let (handle, result) = result?;
        if let Err(error) = &result {
            if !error.is_job_failure() {
                return Err(error.clone().into());
            }
            outcome = Outcome::Failed;
        }
        show.mapped(function, &handle, &result)?;
    }
    Ok(outcome)
}

impl Args {
    fn show<'a>(&self, function: Option<&'a str>) -> Show<'a> {
        Show {
            is_json: self.json,
            prefix: function.filter(|_| self.prefix),
        }
    }

    fn priority(&self) -> Priority {
        match (self.high, self.low) {
            (true, _) => Priority::High,
            (_, true) => Priority::Low,
            _ => Priority::Normal,
        }
    }
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
    if args.lines || args.lines_bare {
        return lines_of_input(args.lines_bare);
    }
    let mut all = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut all)
        .context("read standard input")?;
    Ok(vec![all])
}

fn lines_of_input(is_bare: bool) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut stdin = std::io::stdin().lock();
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = stdin.read_until(b'\n', &mut line);
        if read.context("read standard input")? == 0 {
            return Ok(lines);
        }
        if is_bare && line.ends_with(b"\n") {
            line.pop();
        }
        lines.push(line);
    }
}

/// The options that both kinds of submission have.
macro_rules! with_options {
    ($submission:expr, $args:expr) => {{
        let mut submission = $submission.priority($args.priority());
        if let Some(unique) = &$args.unique {
            submission = submission.unique(unique.clone());
        }
        if let Some(ttl) = $args.ttl {
            submission = submission.ttl(Duration::from_secs(ttl));
        }
        if let Some(attempts) = $args.attempts {
            submission = submission.attempts(attempts);
        }
        if let Some(ttl) = $args.result_ttl {
            submission = submission.result_ttl(Duration::from_secs(ttl));
        }
        submission
    }};
}

async fn submit(
    client: &Client,
    args: &Args,
    function: &str,
    workload: &[u8],
) -> anyhow::Result<Outcome> {
    let show = args.show(Some(function));
    if args.background || args.at.is_some() {
        let submission = client.submit_background(function, workload.to_vec());
        let mut submission = with_options!(submission, args);
        if let Some(at) = &args.at {
            submission = submission.at(time(at, SystemTime::now())?);
        }
        let handle = submission.await?;
        show.created(function, &handle.to_string(), args.verbose)?;
        return Ok(Outcome::Done);
    }
    let submission = client.submit(function, workload.to_vec());
    let job = with_options!(submission, args).await?;
    if !args.json {
        show.created(function, &job.handle().to_string(), args.verbose)?;
    }
    show.job(Some(function), job).await
}

/// A time as people write it.
fn time(text: &str, now: SystemTime) -> anyhow::Result<SystemTime> {
    if let Some(seconds) = text.strip_prefix('+') {
        let seconds = seconds.parse().context("--at: +SECONDS")?;
        let later = now.checked_add(Duration::from_secs(seconds));
        return later.context("--at: too late");
    }
    if let Ok(seconds) = text.parse() {
        let later = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        return later.context("--at: too late");
    }
    let at: jiff::Timestamp = text
        .parse()
        .context("--at: a time such as 2030-01-31T12:00:00Z, seconds since 1970, or +SECONDS")?;
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    let later = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    later.context("--at: too late")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let epoch = SystemTime::UNIX_EPOCH;
        let after = |seconds| epoch + Duration::from_secs(seconds);
        for (text, expected) in [
            ("+60", after(1060)),
            ("1900000000", after(1_900_000_000)),
            ("2030-01-31T12:00:00Z", after(1_896_091_200)),
            ("2030-01-31T13:00:00+01:00", after(1_896_091_200)),
        ] {
            assert_eq!(time(text, after(1000)).unwrap(), expected, "{text}");
        }
        for text in ["", "soon", "+x", "-5", "2030-01-31"] {
            assert!(time(text, epoch).is_err(), "{text}");
        }
    }
}
