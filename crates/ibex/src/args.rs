//! The command line: global flags and the families of commands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Format;
use crate::{balance, cache, control, gear, mog, schwartz, status};

/// The operator's tool for the ibex daemons.
#[derive(Debug, Parser)]
#[command(name = "ibex", version, about, long_about = LONG_ABOUT)]
pub struct Args {
    /// TOML file that lists the daemons and their admin addresses; without it: $IBEX_FAMILY, /etc/ibex/family.toml, then the default ports on loopback.
    #[arg(long, global = true, value_name = "FILE")]
    pub family: Option<PathBuf>,
    /// How read commands print.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "The operator's tool for the ibex daemons.\n\n\
    `status`, `reload`, `drain`, `workers` and `log-level` talk to the daemons' admin ports; the families talk to the daemons' own protocols.\n\
    Exit codes: 0 done, 1 the answer is no or a daemon is not well, 64 usage, 69 a daemon could not be reached.";

#[derive(Debug, Subcommand)]
enum Command {
    /// One line for each daemon: up, ready, version, uptime.
    Status(status::Args),
    /// Reload a daemon's configuration, as SIGHUP does.
    Reload(control::Target),
    /// Lame duck: the daemon reports not ready and goes on serving.
    Drain(control::Target),
    /// End of the lame duck.
    Undrain(control::Target),
    /// The daemon's background workers; pause or resume one.
    Workers(control::Workers),
    /// Show or change a daemon's log filter.
    LogLevel(control::LogLevel),
    /// Balancer: commands of its management port.
    Balance(balance::Args),
    /// Cache: read, write, statistics, key placement.
    Cache(cache::Args),
    /// Gearman: submit jobs, serve functions, ask a job server.
    Gear(gear::Args),
    /// MogileFS: files in and out, hosts, devices, classes.
    Mog(mog::Args),
    /// TheSchwartz: insert, work, look at jobs.
    Schwartz(schwartz::Args),
}

impl Args {
    /// Performs the command.
    ///
    /// # Errors
    /// When a daemon cannot be reached or refuses.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let format = self.output;
        let family = || crate::family::Family::load(self.family.as_deref());
        match self.command {
            Command::Status(args) => status::run(&args, &family()?, format).await,
            Command::Reload(target) => control::post(&target, &family()?, "/-/reload").await,
            Command::Drain(target) => control::post(&target, &family()?, "/-/drain").await,
            Command::Undrain(target) => control::post(&target, &family()?, "/-/undrain").await,
            Command::Workers(args) => control::workers(&args, &family()?, format).await,
            Command::LogLevel(args) => control::log_level(&args, &family()?).await,
            Command::Balance(args) => balance::run(args).await,
            Command::Cache(args) => cache::run(args, format).await,
            Command::Gear(args) => gear::run(args).await,
            Command::Mog(args) => mog::run(args, format).await,
            Command::Schwartz(args) => schwartz::run(args).await,
        }
    }
}
