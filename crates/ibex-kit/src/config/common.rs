//! The tables every daemon has: who it is, admin, log, limits, shutdown, readiness, watchdog, metrics.
//!
//! Owns their keys and defaults (spec/ops.md 2.2). A daemon lists those it wants to read in its own struct; the kit
//! accepts and obeys all of them in any case. Values only; what they do lives with their owners.

use super::types::{AutoOr, ByteSize, Duration, ListenAddr, OptionalAddr, Secret};
use crate::{Problem, Validate};

crate::config! {
    /// What the kit itself obeys, in every daemon.
    pub struct Common {
        /// Name of this instance in logs, metrics and status pages. Default: the host name.
        restart node_name: String,
        /// Directory of persistent state. Default: $STATE_DIRECTORY, else /var/lib/ibex/NAME for root, else $XDG_STATE_HOME/ibex/NAME.
        restart state_dir: String,
        /// Admin HTTP: health, metrics, status page.
        table admin: AdminConfig,
        /// Logging, always to stderr.
        table log: LogConfig,
        /// Limits of the process.
        table limits: LimitsConfig,
        /// How a stop goes.
        table shutdown: ShutdownConfig,
        /// What /readyz means.
        table ready: ReadyConfig,
        /// When a loop counts as stalled.
        table watchdog: WatchdogConfig,
        /// Metrics.
        table metrics: MetricsConfig,
    }
}

crate::config! {
    /// `[admin]`
    pub struct AdminConfig {
        /// Address of the admin HTTP port, or "none". Anything but loopback or a unix socket needs a token.
        restart listen: OptionalAddr = OptionalAddr::Off,
        /// Bearer token for everything but the health paths; give it as token_file, not here. Required when not loopback.
        live token: Secret,
        /// Allow a non-loopback admin port without a token.
        restart insecure: bool = false,
        /// Host names accepted in the Host header beside IP addresses and localhost.
        live hosts: Vec<String>,
        /// Admin connections at one time (1 to 1000); over it they are closed at once.
        restart connections: u32 = ADMIN_CONNECTIONS,
    }
}

/// Admin connections by default: a scraper, a prober, a few people, and slack. Policy: over it, close at once.
const ADMIN_CONNECTIONS: u32 = 64;

impl AdminConfig {
    /// The default of a daemon whose admin port is `port`: loopback, that port.
    #[must_use]
    pub fn for_port(port: u16) -> Self {
        Self {
            listen: OptionalAddr::At(ListenAddr::Tcp {
                host: Some("127.0.0.1".to_owned()),
                port,
            }),
            ..Self::default()
        }
    }
}

crate::config! {
    /// `[log]`
    pub struct LogConfig {
        /// Level filter: error, warn, info, debug, trace, or per target: "info,ibex_gearmand=debug".
        live level: String = "info".to_owned(),
        /// text, json, journald or auto (journald under systemd, else text).
        restart format: LogFormat = LogFormat::Auto,
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Journald when stderr is the journal, else text.
    #[default]
    Auto,
    /// For people; colours on a terminal.
    Text,
    /// One object per line.
    Json,
    /// The journal's own protocol, with fields.
    Journald,
}

crate::config! {
    /// `[limits]`
    pub struct LimitsConfig {
        /// Data connections at one time (1 to 1000000); over it the protocol's "busy" answer, then close, counted.
        live connections: u32 = CONNECTIONS_MAX,
        /// Own limit of memory, 0 = none.
        restart memory: ByteSize = ByteSize::from_bytes(0),
        /// Soft limit of file descriptors: "auto" or a number in quotes.
        restart open_files: AutoOr = AutoOr::Auto,
        /// Threads of the runtime, 0 = one per processor.
        restart threads: u32 = 0,
    }
}

/// Data connections by default: what an ordinary descriptor limit allows after raising. Policy: answer busy and close.
const CONNECTIONS_MAX: u32 = 10_000;

crate::config! {
    /// `[shutdown]`
    pub struct ShutdownConfig {
        /// For this long /readyz says no before the listeners close, so that balancers notice.
        live delay: Duration = Duration::ZERO,
        /// Then work in flight may finish for this long (at most 1h).
        live grace: Duration = Duration::from_secs(25),
    }
}

crate::config! {
    /// `[store]`
    pub struct StoreConfig {
        /// Database: sqlite:PATH, sqlite::memory:, or mysql://user@host:port/db. Empty = the daemon's own default place.
        restart url: String,
        /// Password for the database; give it as password_file, not here.
        restart password: Secret,
        /// Keep trying the database this long at start.
        restart startup_timeout: Duration = Duration::from_secs(60),
    }
}

crate::config! {
    /// `[tls]`
    pub struct TlsConfig {
        /// Certificate chain, PEM. Empty = no TLS.
        live cert: String,
        /// Private key, PEM.
        live key: String,
        /// Clients must show a certificate of this authority, PEM. Empty = no client certificates.
        live client_ca: String,
    }
}

crate::config! {
    /// `[ready]`
    pub struct ReadyConfig {
        /// A required dependency may be away this long before /readyz says no.
        live tolerance: Duration = Duration::from_secs(5),
    }
}

crate::config! {
    /// `[watchdog]`
    pub struct WatchdogConfig {
        /// A loop that has not turned for this long is stalled: /healthz says so and systemd gets no ping.
        live stall: Duration = Duration::from_secs(10),
    }
}

crate::config! {
    /// `[metrics]`
    pub struct MetricsConfig {
        /// Label values that come from users (functions, classes) kept apart, per metric; the rest is summed under "other".
        restart max_names: u32 = 200,
    }
}

impl Validate for Common {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut range = |ok: bool, key: &str, message: &str| {
            if !ok {
                problems.push(Problem::new(key, message));
            }
        };
        range(
            (1..=1000).contains(&self.admin.connections),
            "admin.connections",
            "must be from 1 to 1000",
        );
        range(
            (1..=1_000_000).contains(&self.limits.connections),
            "limits.connections",
            "must be from 1 to 1000000",
        );
        range(
            self.limits.threads <= 1024,
            "limits.threads",
            "must be from 0 to 1024",
        );
        range(
            self.shutdown.grace.std().as_secs() <= 3600,
            "shutdown.grace",
            "must be at most 1h",
        );
        range(
            self.shutdown.delay.std().as_secs() <= 3600,
            "shutdown.delay",
            "must be at most 1h",
        );
        range(
            !self.watchdog.stall.is_zero(),
            "watchdog.stall",
            "must be more than 0",
        );
        range(
            self.metrics.max_names >= 1,
            "metrics.max_names",
            "must be at least 1",
        );
        if let Err(error) = crate::logging::parse_filter(&self.log.level) {
            range(false, "log.level", &error);
        }
        if let OptionalAddr::At(addr) = &self.admin.listen {
            let open = addr.is_local()
                || matches!(addr, ListenAddr::Fd(_))
                || self.admin.insecure
                || !self.admin.token.is_empty();
            range(
                open,
                "admin.listen",
                "is not loopback: set admin.token_file (or admin.insecure = true)",
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}
