//! `ibex gear client|worker|admin`: the habits of the `gearman` and `gearadmin` tools.
//!
//! `-h` is the host here, as in the original tools; help is `--help` or `-H`. Exit codes: 0 done, 1 a job failed or the server refused, 2 the server
//! could not be reached or a deadline passed.

pub mod admin;
pub mod client;
pub mod lists;
pub mod show;
pub mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgAction, Subcommand};
use ibex_gearman_client::{Config, Tls};

/// Port of a job server when none is named (IANA: gearman).
const DEFAULT_PORT: u16 = 4730;

/// The variable with the token that is shown to servers (`token=` in ibex-gearmand's access rules).
const TOKEN: &str = "GEARMAN_TOKEN";

/// Exit code for a server that could not be reached or did not answer in time.
const EXIT_UNREACHABLE: u8 = 2;

/// Arguments of `ibex gear`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Submit jobs and print their results.
    #[command(disable_help_flag = true)]
    Client(client::Args),
    /// Run a command for each job, or print workloads.
    #[command(disable_help_flag = true)]
    Worker(worker::Args),
    /// Ask or steer a job server.
    #[command(disable_help_flag = true)]
    Admin(Box<admin::Args>),
}

/// A file with our process id, there as long as this lives.
#[derive(Debug)]
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(Self(path.map(Path::to_owned)))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Somebody else may have taken it away.
            drop(std::fs::remove_file(path));
        }
    }
}

/// Which job servers to talk to.
#[derive(Debug, clap::Args)]
pub struct Servers {
    /// Job server host, or a list `host[:port],…`; default $GEARMAN_SERVERS, $GEARMAN_SERVER, 127.0.0.1.
    #[arg(short = 'h', long = "host", global = true)]
    host: Option<String>,
    /// Port for hosts named without one.
    #[arg(short = 'p', long, default_value_t = DEFAULT_PORT, global = true)]
    port: u16,
    /// Encrypted connections; files by $GEARMAND_CA_CERTIFICATE, $GEARMAN_CLIENT_PEM, $GEARMAN_CLIENT_KEY.
    #[arg(short = 'S', long = "ssl", global = true)]
    ssl: bool,
    /// Print help.
    #[arg(short = 'H', long = "help", action = ArgAction::Help, global = true)]
    help: Option<bool>,
}

impl Servers {
    /// Settings for the client library.
    ///
    /// # Errors
    /// TLS is wanted and its files are not usable.
    fn config(&self) -> anyhow::Result<Config> {
        let config = Config::new(self.addresses());
        let config = match std::env::var(TOKEN) {
            Ok(token) if !token.is_empty() => config.with_token(token),
            _ => config,
        };
        Ok(match self.tls()? {
            Some(tls) => config.with_tls(tls),
            None => config,
        })
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        Ok(if self.ssl {
            Some(Tls::from_env()?)
        } else {
            None
        })
    }

    /// `host:port` of each server, at least one.
    fn addresses(&self) -> Vec<String> {
        let named = self.host.clone();
        let list = named
            .or_else(|| std::env::var("GEARMAN_SERVERS").ok())
            .or_else(|| std::env::var("GEARMAN_SERVER").ok())
            .filter(|list| !list.trim().is_empty())
            .unwrap_or_else(|| "127.0.0.1".to_owned());
        with_ports(&list, self.port)
    }
}

/// Splits a comma list and gives `port` to each entry that has none. A bracketed IPv6 address may carry a port, a bare one never does.
fn with_ports(list: &str, port: u16) -> Vec<String> {
    let entries = list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries
        .map(|entry| match entry.matches(':').count() {
            0 => format!("{entry}:{port}"),
            1 => entry.to_owned(),
            _ if entry.ends_with(']') => format!("{entry}:{port}"),
            _ if entry.starts_with('[') => entry.to_owned(),
            _ => format!("[{entry}]:{port}"),
        })
        .collect()
}

/// Performs the command.
///
/// # Errors
/// When standard input or output fails; a server's troubles are exit codes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Client(args) => client::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Admin(args) => admin::run(*args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_where_missing() {
        for (list, expected) in [
            ("a", vec!["a:4730"]),
            ("a:1, b", vec!["a:1", "b:4730"]),
            ("::1", vec!["[::1]:4730"]),
            ("[::1],[::1]:7", vec!["[::1]:4730", "[::1]:7"]),
        ] {
            assert_eq!(with_ports(list, 4730), expected, "{list}");
        }
    }
}
