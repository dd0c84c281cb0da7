//! Flags, including those of the original. Owns their mapping to configuration keys and the reading of Perl's database names.

use ibex_kit::{CommonArgs, DaemonArgs, Detach, toml};
use std::path::PathBuf;

/// Command line of ibex-mogilefsd.
#[derive(Debug, clap::Parser)]
#[command(name = "ibex-mogilefsd", about = "MogileFS tracker")]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Database, as DBI:SQLite:FILE, DBI:mysql:DB:host=H, or a URL.
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// User of a MySQL database given as DBI name.
    #[arg(long, value_name = "NAME")]
    dbuser: Option<String>,
    /// Password of a MySQL database given as DBI name.
    #[arg(long, value_name = "PASSWORD", num_args = 0..=1, default_missing_value = "")]
    dbpass: Option<String>,
    /// Free space below which a device gets nothing new, MB.
    #[arg(long = "min_free_space", value_name = "MB")]
    min_free_space: Option<u32>,
    /// Replicas of classes that do not say.
    #[arg(long = "default_mindevcount", value_name = "N")]
    default_mindevcount: Option<u32>,
    /// Seconds a storage node may take to answer.
    #[arg(long = "node_timeout", value_name = "SECONDS")]
    node_timeout: Option<u32>,
    /// Seconds a storage node may take to accept.
    #[arg(long = "conn_timeout", value_name = "SECONDS")]
    conn_timeout: Option<u32>,
    /// Side channel port of all nodes.
    #[arg(long = "mogstored_stream_port", value_name = "PORT")]
    mogstored_stream_port: Option<u16>,
    /// Go into the background.
    #[arg(short = 'D', long)]
    daemonize: bool,
    /// Write the process id here.
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Become this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Accepted for compatibility.
    #[arg(short = 's', long, hide = true)]
    skipconfig: bool,
    /// Accepted for compatibility.
    #[arg(short = 'd', long, hide = true, action = clap::ArgAction::Count)]
    debug: u8,
    /// Accepted for compatibility: requests are not bound to workers.
    #[arg(short = 'w', long, hide = true)]
    workers: Option<u32>,
    /// Accepted for compatibility.
    #[arg(long = "no_http", hide = true)]
    no_http: bool,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    workerport: Option<u32>,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    plugins: Option<String>,
    /// Accepted for compatibility.
    #[arg(long = "max_handles", hide = true)]
    max_handles: Option<u32>,
    /// Accepted for compatibility.
    #[arg(long = "no_schema_check", hide = true)]
    no_schema_check: bool,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let mut settings = Vec::new();
        if let Some(dsn) = &self.dsn {
            let url = url_of(dsn, self.dbuser.as_deref(), self.dbpass.as_deref());
            settings.push(("store.url".to_owned(), url.into()));
        }
        let numbers = [
            ("min_free_space_mb", self.min_free_space.map(i64::from)),
            (
                "default_mindevcount",
                self.default_mindevcount.map(i64::from),
            ),
            (
                "mogstored_stream_port",
                self.mogstored_stream_port.map(i64::from),
            ),
        ];
        settings.extend(
            numbers
                .into_iter()
                .filter_map(|(key, number)| Some((key.to_owned(), number?.into()))),
        );
        let seconds = [
            ("node_timeout", self.node_timeout),
            ("conn_timeout", self.conn_timeout),
        ];
        settings.extend(
            seconds.into_iter().filter_map(|(key, seconds)| {
                Some((key.to_owned(), format!("{}s", seconds?).into()))
            }),
        );
        settings
    }

    fn ignored(&self) -> Vec<String> {
        [
            ("--skipconfig", self.skipconfig),
            ("--debug", self.debug > 0),
            ("--workers", self.workers.is_some()),
            ("--no_http", self.no_http),
            ("--workerport", self.workerport.is_some()),
            ("--plugins", self.plugins.is_some()),
            ("--max_handles", self.max_handles.is_some()),
            ("--no_schema_check", self.no_schema_check),
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
            user: self.user.clone(),
        }
    }
}

/// The URL of a database named as Perl's DBI does: `DBI:SQLite:[dbname=]FILE`, `DBI:mysql:DB[:;]host=H;port=P`. Anything else is passed on, to be
/// refused with a reason where it
/// is opened.
fn url_of(dsn: &str, user: Option<&str>, password: Option<&str>) -> String {
    let Some((driver, rest)) = dsn
        .strip_prefix("DBI:")
        .or_else(|| dsn.strip_prefix("dbi:"))
        .and_then(|rest| rest.split_once(':'))
    else {
        return dsn.to_owned();
    };
    match driver.to_ascii_lowercase().as_str() {
        "sqlite" => format!("sqlite:{}", rest.strip_prefix("dbname=").unwrap_or(rest)),
        "mysql" | "mariadb" => {
            let (mut database, mut host, mut port, mut socket) = ("", "127.0.0.1", "3306", None);
            for part in rest.split([':', ';']).filter(|part| !part.is_empty()) {
                match part.split_once('=') {
                    None => database = part,
                    Some(("database" | "dbname", value)) => database = value,
                    Some(("host", value)) => host = value,
                    Some(("port", value)) => port = value,
                    Some(("mysql_socket", value)) => socket = Some(value),
                    Some(_) => {}
                }
            }
            let socket = socket
                .map(|path| format!("?socket={path}"))
                .unwrap_or_default();
            let password = password
                .filter(|password| !password.is_empty())
                .map(|password| format!(":{}", percent(password)))
                .unwrap_or_default();
            format!(
                "mysql://{}{password}@{host}:{port}/{database}{socket}",
                percent(user.unwrap_or("mogile"))
            )
        }
        _ => dsn.to_owned(),
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_names_of_the_original() {
        assert_eq!(url_of("DBI:SQLite:/x/y.db", None, None), "sqlite:/x/y.db");
        assert_eq!(
            url_of("DBI:SQLite:dbname=/x/y.db", None, None),
            "sqlite:/x/y.db"
        );
        assert_eq!(
            url_of(
                "DBI:mysql:mogilefs:host=db1;port=3307",
                Some("m"),
                Some("p@w")
            ),
            "mysql://m:p%40w@db1:3307/mogilefs"
        );
        assert_eq!(
            url_of("DBI:mysql:database=mogilefs;host=db1", None, Some("")),
            "mysql://mogile@db1:3306/mogilefs"
        );
        assert_eq!(url_of("sqlite:/x", None, None), "sqlite:/x");
    }
}
