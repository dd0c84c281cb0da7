//! `ibex gear admin`: the text commands of a job server, printed in gearadmin's manner.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Servers;
use super::lists::object;
use crate::output::print_text;

/// What a command goes over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How long a server may take to answer one command.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes: a list of a million jobs fits.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Arguments of `ibex gear admin`; several questions may be combined.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the original tool"
)]
pub struct Args {
    #[command(flatten)]
    servers: Servers,
    /// Functions: queued, running, workers.
    #[arg(long)]
    status: bool,
    /// Functions with the queue of each priority.
    #[arg(long)]
    priority_status: bool,
    /// Connections and what they can do.
    #[arg(long)]
    workers: bool,
    /// All jobs.
    #[arg(long)]
    show_jobs: bool,
    /// All unique keys.
    #[arg(long)]
    show_unique_jobs: bool,
    /// Version of the server.
    #[arg(long)]
    server_version: bool,
    /// Log level of the server.
    #[arg(long)]
    server_verbose: bool,
    /// Process id of the server.
    #[arg(long)]
    getpid: bool,
    /// Remove a queued job.
    #[arg(long, value_name = "HANDLE")]
    cancel_job: Option<String>,
    /// Make a function known before any worker is.
    #[arg(long, value_name = "FUNCTION")]
    create_function: Option<String>,
    /// Forget a function without jobs and workers.
    #[arg(long, value_name = "FUNCTION")]
    drop_function: Option<String>,
    /// Functions with their bounds, counters and the age of their oldest job (ibex-gearmand).
    #[arg(long)]
    show_functions: bool,
    /// Recurring jobs and when they come next (ibex-gearmand).
    #[arg(long)]
    schedules: bool,
    /// Jobs that were given up (ibex-gearmand).
    #[arg(long)]
    dead: bool,
    /// Metrics (ibex-gearmand).
    #[arg(long)]
    metrics: bool,
    /// All that is known of a job (ibex-gearmand).
    #[arg(long, value_name = "HANDLE")]
    show_job: Option<String>,
    /// Bound a function's queue, 0 for no bound.
    #[arg(long, num_args = 2, value_names = ["FUNCTION", "JOBS"])]
    max_queue: Vec<String>,
    /// Bound how many jobs of a function run at once, 0 for no bound (ibex-gearmand).
    #[arg(long, num_args = 2, value_names = ["FUNCTION", "JOBS"])]
    limit_running: Vec<String>,
    /// Bound how many jobs of a function are handed out per second, 0 for no bound (ibex-gearmand).
    #[arg(long, num_args = 2, value_names = ["FUNCTION", "JOBS"])]
    limit_rate: Vec<String>,
    /// Hand out no jobs of a function (ibex-gearmand).
    #[arg(long, value_name = "FUNCTION")]
    pause: Option<String>,
    /// Hand them out again (ibex-gearmand).
    #[arg(long, value_name = "FUNCTION")]
    resume: Option<String>,
    /// Remove a function's waiting jobs (ibex-gearmand).
    #[arg(long, value_name = "FUNCTION")]
    purge: Option<String>,
    /// Make a dead job, or all of a function, wait again (ibex-gearmand).
    #[arg(long, value_name = "HANDLE|FUNCTION")]
    retry_dead: Option<String>,
    /// Forget a dead job, or all of a function (ibex-gearmand).
    #[arg(long, value_name = "HANDLE|FUNCTION")]
    drop_dead: Option<String>,
    /// End a recurring job (ibex-gearmand).
    #[arg(long, num_args = 2, value_names = ["FUNCTION", "UNIQUE"])]
    drop_schedule: Vec<String>,
    /// Refuse new submissions, or take them again (ibex-gearmand).
    #[arg(long, value_name = "on|off")]
    drain: Option<String>,
    /// Read the configuration, the access rules and the certificates again (ibex-gearmand).
    #[arg(long)]
    reload: bool,
    /// A line of JSON for each question.
    #[arg(long)]
    json: bool,
    /// Ask again every so many seconds, until interrupted; for questions only.
    #[arg(long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// Stop the server now.
    #[arg(long)]
    shutdown: bool,
    /// Stop the server once its workers are done.
    #[arg(long)]
    shutdown_graceful: bool,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Lines up to a lone point.
    List,
    /// `OK value`, or `OK` alone.
    Line,
}

impl Args {
    /// The commands to send, in the order they are printed.
    ///
    /// COMPAT(gearman): gearadmin's order, whatever that of the flags; what it does not have comes behind.
    fn commands(&self) -> Vec<(String, Form)> {
        let flags = [
            (self.show_jobs, "show jobs", Form::List),
            (self.show_unique_jobs, "show unique jobs", Form::List),
            (self.server_verbose, "verbose", Form::Line),
            (self.server_version, "version", Form::Line),
            (self.workers, "workers", Form::List),
            (self.priority_status, "prioritystatus", Form::List),
            (self.status, "status", Form::List),
            (self.show_functions, "show functions", Form::List),
            (self.schedules, "show schedules", Form::List),
            (self.dead, "show dead", Form::List),
            (self.metrics, "metrics", Form::List),
        ];
        let changes = [
            (&self.cancel_job, "cancel job", Form::Line),
            (&self.create_function, "create function", Form::Line),
            (&self.drop_function, "drop function", Form::Line),
        ];
        let values = [
            (&self.show_job, "show job", Form::List),
            (&self.pause, "pause", Form::Line),
            (&self.resume, "resume", Form::Line),
            (&self.purge, "purge", Form::Line),
            (&self.retry_dead, "retry dead", Form::Line),
            (&self.drop_dead, "drop dead", Form::Line),
            (&self.drain, "drain", Form::Line),
        ];
        let pairs = [
            (&self.max_queue, "maxqueue", " "),
            (&self.limit_running, "limit", " running "),
            (&self.limit_rate, "limit", " rate "),
            (&self.drop_schedule, "drop schedule", " "),
        ];
        let ends = [
            (self.reload, "reload"),
            (self.shutdown_graceful, "shutdown graceful"),
            (self.shutdown, "shutdown"),
        ];
        let asked = flags.iter().filter(|flag| flag.0);
        let with_value = |(value, command, form): &(&Option<String>, &str, Form)| {
            let value = value.as_ref()?;
            Some((format!("{command} {value}"), *form))
        };
        let pid = self.getpid.then(|| ("getpid".to_owned(), Form::Line));
        let mut commands: Vec<_> = pid.into_iter().collect();
        commands.extend(changes.iter().filter_map(with_value));
        commands.extend(asked.map(|&(_, command, form)| (command.to_owned(), form)));
        commands.extend(values.iter().filter_map(with_value));
        for (words, command, between) in pairs {
            // The flag may be given more than once.
            commands.extend(
                words
                    .chunks(2)
                    .map(|pair| (format!("{command} {}", pair.join(between)), Form::Line)),
            );
        }
        let last = ends.iter().filter(|end| end.0);
        commands.extend(last.map(|&(_, command)| (command.to_owned(), Form::Line)));
        commands
    }
}

/// Asks the first server and prints.
///
/// # Errors
/// None: troubles are told here.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // COMPAT(gearman): a server that does not answer is exit code 1, as a refusal is.
    work(args).await.or_else(|error| {
        eprintln!("ibex gear: {error:#}");
        Ok(ExitCode::from(1))
    })
}

async fn work(args: Args) -> anyhow::Result<ExitCode> {
    let commands = args.commands();
    if commands.is_empty() {
        bail!("nothing asked; see --help");
    }
    let pause = args
        .watch
        .map(|seconds| Duration::from_secs(seconds.max(1)));
    if pause.is_some() && !commands.iter().all(|(command, _)| is_question(command)) {
        bail!("--watch is for questions: it would do the rest again and again");
    }
    let addresses = args.servers.addresses();
    let address = addresses.first().context("no server named")?;
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(address))
        .await
        .with_context(|| format!("connect to {address}: no answer"))?
        .with_context(|| format!("connect to {address}"))?;
    let host = address
        .rsplit_once(':')
        .map_or(&address[..], |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream: Box<dyn Stream> = match args.servers.tls()? {
        None => Box::new(stream),
        Some(tls) => {
            let shaken = tokio::time::timeout(DEADLINE, tls.connect(host, stream)).await;
            let shaken = shaken.with_context(|| format!("connect to {address}: no answer"))?;
            Box::new(shaken.with_context(|| format!("connect to {address}"))?)
        }
    };
    let mut stream = BufReader::new(stream);
    loop {
        let is_refused = ask(&mut stream, &commands, args.json).await?;
        let Some(pause) = pause else {
            return Ok(ExitCode::from(u8::from(is_refused)));
        };
        tokio::time::sleep(pause).await;
        if !args.json && std::io::stdout().is_terminal() {
            // The cursor to the first line, the screen empty.
            print_text("\x1b[H\x1b[2J");
        }
    }
}

/// Commands that change nothing.
fn is_question(command: &str) -> bool {
    let first = command.split(' ').next().unwrap_or_default();
    [
        "status",
        "prioritystatus",
        "workers",
        "version",
        "verbose",
        "getpid",
        "metrics",
        "show",
    ]
    .contains(&first)
}

/// Asks and prints; whether something was refused.
async fn ask(
    stream: &mut BufReader<Box<dyn Stream>>,
    commands: &[(String, Form)],
    is_json: bool,
) -> anyhow::Result<bool> {
    let mut is_refused = false;
    for (command, form) in commands {
        let form = *form;
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .await?;
        let answer = tokio::time::timeout(DEADLINE, read(stream, form))
            .await
            .with_context(|| format!("{command}: no answer within {} s", DEADLINE.as_secs()))??;
        let shown = shown(&answer, form);
        if is_json {
            print_text(&format!("{}\n", object(command, &shown)));
            is_refused |= shown.is_err();
            continue;
        }
        match shown {
            Ok(text) => print_text(&text),
            Err(refusal) => {
                eprintln!("Error: {refusal}");
                is_refused = true;
            }
        }
    }
    Ok(is_refused)
}

async fn read(stream: &mut BufReader<Box<dyn Stream>>, form: Form) -> anyhow::Result<String> {
    let mut text = Vec::new();
    loop {
        let start = text.len();
        if stream.read_until(b'\n', &mut text).await? == 0 {
            if form == Form::Line && text.is_empty() {
                // A server told to stop may close before it answers.
                return Ok("OK\n".to_owned());
            }
            bail!("connection closed in the middle of an answer");
        }
        if text.last() != Some(&b'\n') {
            // A port that speaks TLS answers plain text so.
            bail!("connection closed in the middle of a line (a TLS port wants -S)");
        }
        let line = text[start..].trim_ascii_end();
        if form == Form::Line || line == b"." || (start == 0 && line.starts_with(b"ERR ")) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        if text.len() > ANSWER_BYTES_MAX {
            bail!("answer exceeds {ANSWER_BYTES_MAX} bytes");
        }
    }
}

/// What gearadmin prints for this answer, or the refusal.
fn shown(answer: &str, form: Form) -> Result<String, String> {
    if let Some(refusal) = answer.strip_prefix("ERR ") {
        return Err(refusal.trim_end().to_owned());
    }
    if form == Form::List {
        return Ok(answer.to_owned());
    }
    match answer.trim_end().strip_prefix("OK ") {
        Some(value) => Ok(format!("{value}\n")),
        None => Ok(answer.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_line_is_no_answer() {
        let (here, mut there) = tokio::io::duplex(64);
        there.write_all(b"\x15\x03\x03\0\x02\x022").await.unwrap();
        drop(there);
        let mut stream = BufReader::new(Box::new(here) as Box<dyn Stream>);
        let error = read(&mut stream, Form::Line).await.unwrap_err();
        assert!(error.to_string().contains("-S"), "{error}");
    }

    #[test]
    fn flags_become_commands() {
        use clap::Parser as _;

        #[derive(Debug, clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Program {
            #[command(flatten)]
            args: Args,
        }

        let line = "x --schedules --drop-schedule f u --max-queue f 7 --max-queue g 0 --limit-rate f 10 --retry-dead f --show-job H:a:1 --drain on";
        let commands: Vec<String> = Program::try_parse_from(line.split(' '))
            .unwrap()
            .args
            .commands()
            .into_iter()
            .map(|(command, _)| command)
            .collect();
        assert_eq!(
            commands,
            [
                "show schedules",
                "show job H:a:1",
                "retry dead f",
                "drain on",
                "maxqueue f 7",
                "maxqueue g 0",
                "limit f rate 10",
                "drop schedule f u",
            ]
        );
    }

    #[test]
    fn answers_look_as_gearadmin_shows_them() {
        assert_eq!(
            shown("a\t0\t0\t1\n.\n", Form::List).unwrap(),
            "a\t0\t0\t1\n.\n"
        );
        assert_eq!(shown("OK 1.1.20\r\n", Form::Line).unwrap(), "1.1.20\n");
        assert_eq!(shown("OK\r\n", Form::Line).unwrap(), "OK\r\n");
        assert_eq!(
            shown("ERR UNKNOWN_COMMAND x\r\n", Form::Line),
            Err("UNKNOWN_COMMAND x".to_owned())
        );
    }
}
