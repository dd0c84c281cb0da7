//! The whole configuration, and what it means to the job server.

use std::collections::BTreeMap;

use crate::doors::Keepalive;
use bytes::Bytes;
use ibex_gearman_core::{RetryPolicy, TimeoutAction, TimeoutUnit, Wakeup};
use ibex_kit::{ByteSize, Duration, ListenAddr, Problem, StoreConfig, Validate};
use ibex_tls::Clients;

ibex_kit::config! {
    /// Whole configuration of ibex-gearmand.
    pub struct Config {
        /// Data ports, binary and text protocol.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: None, port: ibex_gearman_proto::DEFAULT_PORT }],
        /// TLS on all TCP addresses of `listen`. The original's --ssl.
        restart tls: bool = false,
        /// Addresses without TLS although `tls` is on.
        live listen_plain: Vec<ListenAddr>,
        /// TCP addresses of the HTTP front: POST /FUNCTION submits a job, the answer is its result. Empty: none.
        live http_listen: Vec<ListenAddr>,
        /// TLS on all addresses of `http_listen`, with the same certificates.
        restart http_tls: bool = false,
        /// Certificate chain, PEM. This file, the key and the authorities are read again at a reload.
        restart tls_cert: String,
        /// Its private key, PEM.
        restart tls_key: String,
        /// Authorities of client certificates, PEM; empty for none.
        restart tls_ca: String,
        /// Client certificates where `tls_ca` is given: required, optional (a bad one is refused), none (not asked for).
        restart tls_verify: String = "required".to_owned(),
        /// File of rules of who may do what, read again at a reload; empty: everybody may do everything, but our own state-changing commands are for
        /// this machine.
        live acl_file: String,
        /// Connections that may wait in the kernel to be accepted, 1 to 65535; the kernel has a bound of its own.
        restart backlog: u32 = 1024,
        /// Silent peers are probed, so that a dead one's jobs go to others.
        restart keepalive: bool = true,
        /// Silence before the first probe, 1s to 1h.
        restart keepalive_idle: Duration = Duration::from_secs(60),
        /// Between probes, 1s to 1h.
        restart keepalive_interval: Duration = Duration::from_secs(15),
        /// Probes without an answer after which a peer is dead, 1 to 100.
        restart keepalive_count: u32 = 4,
        /// A crash writes a core file of any size.
        restart coredump: bool = false,
        /// Unix socket of operators: everything the text protocol has, and shutdown. "none" or unix:/path.
        restart admin_socket: String = "none".to_owned(),
        /// Where background jobs wait: sqlite (in the state directory, or at store.url), mysql (at store.url), memory. libsqlite3 and builtin are
        /// other names of sqlite and memory.
        restart queue: String = "sqlite".to_owned(),
        /// Database of the background queue; by default jobs.db in the state directory.
        table store: StoreConfig,
        /// Background jobs wait in memory and are written at a clean stop only: faster, and lost with the process. What an earlier life left is kept
        /// until it is done.
        restart store_on_shutdown: bool = false,
        /// Table of the original's persistent queue in the same database, whose jobs are taken over at a start; empty for none.
        restart import_table: String = "gearman_queue".to_owned(),
        /// On MySQL: a server that has written nothing for this long is taken for dead by another one that waits for its queue, 3s to 10m.
        restart queue_lease: Duration = Duration::from_secs(15),
        /// Reactor threads, 0 to 64; 0 is one up to two processors, else half of them, at most four.
        restart threads: u32 = 0,
        /// Prefix of job handles, at most 42 bytes; by default H: and the node's name, cut.
        restart job_handle_prefix: String,
        /// Attempts after which a job whose workers disappear is given up, -1 (never) to 255; 0 means one.
        live job_retries: i64 = -1,
        /// Functions whose background jobs come again when a worker reports failure, each "FUNCTION ATTEMPTS [PAUSE [PAUSE_MAX]]": given up after so many
        /// attempts, with a pause (1s) that doubles up to the longest (10m). Others end with their first failure.
        live retry: Vec<String> = Vec::new(),
        /// Sleeping workers woken for one job: auto, 0 for all, or a number.
        live worker_wakeup: String = "auto".to_owned(),
        /// How long a woken worker may take before others are woken too (auto only), 1ms to 10s.
        live wakeup_delay: Duration = Duration::from_millis(50),
        /// How long a GRAB_JOB that finds nothing may stay unanswered, below 1s, for a worker whose last NO_JOB was followed by a job that soon: the job is
        /// then its answer, which saves four packets. 0s answers at once.
        live grab_hold: Duration = Duration::from_millis(1),
        /// Unit of CAN_DO_TIMEOUT: auto (below 1000 seconds, else milliseconds), s, ms.
        live timeout_unit: String = "auto".to_owned(),
        /// What a timeout does to a foreground job: fail or requeue.
        live timeout_action: String = "fail".to_owned(),
        /// Foreground jobs fail when their worker is lost, as with the Perl server.
        live fail_on_worker_loss: bool = false,
        /// Functions of a worker are served in turn; otherwise the last registered first.
        live round_robin: bool = true,
        /// Every client gets exceptions, as if it had asked.
        live exceptions: bool = false,
        /// Largest payload of one packet, 1K to 4G-1. Beyond: ERROR DATA_TOO_LARGE, then close.
        restart packet_size_max: ByteSize = ByteSize::from_mib(128),
        /// Unsent bytes of one connection, at least 64K. Beyond: it is not read until it drains; after slow_client_timeout, or at twice this, it is closed.
        restart output_max: ByteSize = ByteSize::from_mib(64),
        /// How long a connection may stay beyond output_max, and how long a caller of the HTTP front may pause within a request or while it is answered, 1s
        /// to 1h.
        restart slow_client_timeout: Duration = Duration::from_secs(30),
        /// Connections from one address, for version 6 from one /64; 0 is no bound. Beyond: closed at once, counted. Unix sockets are not counted.
        restart connections_per_address: u32 = 0,
        /// Jobs there may be; 0 is no bound. Beyond: ERROR QUEUE_ERROR.
        live jobs_max: u64 = 0,
        /// Functions there may be, known by a worker, a job or a command; 0 is no bound. Beyond: ERROR QUEUE_ERROR for new names. function_ttl forgets
        /// those out of use.
        live functions_max: u64 = 100_000,
        /// Memory of jobs: workloads, and 160 bytes each; 0 is no bound. Beyond half of it, workloads that wait in a durable queue are in the store only;
        /// beyond all of it: ERROR QUEUE_ERROR.
        live memory_max: ByteSize = ByteSize::from_bytes(0),
        /// Results of background jobs are kept that long for clients with the option `results`, of durable jobs over restarts; 0s not at all; a job's own
        /// header wins.
        live result_ttl: Duration = Duration::from_secs(0),
        /// Memory of kept results, 256 bytes for each counted; those that would be forgotten next go first.
        live results_max: ByteSize = ByteSize::from_mib(64),
        /// A function without workers, jobs, bounds and pause is forgotten after that long; 0s never.
        live function_ttl: Duration = Duration::from_secs(0),
        /// Dead jobs that are kept; the oldest goes first.
        live dead_max: u64 = 10_000,
    }
}

/// Pauses of `retry` where none are given.
const PAUSE_MIN: std::time::Duration = std::time::Duration::from_secs(1);
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// Which queue holds background jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Memory,
    Sqlite,
    MySql,
}

impl Config {
    pub(crate) fn queue_kind(&self) -> Result<Queue, String> {
        match self.queue.as_str() {
            "memory" | "builtin" => Ok(Queue::Memory),
            "sqlite" | "sqlite3" | "libsqlite3" => Ok(Queue::Sqlite),
            "mysql" | "mariadb" => Ok(Queue::MySql),
            "postgres" | "redis" | "hiredis" | "libmemcached" | "tokyocabinet"
            | "libtokyocabinet" | "libdrizzle" => Err(format!(
                "queue {:?} of the original is not supported; sqlite, mysql and memory are",
                self.queue
            )),
            _ => Err(format!("{:?} is none of sqlite, mysql, memory", self.queue)),
        }
    }

    fn wakeup(&self) -> Result<Wakeup, String> {
        match self.worker_wakeup.as_str() {
            "auto" => Ok(Wakeup::Auto),
            "0" => Ok(Wakeup::All),
            number => number
                .parse()
                .map(Wakeup::Count)
                .map_err(|_| format!("{number:?} is neither a number nor auto")),
        }
    }

    fn unit(&self) -> Result<TimeoutUnit, String> {
        match self.timeout_unit.as_str() {
            "auto" => Ok(TimeoutUnit::Auto),
            "s" => Ok(TimeoutUnit::Seconds),
            "ms" => Ok(TimeoutUnit::Milliseconds),
            other => Err(format!("{other:?} is none of auto, s, ms")),
        }
    }

    fn action(&self) -> Result<TimeoutAction, String> {
        match self.timeout_action.as_str() {
            "fail" => Ok(TimeoutAction::Fail),
            "requeue" => Ok(TimeoutAction::Requeue),
            other => Err(format!("{other:?} is neither fail nor requeue")),
        }
    }

    /// The policies for the job server; `node` names it in handles. Values were checked by [`Validate`].
    fn retry_policies(&self) -> Result<BTreeMap<Bytes, RetryPolicy>, String> {
        let mut policies = BTreeMap::new();
        for entry in &self.retry {
            let bad = |what: &str| format!("{entry:?}: {what}");
            let words: Vec<&str> = entry.split(' ').filter(|word| !word.is_empty()).collect();
            let (function, attempts, pauses) = match &words[..] {
                [function, attempts, pauses @ ..] if pauses.len() <= 2 => {
                    (*function, *attempts, pauses)
                }
                _ => return Err(bad("is not FUNCTION ATTEMPTS [PAUSE [PAUSE_MAX]]")),
            };
            let attempts = attempts
                .parse()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| bad("attempts must be from 1 to 1000"))?;
            let pause = |at: usize, default: std::time::Duration| match pauses.get(at) {
                None => Ok(default),
                Some(text) => text
                    .parse::<Duration>()
                    .map(Duration::std)
                    .map_err(|error| bad(&error.to_string())),
            };
            let pause_min = pause(0, PAUSE_MIN)?;
            let pause_max = pause(1, PAUSE_MAX.max(pause_min))?;
            if pause_min < PAUSE_MIN || pause_max < pause_min {
                return Err(bad("pauses must be at least 1s and grow"));
            }
            let policy = RetryPolicy {
                attempts,
                pause_min,
                pause_max,
            };
            policies.insert(Bytes::copy_from_slice(function.as_bytes()), policy);
        }
        Ok(policies)
    }

    pub(crate) fn policies(&self, node: &str) -> ibex_gearman_core::Config {
        let prefix = if self.job_handle_prefix.is_empty() {
            let mut prefix = format!("H:{node}");
            while prefix.len() > PREFIX_BYTES_MAX {
                prefix.pop();
            }
            prefix
        } else {
            self.job_handle_prefix.clone()
        };
        ibex_gearman_core::Config {
            handle_prefix: prefix,
            durable: !matches!(self.queue_kind(), Ok(Queue::Memory)) && !self.store_on_shutdown,
            has_store: !matches!(self.queue_kind(), Ok(Queue::Memory)),
            result_ttl: Some(self.result_ttl.std()).filter(|ttl| !ttl.is_zero()),
            results_bytes_max: self.results_max.as_usize(),
            function_ttl: Some(self.function_ttl.std()).filter(|ttl| !ttl.is_zero()),
            retries_max: u32::try_from(self.job_retries).ok(),
            retry: self.retry_policies().unwrap_or_default(),
            timeout_unit: self.unit().unwrap_or_default(),
            timeout_action: self.action().unwrap_or_default(),
            wakeup: self.wakeup().unwrap_or_default(),
            wakeup_delay: self.wakeup_delay.std(),
            grab_hold: self.grab_hold.std(),
            is_loss_failure: self.fail_on_worker_loss,
            is_round_robin: self.round_robin,
            exceptions_for_all: self.exceptions,
            jobs_max: usize::try_from(self.jobs_max).unwrap_or(usize::MAX),
            functions_max: usize::try_from(self.functions_max).unwrap_or(usize::MAX),
            workload_bytes_max: self.memory_max.bytes(),
            dead_max: usize::try_from(self.dead_max).unwrap_or(usize::MAX),
            ..ibex_gearman_core::Config::default()
        }
    }
}

impl Config {
    pub(crate) fn verify(&self) -> Result<Clients, String> {
        match self.tls_verify.as_str() {
            "required" | "optional" | "none" if self.tls_ca.is_empty() => Ok(Clients::Unasked),
            "required" => Ok(Clients::Required),
            "optional" => Ok(Clients::Checked),
            "none" => Ok(Clients::Unasked),
            other => Err(format!("{other:?} is none of required, optional, none")),
        }
    }

    pub(crate) fn keepalive(&self) -> Option<Keepalive> {
        self.keepalive.then(|| Keepalive {
            idle: self.keepalive_idle.std(),
            interval: self.keepalive_interval.std(),
            count: self.keepalive_count,
        })
    }

    /// Whether anything is encrypted.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls || self.http_tls
    }

    fn check_doors(&self, check: &mut impl FnMut(&str, Result<(), String>)) {
        let needs = |is_there: bool| {
            if is_there || !self.has_tls() {
                Ok(())
            } else {
                Err("is needed with tls and http_tls".to_owned())
            }
        };
        check("tls_cert", needs(!self.tls_cert.is_empty()));
        check("tls_key", needs(!self.tls_key.is_empty()));
        check("tls_verify", self.verify().map(|_| ()));
        if !self.tls && !self.listen_plain.is_empty() {
            check("listen_plain", Err("is for tls, which is off".to_owned()));
        }
        if self
            .http_listen
            .iter()
            .any(|a| matches!(a, ListenAddr::Unix(_)))
        {
            check("http_listen", Err("must be TCP addresses".to_owned()));
        }
        let in_range = |is_inside: bool, range: &str| {
            if is_inside {
                Ok(())
            } else {
                Err(format!("must be from {range}"))
            }
        };
        let is_backlog = (1..=65535).contains(&self.backlog);
        check("backlog", in_range(is_backlog, "1 to 65535"));
        for (key, time) in [
            ("keepalive_idle", self.keepalive_idle),
            ("keepalive_interval", self.keepalive_interval),
        ] {
            let is_time = (1..=3600).contains(&time.std().as_secs());
            check(key, in_range(is_time, "1s to 1h"));
        }
        let is_count = (1..=100).contains(&self.keepalive_count);
        check("keepalive_count", in_range(is_count, "1 to 100"));
    }
}

/// Room for a colon and twenty digits in the 63 bytes of a handle.
const PREFIX_BYTES_MAX: usize = 42;

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut check = |key: &str, outcome: Result<(), String>| {
            if let Err(message) = outcome {
                problems.push(Problem::new(key, message));
            }
        };
        let within = |is_inside: bool, range: &str| {
            if is_inside {
                Ok(())
            } else {
                Err(format!("must be {range}"))
            }
        };
        check("queue", self.queue_kind().map(|_| ()));
        self.check_doors(&mut check);
        check(
            "store_on_shutdown",
            within(
                !self.store_on_shutdown || self.queue_kind() != Ok(Queue::Memory),
                "off with queue memory, which has no store",
            ),
        );
        check("retry", self.retry_policies().map(|_| ()));
        check("worker_wakeup", self.wakeup().map(|_| ()));
        check("timeout_unit", self.unit().map(|_| ()));
        check("timeout_action", self.action().map(|_| ()));
        check("threads", within(self.threads <= 64, "from 0 to 64"));
        check(
            "job_retries",
            within((-1..=255).contains(&self.job_retries), "from -1 to 255"),
        );
        check(
            "job_handle_prefix",
            within(
                self.job_handle_prefix.len() <= PREFIX_BYTES_MAX,
                "at most 42 bytes",
            ),
        );
        let delay = self.wakeup_delay.std();
        check(
            "wakeup_delay",
            within(
                delay.as_millis() >= 1 && delay.as_secs() <= 10,
                "from 1ms to 10s",
            ),
        );
        check(
            "grab_hold",
            within(self.grab_hold.std().as_secs() < 1, "below 1s"),
        );
        check(
            "import_table",
            within(
                self.import_table.is_empty() || crate::store::is_table_name(&self.import_table),
                "letters, digits and _, at most 64, or empty",
            ),
        );
        let lease = self.queue_lease.std().as_secs();
        check(
            "queue_lease",
            within((3..=600).contains(&lease), "from 3s to 10m"),
        );
        let packet = self.packet_size_max.bytes();
        check(
            "packet_size_max",
            within((1 << 10..1 << 32).contains(&packet), "from 1K to 4G-1"),
        );
        check(
            "output_max",
            within(self.output_max.bytes() >= 64 << 10, "at least 64K"),
        );
        let slow = self.slow_client_timeout.std().as_secs();
        check(
            "slow_client_timeout",
            within((1..=3600).contains(&slow), "from 1s to 1h"),
        );
        if self.queue_kind() == Ok(Queue::MySql) && self.store.url.is_empty() {
            check(
                "store.url",
                Err("queue mysql needs store.url = \"mysql://user@host/db\"".into()),
            );
        }
        let socket = &self.admin_socket;
        let is_socket = socket == "none"
            || socket
                .strip_prefix("unix:")
                .is_some_and(|path| !path.is_empty());
        check("admin_socket", within(is_socket, "none or unix:/path"));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}
