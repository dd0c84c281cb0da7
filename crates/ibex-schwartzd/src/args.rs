//! Flags. Owns their mapping to configuration keys.

use ibex_kit::{CommonArgs, DaemonArgs, toml};

/// Command line of ibex-schwartzd.
#[derive(Debug, clap::Parser)]
#[command(
    name = "ibex-schwartzd",
    about = "Reliable job queue over databases, TheSchwartz over HTTP"
)]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Database with the job tables, sqlite:PATH or mysql://user@host/db; may be repeated.
    #[arg(long, value_name = "URL")]
    db: Vec<String>,
    /// What the tables' names start with.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Seconds a database that failed is left alone.
    #[arg(long, value_name = "SECONDS")]
    retry_seconds: Option<u32>,
    /// File with the bearer token that opens every call.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// PEM file of the HTTP interface's certificate: callers must speak TLS.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Gearman job server to wake Perl workers by; may be repeated.
    #[arg(long, value_name = "ADDR")]
    poke_gearman: Vec<String>,
    /// Address for datagrams that say that others inserted.
    #[arg(long, value_name = "ADDR")]
    poke_udp: Vec<String>,
    /// Gearman job server to be a worker of, for insert_job and its like; may be repeated.
    #[arg(long, value_name = "ADDR")]
    gearman_worker: Vec<String>,
    /// Address at which to be a Gearman job server; may be repeated.
    #[arg(long, value_name = "ADDR")]
    gearman_listen: Vec<String>,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let list = |values: &[String]| {
            toml::Value::Array(values.iter().map(|value| value.as_str().into()).collect())
        };
        let mut settings = Vec::new();
        if let Some((first, rest)) = self.db.split_first() {
            settings.push(("store.url".to_owned(), first.as_str().into()));
            settings.push(("databases".to_owned(), list(rest)));
        }
        if let Some(prefix) = &self.prefix {
            settings.push(("prefix".to_owned(), prefix.as_str().into()));
        }
        if let Some(seconds) = self.retry_seconds {
            settings.push(("retry_after".to_owned(), format!("{seconds}s").into()));
        }
        for (key, file) in [
            ("token_file", &self.token_file),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
        ] {
            if let Some(file) = file {
                settings.push((key.to_owned(), file.as_str().into()));
            }
        }
        for (key, values) in [
            ("poke_gearman", &self.poke_gearman),
            ("poke_udp", &self.poke_udp),
            ("gearman_worker", &self.gearman_worker),
            ("gearman_listen", &self.gearman_listen),
        ] {
            if !values.is_empty() {
                settings.push((key.to_owned(), list(values)));
            }
        }
        settings
    }
}
