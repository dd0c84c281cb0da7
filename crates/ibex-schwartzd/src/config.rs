//! The whole configuration.

use ibex_kit::{
    AdminConfig, ByteSize, Duration, LimitsConfig, ListenAddr, Problem, Secret, ShutdownConfig,
    StoreConfig, Validate,
};

ibex_kit::config! {
    /// Whole configuration of ibex-schwartzd.
    pub struct Config {
        /// Addresses of the HTTP interface.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: Some("127.0.0.1".to_owned()), port: 7373 }],
        /// Bearer token that opens every call; give it as token_file. With no token at all everybody who reaches the port may call.
        live token: Secret,
        /// Bearer token for producers, who insert jobs and look at one by its handle; give it as token_insert_file.
        live token_insert: Secret,
        /// Bearer token for workers, who fetch and finish jobs; give it as token_work_file.
        live token_work: Secret,
        /// Names of this machine in a request's Host, beside addresses and localhost. Checked while there is no token and insecure is off.
        live hosts: Vec<String>,
        /// Listen beyond this machine without a token.
        restart insecure: bool = false,
        /// Certificate of the HTTP interface and those above it, a PEM file: with it, TCP connections to `listen` are TLS. Read again at a reload.
        restart tls_cert: String,
        /// Its private key, a PEM file.
        restart tls_key: String,
        /// Authorities of callers' certificates, a PEM file: callers must show one. Empty: none is asked for.
        restart tls_ca: String,
        /// Time for a TLS handshake, and for a request's head, to arrive (1s to 10m).
        restart head_timeout: Duration = Duration::from_secs(30),
        /// More databases beside store.url.
        restart databases: Vec<String>,
        /// What the tables' names start with.
        restart prefix: String,
        /// Make missing tables.
        restart auto_init: bool = true,
        /// How long a database that failed is left alone (1s to 1h).
        restart retry_after: Duration = Duration::from_secs(30),
        /// Lease of a fetch that does not say (1s to 1d).
        live grab_for: Duration = Duration::from_secs(60),
        /// Runs of a job whose finish does not say.
        live max_attempts: u32 = 25,
        /// How long exit statuses are kept when the finish does not say; 0s keeps none.
        live keep_exit_status_for: Duration = Duration::from_secs(86_400),
        /// A lease that ran out counts as a failed run.
        live count_lost: bool = true,
        /// Largest argument of a job (1 byte to 16777215 bytes).
        live max_arg_size: ByteSize = ByteSize::from_bytes(8 << 20),
        /// File of keys that arguments are encrypted with in the databases: a line is NAME and 32 bytes in base64, the first line encrypts, all
        /// decrypt. Empty: arguments are as callers send them.
        restart arg_keys_file: String,
        /// How often a database is asked for jobs that others inserted (10ms to 1m); of a SQLite file the kernel tells sooner.
        live poll_interval: Duration = Duration::from_millis(500),
        /// The same for a SQLite file, where the kernel cannot tell of writes to it (5ms to 1m).
        live sqlite_poll_interval: Duration = Duration::from_millis(20),
        /// Let the kernel tell of writes to SQLite files. Off: they are polled for, as on file systems that tell nothing.
        restart watch_files: bool = true,
        /// Gearman job servers that get a background job for each insert, to wake Perl workers.
        restart poke_gearman: Vec<String>,
        /// The function of that job; %f becomes the function's name.
        restart poke_function: String = "ts_poke".to_owned(),
        /// Addresses for datagrams that say that others inserted.
        restart poke_udp: Vec<ListenAddr>,
        /// Gearman job servers at which this daemon is a worker for insert_job, grab_job, mark_completed and their like.
        restart gearman_worker: Vec<String>,
        /// Addresses at which this daemon is a Gearman job server whose background jobs are rows of the tables.
        restart gearman_listen: Vec<ListenAddr>,
        /// Gearman job servers that get the foreground jobs submitted there; without one they are refused.
        restart gearman_forward: Vec<String>,
        /// Admin HTTP.
        table admin: AdminConfig = AdminConfig::for_port(9816),
        /// Limits.
        table limits: LimitsConfig,
        /// Stopping.
        table shutdown: ShutdownConfig,
        /// The first database. Default: schwartz.db in the state directory.
        table store: StoreConfig,
    }
}

impl Config {
    /// Whether callers must show a token.
    pub(crate) fn has_token(&self) -> bool {
        [&self.token, &self.token_insert, &self.token_work]
            .iter()
            .any(|token| !token.is_empty())
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut check = |key: &str, is_right: bool, message: &str| {
            if !is_right {
                problems.push(Problem::new(key, message));
            }
        };
        let within = |value: Duration, low: u128, high: u128| {
            (low..=high).contains(&value.std().as_millis())
        };
        check(
            "retry_after",
            within(self.retry_after, 1000, 3_600_000),
            "must be 1s to 1h",
        );
        check(
            "grab_for",
            within(self.grab_for, 1000, 86_400_000),
            "must be 1s to 1d",
        );
        check(
            "head_timeout",
            within(self.head_timeout, 1000, 600_000),
            "must be 1s to 10m",
        );
        check(
            "poll_interval",
            within(self.poll_interval, 10, 60_000),
            "must be 10ms to 1m",
        );
        check(
            "sqlite_poll_interval",
            within(self.sqlite_poll_interval, 5, 60_000),
            "must be 5ms to 1m",
        );
        check(
            "tls_key",
            self.tls_cert.is_empty() == self.tls_key.is_empty(),
            "tls_cert and tls_key go together",
        );
        check(
            "tls_ca",
            self.tls_ca.is_empty() || !self.tls_cert.is_empty(),
            "is for TLS: give tls_cert and tls_key",
        );
        check("max_attempts", self.max_attempts > 0, "must be 1 or more");
        check(
            "max_arg_size",
            (1..=16_777_215).contains(&self.max_arg_size.as_usize()),
            "must be 1 to 16777215 bytes",
        );
        check(
            "poke_function",
            !self.poke_function.is_empty(),
            "must not be empty",
        );
        let beyond = |addrs: &[ListenAddr]| {
            addrs
                .iter()
                .any(|addr| !addr.is_local() && !matches!(addr, ListenAddr::Fd(_)))
        };
        let is_open = beyond(&self.listen);
        check(
            "gearman_listen",
            self.insecure || !beyond(&self.gearman_listen),
            "listens beyond this machine, and the protocol has no passwords: set insecure = true if the network is yours alone",
        );
        check(
            "listen",
            !is_open || self.insecure || self.has_token(),
            "listens beyond this machine: give token_file, or set insecure = true",
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}
