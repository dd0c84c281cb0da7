//! Flags, with the original's letters. Each becomes a configuration key; nothing is acted on here.

use std::path::PathBuf;

use ibex_kit::{CommonArgs, DaemonArgs, Detach};
use toml::Value;

/// Flags of ibex-gearmand.
#[derive(Debug, Clone, clap::Parser)]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Port to listen on.
    #[arg(short = 'p', long, env = "GEARMAND_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Address to listen on, with --port; may be repeated.
    #[arg(short = 'L', long = "listen-address", value_name = "ADDR")]
    addresses: Vec<String>,
    /// Attempts after which a job whose workers disappear is given up; -1 never.
    #[arg(short = 'j', long, value_name = "N", allow_negative_numbers = true)]
    job_retries: Option<i64>,
    /// Prefix of job handles; default H:HOST.
    #[arg(long, value_name = "TEXT")]
    job_handle_prefix: Option<String>,
    /// Reactor threads; 0 chooses.
    #[arg(short = 't', long, value_name = "N")]
    threads: Option<u32>,
    /// Sleeping workers woken for one job: a number, 0 for all, or auto.
    #[arg(short = 'w', long, value_name = "N")]
    worker_wakeup: Option<String>,
    /// Queue of background jobs: builtin (memory), libsqlite3, sqlite, mysql.
    #[arg(short = 'q', long, value_name = "TYPE")]
    queue_type: Option<String>,
    /// Database file of --queue-type libsqlite3.
    #[arg(long, value_name = "FILE")]
    libsqlite3_db: Option<PathBuf>,
    /// Table of the original's queue whose jobs are taken over; default gearman_queue.
    #[arg(long, value_name = "TABLE")]
    libsqlite3_table: Option<String>,
    /// Every client gets exceptions, as if it had asked.
    #[arg(long)]
    exceptions: bool,
    /// Into the background.
    #[arg(short = 'd', long)]
    daemon: bool,
    /// Write the process id here.
    #[arg(short = 'P', long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Become this user.
    #[arg(short = 'u', long, value_name = "NAME")]
    user: Option<String>,
    /// Log level of the original: FATAL, ALERT, CRITICAL, ERROR, WARNING, NOTICE, INFO, DEBUG.
    #[arg(long, value_name = "LEVEL")]
    verbose: Option<String>,
    /// Functions of a worker are served in turn, the default; accepted for the original's sake.
    #[arg(short = 'R', long)]
    round_robin: bool,
    /// Functions of a worker are served in the order of registration, the last first.
    #[arg(long, conflicts_with = "round_robin")]
    no_round_robin: bool,
    /// Accepted and ignored.
    #[arg(short = 'b', long, value_name = "N", hide = true)]
    backlog: Option<u32>,
    /// Accepted and ignored: the limit is raised by itself.
    #[arg(short = 'f', long, value_name = "N", hide = true)]
    file_descriptors: Option<u32>,
    /// Accepted and ignored: the log goes to stderr.
    #[arg(short = 'l', long, value_name = "FILE", hide = true)]
    log_file: Option<PathBuf>,
    /// Accepted and ignored: tables grow by themselves.
    #[arg(long, value_name = "N", hide = true)]
    hashtable_buckets: Option<u64>,
    /// Accepted and ignored: always on.
    #[arg(long, hide = true)]
    keepalive: bool,
    /// Accepted and ignored: the log goes to stderr.
    #[arg(long, hide = true)]
    syslog: bool,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, Value)> {
        let mut settings = Vec::new();
        let mut set = |key: &str, value: Value| settings.push((key.to_owned(), value));
        if let Some(listen) = self.listen() {
            set("listen", listen);
        }
        if let Some(retries) = self.job_retries {
            set("job_retries", retries.into());
        }
        if let Some(prefix) = &self.job_handle_prefix {
            set("job_handle_prefix", prefix.as_str().into());
        }
        if let Some(threads) = self.threads {
            set("threads", i64::from(threads).into());
        }
        if let Some(wakeup) = &self.worker_wakeup {
            set("worker_wakeup", wakeup.as_str().into());
        }
        if let Some(queue) = &self.queue_type {
            set("queue", queue.as_str().into());
        }
        if let Some(file) = &self.libsqlite3_db {
            set("store.url", format!("sqlite:{}", file.display()).into());
        }
        if let Some(table) = &self.libsqlite3_table {
            set("import_table", table.as_str().into());
        }
        if self.exceptions {
            set("exceptions", true.into());
        }
        if self.no_round_robin {
            set("round_robin", false.into());
        }
        if let Some(level) = &self.verbose {
            set("log.level", level_of(level).into());
        }
        settings
    }

    fn listen_key() -> Option<&'static str> {
        Some("listen")
    }

    fn ignored(&self) -> Vec<String> {
        let given = [
            ("--backlog", self.backlog.is_some()),
            ("--file-descriptors", self.file_descriptors.is_some()),
            ("--log-file", self.log_file.is_some()),
            ("--hashtable-buckets", self.hashtable_buckets.is_some()),
            ("--syslog", self.syslog),
        ];
        given
            .into_iter()
            .filter(|(_, is_given)| *is_given)
            .map(|(flag, _)| flag.to_owned())
            .collect()
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            pid_file: self.pid_file.clone(),
            user: self.user.clone(),
        }
    }
}

impl Args {
    /// `-L` and `-p` of the original as listen addresses.
    fn listen(&self) -> Option<Value> {
        if self.port.is_none() && self.addresses.is_empty() {
            return None;
        }
        let port = self.port.unwrap_or(ibex_gearman_proto::DEFAULT_PORT);
        let mut listen: Vec<Value> = self
            .addresses
            .iter()
            .map(|host| address(host, port).into())
            .collect();
        if listen.is_empty() {
            listen.push(format!(":{port}").into());
        }
        Some(Value::Array(listen))
    }
}

fn address(host: &str, port: u16) -> String {
    if host.starts_with("unix:") {
        host.to_owned()
    } else if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The original's levels as ours; anything else is taken as a filter.
fn level_of(level: &str) -> String {
    match level.to_ascii_uppercase().as_str() {
        "FATAL" | "ALERT" | "CRITICAL" | "ERROR" => "error".into(),
        "WARNING" => "warn".into(),
        "NOTICE" | "INFO" => "info".into(),
        "DEBUG" => "debug".into(),
        _ => level.to_owned(),
    }
}
