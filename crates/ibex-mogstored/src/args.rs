//! Flags, including those of the original. Owns their mapping to configuration keys.

use ibex_kit::{CommonArgs, DaemonArgs, Detach, toml};
use std::path::PathBuf;

/// Command line of ibex-mogstored.
#[derive(Debug, clap::Parser)]
#[command(name = "ibex-mogstored", about = "MogileFS storage node over HTTP")]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Directory that holds the devN directories.
    #[arg(long, value_name = "DIR")]
    docroot: Option<String>,
    /// Data address, as --listen.
    #[arg(long, value_name = "ADDR")]
    httplisten: Option<String>,
    /// Second data address for reads.
    #[arg(long, value_name = "ADDR")]
    httpgetlisten: Option<String>,
    /// Address of the side channel.
    #[arg(long, value_name = "ADDR")]
    mgmtlisten: Option<String>,
    /// Connections at one time.
    #[arg(long, value_name = "N")]
    maxconns: Option<u32>,
    /// Go into the background.
    #[arg(short = 'd', long)]
    daemonize: bool,
    /// Write the process id here.
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Accepted for compatibility.
    #[arg(short = 's', long, hide = true)]
    skipconfig: bool,
    /// Accepted for compatibility: the server is always the built-in one.
    #[arg(long, hide = true)]
    server: Option<String>,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    serverbin: Option<String>,
    /// Accepted for compatibility: disk load comes from the kernel.
    #[arg(long, hide = true)]
    iostat: bool,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let listen: Vec<toml::Value> = [&self.httplisten, &self.httpgetlisten]
            .into_iter()
            .flatten()
            .map(|addr| addr.as_str().into())
            .collect();
        let mut settings = Vec::new();
        if !listen.is_empty() {
            settings.push(("listen".to_owned(), toml::Value::Array(listen)));
        }
        if let Some(addr) = &self.mgmtlisten {
            settings.push((
                "side_listen".to_owned(),
                toml::Value::Array(vec![addr.as_str().into()]),
            ));
        }
        if let Some(docroot) = &self.docroot {
            settings.push(("docroot".to_owned(), docroot.as_str().into()));
        }
        if let Some(connections) = self.maxconns {
            settings.push((
                "limits.connections".to_owned(),
                i64::from(connections).into(),
            ));
        }
        settings
    }

    fn ignored(&self) -> Vec<String> {
        [
            (
                "--server",
                self.server
                    .as_deref()
                    .is_some_and(|server| server != "perlbal"),
            ),
            ("--serverbin", self.serverbin.is_some()),
            ("--iostat", self.iostat),
            ("--skipconfig", self.skipconfig),
        ]
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| flag.to_owned())
        .collect()
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemonize,
            pid_file: self.pidfile.clone(),
            user: None,
        }
    }
}
