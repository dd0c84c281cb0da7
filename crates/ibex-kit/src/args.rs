//! The flags every daemon has (spec/ops.md 1.1), and what a daemon adds.
//!
//! Owns [`CommonArgs`] and the way flags become configuration keys. It parses nothing itself: clap does; and it acts on
//! nothing: [`crate::main`] does.

use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of every daemon; flatten it into the daemon's own struct.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct CommonArgs {
    /// Configuration file (TOML); fragments in the directory FILE with ending .d are read after it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Load and check the configuration, print "ok", end. Binds no port, opens no store.
    #[arg(long)]
    pub check_config: bool,
    /// With --check-config: also connect to the store and upstreams.
    #[arg(long, requires = "check_config")]
    pub deep: bool,
    /// Print the effective configuration with the origin of each value; "defaults" prints the reference file.
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "effective")]
    pub print_config: Option<PrintConfig>,
    /// Set any configuration key by its path; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Data address: host:port (IPv6 in brackets), :port, unix:/path or fd:NAME; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Address of the admin HTTP port, or "none".
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Log filter, such as info or "info,ibex_gearmand=debug".
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Log format: text, json, journald or auto.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Ask the running daemon of the same configuration whether it is ready; exit 0 or 1.
    #[arg(long)]
    pub healthcheck: bool,
    /// Print the man page (roff) and end.
    #[arg(long, hide = true)]
    pub generate_man: bool,
    /// Print the completions of a shell and end.
    #[arg(long, hide = true, value_name = "SHELL")]
    pub generate_completions: Option<clap_complete::Shell>,
}

/// What `--print-config` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrintConfig {
    /// The configuration as it would be used, each value with its origin.
    Effective,
    /// The reference file: every option, its documentation and default.
    Defaults,
}

/// A daemon's flags.
pub trait DaemonArgs: clap::Parser {
    /// The flags of every daemon.
    fn common(&self) -> &CommonArgs;

    /// What the daemon's own flags set: configuration key path and value.
    fn settings(&self) -> Vec<(String, toml::Value)>;

    /// The key `--listen` sets; `None` if the daemon reads `common().listen` itself in [`Self::settings`].
    fn listen_key() -> Option<&'static str> {
        Some("listen")
    }

    /// Flags given that are accepted for compatibility and do nothing here; each is logged once at WARN.
    fn ignored(&self) -> Vec<String> {
        Vec::new()
    }

    /// The command line as it shall be read: for a daemon whose original has files of flags.
    ///
    /// # Errors
    /// What is wrong with such a file; ends the program as wrong usage.
    fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, String> {
        Ok(given)
    }

    /// A text that is all the flags ask for; it is printed and the program ends.
    fn answer(&self) -> Option<String> {
        None
    }

    /// How to detach, drop privileges and leave a pid file, if the original's flags asked for it.
    fn detach(&self) -> Detach {
        Detach::default()
    }
}

/// The originals' `-d`, `-P` and `-u`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detach {
    /// Go into the background (`-d`).
    pub background: bool,
    /// Write the process id here (`-P`), removed at a clean stop.
    pub pid_file: Option<PathBuf>,
    /// Become this user (`-u`) when started as root.
    pub user: Option<String>,
}
