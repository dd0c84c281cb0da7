//! The whole configuration.

use ibex_kit::{AdminConfig, Duration, LimitsConfig, ListenAddr, Problem, Validate};

/// How hard an upload is pressed onto the disk before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// The file's data and the directory entries: survives a power loss.
    #[default]
    Full,
    /// The file's data only: after a power loss a just stored file may lack its name.
    Data,
    /// Nothing: a power loss may lose the last half minute. Crashes of the daemon lose nothing.
    None,
}

ibex_kit::config! {
    /// Whole configuration of ibex-mogstored.
    pub struct Config {
        /// HTTP addresses.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: None, port: 7500 }],
        /// Addresses of the side channel. Empty: as `listen`, each with the next port (7501), port 0 stays 0.
        live side_listen: Vec<ListenAddr>,
        /// Directory that holds one directory devN per disk.
        restart docroot: String = "/var/mogdata".to_owned(),
        /// Numbers of devices whose directories are made at the start if they are missing: for volumes and trials. Not for disks that are
        /// mounted at devN, whose absence must show; refused with require_mounts.
        restart make_devices: Vec<u32>,
        /// What is synced before an upload is acknowledged: full, data or none.
        live sync: SyncMode = SyncMode::Full,
        /// Refuse uploads to devN directories that are no mount points.
        live require_mounts: bool = false,
        /// How often devN/usage is written (1s to 5m); trackers call a disk stale after about a minute.
        live usage_interval: Duration = Duration::from_secs(10),
        /// A request head must arrive within this time (1s to 10m).
        live header_timeout: Duration = Duration::from_secs(60),
        /// A connection without progress for this long, idle or in a transfer, is closed (1s to 1h).
        live idle_timeout: Duration = Duration::from_secs(120),
        /// Calls to one disk at a time (1 to 512); further ones wait.
        restart disk_threads: u32 = 32,
        /// Admin HTTP.
        table admin: AdminConfig = AdminConfig::for_port(9814),
        /// Limits.
        table limits: LimitsConfig,
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut within = |key: &str, value: std::time::Duration, min: u64, max: u64| {
            if value.as_secs() < min || value.as_secs() > max {
                problems.push(Problem::new(
                    key,
                    format!("must be between {min}s and {max}s"),
                ));
            }
        };
        within("usage_interval", self.usage_interval.std(), 1, 300);
        within("header_timeout", self.header_timeout.std(), 1, 600);
        within("idle_timeout", self.idle_timeout.std(), 1, 3600);
        if !(1..=512).contains(&self.disk_threads) {
            problems.push(Problem::new("disk_threads", "must be between 1 and 512"));
        }
        if self.require_mounts && !self.make_devices.is_empty() {
            problems.push(Problem::new(
                "make_devices",
                "makes directories that are no mount points; require_mounts refuses them",
            ));
        }
        if self.docroot.is_empty() {
            problems.push(Problem::new("docroot", "must name a directory"));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

impl Config {
    /// Where the side channel listens.
    pub(crate) fn side_addresses(&self) -> Vec<ListenAddr> {
        if !self.side_listen.is_empty() {
            return self.side_listen.clone();
        }
        self.listen
            .iter()
            .filter_map(|addr| match addr {
                ListenAddr::Tcp { host, port } => Some(ListenAddr::Tcp {
                    host: host.clone(),
                    port: if *port == 0 { 0 } else { port.checked_add(1)? },
                }),
                ListenAddr::Unix(_) | ListenAddr::Fd(_) => None,
            })
            .collect()
    }
}
