//! Flags, with the original's letters. Each becomes a configuration key; nothing is acted on here.

use std::ffi::OsString;
use std::path::PathBuf;

use ibex_kit::{CommonArgs, DaemonArgs, Detach};
use toml::Value;

use crate::{ABOUT, COMPATIBLE_VERSION};

/// Flags of ibex-gearmand.
#[derive(Debug, Clone, clap::Parser)]
#[command(args_override_self = true, disable_version_flag = true, version = ABOUT.version)]
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
    /// Connections that may wait to be accepted.
    #[arg(short = 'b', long, value_name = "N")]
    backlog: Option<u32>,
    /// Silent peers are probed, the default.
    #[arg(long)]
    keepalive: bool,
    /// Silent peers are not probed.
    #[arg(long, conflicts_with = "keepalive")]
    no_keepalive: bool,
    /// Seconds of silence before a peer is probed.
    #[arg(long, value_name = "SECONDS")]
    keepalive_idle: Option<u32>,
    /// Seconds between probes.
    #[arg(long, value_name = "SECONDS")]
    keepalive_interval: Option<u32>,
    /// Probes without an answer after which a peer is dead.
    #[arg(long, value_name = "N")]
    keepalive_count: Option<u32>,
    /// Write waiting background jobs at a clean stop only.
    #[arg(long)]
    store_queue_on_shutdown: bool,
    /// Host of --queue-type mysql.
    #[arg(long, value_name = "HOST")]
    mysql_host: Option<String>,
    /// Port of it.
    #[arg(long, value_name = "PORT")]
    mysql_port: Option<u16>,
    /// User of it.
    #[arg(long, value_name = "NAME")]
    mysql_user: Option<String>,
    /// Password of that user; everybody on this machine can read it, store.password_file is better.
    #[arg(long, value_name = "TEXT")]
    mysql_password: Option<String>,
    /// Database of it.
    #[arg(long, value_name = "NAME")]
    mysql_db: Option<String>,
    /// Table of the original's queue there whose jobs are taken over; default gearman_queue.
    #[arg(long, value_name = "TABLE")]
    mysql_table: Option<String>,
    /// The data ports speak TLS.
    #[arg(long)]
    ssl: bool,
    /// Authorities whose client certificates are required.
    #[arg(long, env = "GEARMAND_CA_CERTIFICATE", value_name = "FILE")]
    ssl_ca_file: Option<PathBuf>,
    /// Certificate chain.
    #[arg(long, env = "GEARMAND_SERVER_PEM", value_name = "FILE")]
    ssl_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "GEARMAND_SERVER_KEY", value_name = "FILE")]
    ssl_key: Option<PathBuf>,
    /// Client certificates with --ssl-ca-file: required, optional, none.
    #[arg(long, value_name = "WHAT")]
    ssl_verify: Option<String>,
    /// Rules of who may do what.
    #[arg(long, value_name = "FILE")]
    acl_file: Option<PathBuf>,
    /// Functions without workers, jobs and limits are forgotten after that many seconds.
    #[arg(long, value_name = "SECONDS")]
    function_ttl: Option<u32>,
    /// A protocol beside the Gearman protocol: http.
    #[arg(short = 'r', long, value_name = "NAME", value_parser = ["http", "HTTP"])]
    protocol: Option<String>,
    /// Port of --protocol http.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// A crash writes a core file of any size.
    #[arg(long)]
    coredump: bool,
    /// Print the version of the original that this server stands for, as the original does, and end.
    #[arg(short = 'V')]
    original_version: bool,
    /// Print the version and end.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Accepted and ignored: the limit is raised by itself.
    #[arg(short = 'f', long, value_name = "N", hide = true)]
    file_descriptors: Option<u32>,
    /// Accepted and ignored: the log goes to stderr.
    #[arg(short = 'l', long, value_name = "FILE", hide = true)]
    log_file: Option<PathBuf>,
    /// Accepted and ignored: tables grow by themselves.
    #[arg(long, value_name = "N", hide = true)]
    hashtable_buckets: Option<u64>,
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
        self.store_settings(&mut set);
        self.tls_settings(&mut set);
        if self.protocol.is_some() {
            set("http_listen", self.addresses_at(self.http_port));
        }
        if let Some(backlog) = self.backlog {
            set("backlog", i64::from(backlog).into());
        }
        if self.no_keepalive {
            set("keepalive", false.into());
        }
        for (key, seconds) in [
            ("keepalive_idle", self.keepalive_idle),
            ("keepalive_interval", self.keepalive_interval),
            ("function_ttl", self.function_ttl),
        ] {
            if let Some(seconds) = seconds {
                set(key, format!("{seconds}s").into());
            }
        }
        if let Some(count) = self.keepalive_count {
            set("keepalive_count", i64::from(count).into());
        }
        if self.coredump {
            set("coredump", true.into());
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
            ("--file-descriptors", self.file_descriptors.is_some()),
            ("--log-file", self.log_file.is_some()),
            ("--hashtable-buckets", self.hashtable_buckets.is_some()),
            ("--syslog", self.syslog),
            (
                "--mysql-… without --queue-type mysql",
                !self.is_mysql() && self.has_mysql(),
            ),
        ];
        given
            .into_iter()
            .filter(|(_, is_given)| *is_given)
            .map(|(flag, _)| flag.to_owned())
            .collect()
    }

    fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, String> {
        crate::conf_file::expand(given)
    }

    fn answer(&self) -> Option<String> {
        // COMPAT(gearmand): an empty line, then the version as the second word; the test suites of client libraries read it there.
        let version = || {
            format!(
                "\ngearmand {COMPATIBLE_VERSION} - {} {}\n",
                ABOUT.name,
                ABOUT.version_line()
            )
        };
        self.original_version.then(version)
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            pid_file: self.pid_file.clone(),
            user: self.user.clone(),
        }
    }
}

/// Bytes of a URL's part that stand for themselves.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A part of a URL.
fn escaped(part: &str) -> String {
    part.bytes()
        .map(|byte| {
            if is_plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

impl Args {
    fn is_mysql(&self) -> bool {
        self.queue_type
            .as_ref()
            .is_some_and(|queue| queue.eq_ignore_ascii_case("mysql"))
    }

    fn has_mysql(&self) -> bool {
        self.mysql_port.is_some()
            || [
                &self.mysql_host,
                &self.mysql_user,
                &self.mysql_password,
                &self.mysql_db,
                &self.mysql_table,
            ]
            .into_iter()
            .any(Option::is_some)
    }

    fn store_settings(&self, set: &mut impl FnMut(&str, Value)) {
        if let Some(queue) = &self.queue_type {
            set("queue", queue.to_ascii_lowercase().into());
        }
        if self.store_queue_on_shutdown {
            set("store_on_shutdown", true.into());
        }
        if let Some(file) = &self.libsqlite3_db {
            set("store.url", format!("sqlite:{}", file.display()).into());
        }
        if let Some(table) = &self.libsqlite3_table {
            set("import_table", table.as_str().into());
        }
        if !self.is_mysql() {
            return;
        }
        if let Some(database) = &self.mysql_db {
            let user = self.mysql_user.as_ref();
            let user = user.map_or_else(String::new, |user| format!("{}@", escaped(user)));
            let host = self.mysql_host.as_deref().unwrap_or("localhost");
            let port = self.mysql_port.unwrap_or(3306);
            let url = format!("mysql://{user}{host}:{port}/{}", escaped(database));
            set("store.url", url.into());
        }
        if let Some(password) = &self.mysql_password {
            set("store.password", password.as_str().into());
        }
        if let Some(table) = &self.mysql_table {
            set("import_table", table.as_str().into());
        }
    }

    fn tls_settings(&self, set: &mut impl FnMut(&str, Value)) {
        if self.ssl {
            set("tls", true.into());
        }
        for (key, file) in [
            ("tls_ca", &self.ssl_ca_file),
            ("tls_cert", &self.ssl_certificate),
            ("tls_key", &self.ssl_key),
            ("acl_file", &self.acl_file),
        ] {
            if let Some(file) = file {
                set(key, file.display().to_string().into());
            }
        }
        if let Some(verify) = &self.ssl_verify {
            set("tls_verify", verify.as_str().into());
        }
    }

    /// `-L` and `-p` of the original as listen addresses.
    fn listen(&self) -> Option<Value> {
        if self.port.is_none() && self.addresses.is_empty() {
            return None;
        }
        let port = self.port.unwrap_or(ibex_gearman_proto::DEFAULT_PORT);
        Some(self.addresses_at(port))
    }

    /// The addresses of `-L` with a port; without any, all of this machine.
    fn addresses_at(&self, port: u16) -> Value {
        let mut listen: Vec<Value> = self
            .addresses
            .iter()
            .map(|host| address(host, port).into())
            .collect();
        if listen.is_empty() {
            listen.push(format!(":{port}").into());
        }
        Value::Array(listen)
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn settings(flags: &[&str]) -> Vec<(String, String)> {
        let args = Args::parse_from([&["ibex-gearmand"], flags].concat());
        args.settings()
            .into_iter()
            .map(|(key, value)| (key, value.to_string()))
            .collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn flags_of_the_mysql_queue_are_a_url() {
        let flags = [
            "-q",
            "MySQL",
            "--mysql-host=db",
            "--mysql-port",
            "3307",
            "--mysql-user=a@b",
            "--mysql-password=p",
            "--mysql-db=jobs",
            "--mysql-table=old",
        ];
        let expected = pairs(&[
            ("queue", "\"mysql\""),
            ("store.url", "\"mysql://a%40b@db:3307/jobs\""),
            ("store.password", "\"p\""),
            ("import_table", "\"old\""),
        ]);
        assert_eq!(settings(&flags), expected);
        let args = Args::parse_from(["ibex-gearmand", "--mysql-db=jobs"]);
        assert!(args.settings().is_empty());
        assert_eq!(args.ignored(), ["--mysql-… without --queue-type mysql"]);
    }

    #[test]
    fn a_later_flag_wins_and_only_http_is_a_protocol() {
        assert_eq!(
            settings(&["-b", "1", "-b", "2", "--no-keepalive", "--keepalive-idle=9"]),
            pairs(&[
                ("backlog", "2"),
                ("keepalive", "false"),
                ("keepalive_idle", "\"9s\"")
            ])
        );
        let flags = ["-r", "http", "--http-port=81", "-L", "127.0.0.1", "-p", "7"];
        let expected = pairs(&[
            ("listen", "[\"127.0.0.1:7\"]"),
            ("http_listen", "[\"127.0.0.1:81\"]"),
        ]);
        assert_eq!(settings(&flags), expected);
        assert!(Args::try_parse_from(["ibex-gearmand", "-r", "gopher"]).is_err());
    }

    #[test]
    fn the_version_is_the_second_word() {
        let args = Args::parse_from(["ibex-gearmand", "-V"]);
        let answer = args.answer().unwrap();
        let mut words = answer.split_whitespace();
        assert_eq!(
            (words.next(), words.next()),
            (Some("gearmand"), Some(COMPATIBLE_VERSION))
        );
        assert!(answer.starts_with("\ngearmand "));
    }
}
