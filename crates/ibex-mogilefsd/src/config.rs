//! The whole configuration.

use ibex_kit::{AdminConfig, Duration, LimitsConfig, ListenAddr, Problem, StoreConfig, Validate};

ibex_kit::config! {
    /// Whole configuration of ibex-mogilefsd.
    pub struct Config {
        /// Addresses of the tracker port.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: None, port: 7001 }],
        /// Free space below which a device gets nothing new, MB.
        live min_free_space_mb: u32 = 100,
        /// Replicas of classes that do not say (1 to 255).
        live default_mindevcount: u32 = 2,
        /// How long a storage node may take to answer (100ms to 5m).
        live node_timeout: Duration = Duration::from_secs(2),
        /// How long a storage node may take to accept a connection (100ms to 1m).
        restart conn_timeout: Duration = Duration::from_secs(2),
        /// How long a copy between nodes may make no progress (1s to 1h).
        restart copy_timeout: Duration = Duration::from_secs(30),
        /// Side channel port of all storage nodes.
        restart mogstored_stream_port: u16 = 7501,
        /// Zone of this tracker; empty for none.
        restart local_network: String,
        /// Copies at a time (0 to 500); `!want N replicate` changes it while running.
        restart replicate_jobs: u32 = 8,
        /// Deletions at a time (0 to 500).
        restart delete_jobs: u32 = 4,
        /// Files checked at a time (0 to 500).
        restart fsck_jobs: u32 = 4,
        /// How often the database is read and devices are asked for their usage (100ms to 1m).
        live monitor_interval: Duration = Duration::from_millis(2500),
        /// How often a test file is written to each device (1s to 10m).
        live test_write_interval: Duration = Duration::from_secs(15),
        /// Uploads that were never closed are given up after this time (1m to 30d).
        live tempfile_max_age: Duration = Duration::from_secs(3600),
        /// How long others get to notice that a device is dead before its files are re-replicated.
        live reaper_delay: Duration = Duration::from_secs(16),
        /// How long claimed work of a tracker that was killed stays claimed (10s to 1h). A living tracker renews its claims at half of it,
        /// so long copies are not taken away.
        restart claim_lease: Duration = Duration::from_secs(30),
        /// A client that does not take its reply for this long is dropped (1s to 1h).
        restart write_timeout: Duration = Duration::from_secs(120),
        /// Networks, comma separated, whose clients may use the console (lines starting with !). Empty: everybody, as in the original.
        restart console_from: String,
        /// Admin HTTP.
        table admin: AdminConfig = AdminConfig::for_port(9813),
        /// Limits.
        table limits: LimitsConfig,
        /// The database. Default: mogilefs.db in the state directory.
        table store: StoreConfig,
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let durations = [
            ("node_timeout", self.node_timeout, 100, 300_000),
            ("conn_timeout", self.conn_timeout, 100, 60_000),
            ("copy_timeout", self.copy_timeout, 1000, 3_600_000),
            ("monitor_interval", self.monitor_interval, 100, 60_000),
            (
                "test_write_interval",
                self.test_write_interval,
                1000,
                600_000,
            ),
            (
                "tempfile_max_age",
                self.tempfile_max_age,
                60_000,
                2_592_000_000,
            ),
            ("claim_lease", self.claim_lease, 10_000, 3_600_000),
            ("write_timeout", self.write_timeout, 1000, 3_600_000),
        ];
        for (key, value, min, max) in durations {
            if !(min..=max).contains(&value.std().as_millis()) {
                problems.push(Problem::new(
                    key,
                    format!("must be between {min}ms and {max}ms"),
                ));
            }
        }
        if !(1..=255).contains(&self.default_mindevcount) {
            problems.push(Problem::new(
                "default_mindevcount",
                "must be between 1 and 255",
            ));
        }
        for (key, jobs) in [
            ("replicate_jobs", self.replicate_jobs),
            ("delete_jobs", self.delete_jobs),
            ("fsck_jobs", self.fsck_jobs),
        ] {
            if jobs > 500 {
                problems.push(Problem::new(key, "must be at most 500"));
            }
        }
        if ibex_mogilefs_core::netmask::parse_list(&self.console_from).is_none() {
            problems.push(Problem::new(
                "console_from",
                "must be a list of networks such as 10.0.0.0/8",
            ));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}
