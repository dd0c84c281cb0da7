//! Flags, including the original's letters.
//!
//! Owns their mapping to configuration keys. It checks nothing: the configuration does.

use std::path::PathBuf;

use ibex_kit::{CommonArgs, DaemonArgs, Detach};

/// Flags of ibex-perlbal.
#[derive(clap::Parser, Debug)]
#[command(
    name = "ibex-perlbal",
    about = "Reverse proxy, load balancer and web server in the manner of Perlbal"
)]
pub struct Args {
    /// The kit's flags.
    #[command(flatten)]
    pub common: CommonArgs,
    /// File in Perlbal's configuration language; the original's --config.
    #[arg(short = 'c', long = "conf", value_name = "FILE")]
    pub conf: Option<PathBuf>,
    /// Command in Perlbal's language, run after the file; may be repeated.
    #[arg(short = 'e', long = "command", value_name = "COMMAND")]
    pub commands: Vec<String>,
    /// Go into the background.
    #[arg(short = 'd', long = "daemon")]
    pub daemon: bool,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let file = self.conf.iter().map(|path| {
            (
                "perlbal_conf".to_owned(),
                toml::Value::String(path.display().to_string()),
            )
        });
        let commands = (!self.commands.is_empty()).then(|| {
            let list = self
                .commands
                .iter()
                .cloned()
                .map(toml::Value::String)
                .collect();
            ("commands".to_owned(), toml::Value::Array(list))
        });
        file.chain(commands).collect()
    }

    fn listen_key() -> Option<&'static str> {
        None
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            ..Detach::default()
        }
    }
}
