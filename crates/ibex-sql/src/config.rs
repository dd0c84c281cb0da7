//! Where the database is and how to treat it: DSNs, their options, masking.
//!
//! Apart because DSNs come from configuration files and must be checked, and printed with the password masked, before
//! anything is opened. It opens nothing.

use crate::db::Engine;
use crate::error::{Error, ErrorKind};
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Reader threads of a SQLite database: enough that one long listing does not hold up short look-ups.
const READERS: usize = 4;
/// Connections of a MySQL pool, at most. A daemon's share of the server's default limit of 151.
const POOL_MAX: usize = 16;
/// Deadline of one call with its retries.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A TCP connect that takes longer than this goes to the next host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for another process that holds the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction's closure may do nothing while it holds SQLite's only write lock.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// When an acknowledged SQLite write is on disk. MySQL has its own setting, on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `synchronous=FULL`: before the call returns. The default.
    Disk,
    /// `synchronous=NORMAL`: survives the process, not the power cut.
    Os,
}

/// Everything needed to open a database. `Display` and `Debug` mask the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) target: Target,
    pub(crate) timeout: Duration,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Sqlite(SqliteTarget),
    MySql(MySqlTarget),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SqliteTarget {
    /// `None` is a database in memory, gone with its last `Db`.
    pub(crate) path: Option<PathBuf>,
    pub(crate) durability: Durability,
    pub(crate) readers: usize,
    pub(crate) busy_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    /// Whether a missing file is made.
    pub(crate) create: bool,
    pub(crate) read_only: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MySqlTarget {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Tried in this order; several are several ways to one database.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) socket: Option<String>,
    pub(crate) database: String,
    pub(crate) pool_max: usize,
    pub(crate) connect_timeout: Duration,
}

impl Config {
    /// Reads a DSN.
    ///
    /// `sqlite:PATH[?options]` with `synchronous=full|normal`, `readers=N`, `busy_timeout=30s`, `stall=5s`, `mode=rwc|rw|ro`, `timeout=30s`;
    /// `sqlite::memory:`; `mysql://user[:password]@host[:port][,host2[:port]…]/db[?options]` with `pool=N`, `connect_timeout=5s`,
    /// `timeout=30s`, `socket=/path`, `ssl-mode=disabled|preferred`. User, password and database are percent-decoded.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the part that makes no sense; the password is never in the text.
    pub fn new(dsn: &str) -> Result<Self, Error> {
        if let Some(rest) = dsn.strip_prefix("sqlite:") {
            return Self::sqlite(rest);
        }
        for scheme in ["mysql://", "mariadb://"] {
            if let Some(rest) = dsn.strip_prefix(scheme) {
                return Self::mysql(rest);
            }
        }
        let scheme = dsn.split(':').next().unwrap_or_default();
        Err(bad(format!(
            "database URL starts with {scheme:?}; sqlite: or mysql:// is expected"
        )))
    }

    fn sqlite(rest: &str) -> Result<Self, Error> {
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(bad("sqlite: needs a path or :memory:"));
        }
        let mut target = SqliteTarget {
            path: (path != ":memory:").then(|| PathBuf::from(path)),
            durability: Durability::Disk,
            readers: READERS,
            busy_timeout: BUSY_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            create: true,
            read_only: false,
        };
        let mut timeout = TIMEOUT;
        for (key, value) in pairs(options)? {
            match key.as_str() {
                "synchronous" if value == "full" => target.durability = Durability::Disk,
                "synchronous" if value == "normal" => target.durability = Durability::Os,
                "readers" => target.readers = number(&key, &value, 1, 64)?,
                "busy_timeout" => target.busy_timeout = duration(&key, &value)?,
                "stall" => target.stall_timeout = duration(&key, &value)?,
                "timeout" => timeout = duration(&key, &value)?,
                "mode" => match value.as_str() {
                    "rwc" => {}
                    "rw" => target.create = false,
                    "ro" => {
                        target.create = false;
                        target.read_only = true;
                    }
                    _ => return Err(unknown_value(&key)),
                },
                // The job queue's name for the DSN that its Perl peers use; of no meaning here.
                "dbi" => {}
                "synchronous" => return Err(unknown_value(&key)),
                _ => return Err(unknown_option(&key)),
            }
        }
        Ok(Self {
            target: Target::Sqlite(target),
            timeout,
        })
    }

    fn mysql(rest: &str) -> Result<Self, Error> {
        let (main, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = main
            .split_once('/')
            .ok_or_else(|| bad("mysql:// needs /database at its end"))?;
        if database.is_empty() || database.contains('/') {
            return Err(bad("mysql:// needs exactly one database name"));
        }
        let (account, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match account.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (account, None),
        };
        let mut target = MySqlTarget {
            user: (!user.is_empty()).then(|| decoded(user)).transpose()?,
            password,
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            socket: None,
            database: decoded(database)?,
            pool_max: POOL_MAX,
            connect_timeout: CONNECT_TIMEOUT,
        };
        let mut timeout = TIMEOUT;
        for (key, value) in pairs(options)? {
            match key.as_str() {
                "pool" | "pool_max" => target.pool_max = number(&key, &value, 1, 1000)?,
                "connect_timeout" => target.connect_timeout = duration(&key, &value)?,
                "timeout" => timeout = duration(&key, &value)?,
                "socket" => target.socket = Some(value),
                "ssl-mode"
                    if matches!(
                        value.to_ascii_lowercase().as_str(),
                        "disabled" | "preferred"
                    ) => {}
                "ssl-mode" => {
                    return Err(bad(
                        "ssl-mode: this build speaks to MySQL without TLS; use a socket, a tunnel or ssl-mode=disabled",
                    ));
                }
                "dbi" => {}
                _ => return Err(unknown_option(&key)),
            }
        }
        Ok(Self {
            target: Target::MySql(target),
            timeout,
        })
    }

    /// Which engine the DSN names.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.target {
            Target::Sqlite(_) => Engine::Sqlite,
            Target::MySql(_) => Engine::MySql,
        }
    }

    /// The file of a SQLite database; `None` in memory and for MySQL.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.target {
            Target::Sqlite(target) => target.path.as_deref(),
            Target::MySql(_) => None,
        }
    }

    /// Whether a password is known; always so for SQLite, which has none.
    #[must_use]
    pub fn has_password(&self) -> bool {
        match &self.target {
            Target::Sqlite(_) => true,
            Target::MySql(target) => target.password.is_some(),
        }
    }

    /// The account at a MySQL server.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match &self.target {
            Target::Sqlite(_) => None,
            Target::MySql(target) => target.user.as_deref(),
        }
    }

    /// The name of a MySQL database.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        match &self.target {
            Target::Sqlite(_) => None,
            Target::MySql(target) => Some(&target.database),
        }
    }

    /// The first host of a MySQL database and its port.
    #[must_use]
    pub fn host(&self) -> Option<(&str, u16)> {
        match &self.target {
            Target::Sqlite(_) => None,
            Target::MySql(target) => target
                .hosts
                .first()
                .map(|(host, port)| (host.as_str(), *port)),
        }
    }

    /// The local socket of a MySQL database.
    #[must_use]
    pub fn socket(&self) -> Option<&str> {
        match &self.target {
            Target::Sqlite(_) => None,
            Target::MySql(target) => target.socket.as_deref(),
        }
    }

    /// The deadline of each call with its retries.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The password, from a file or a credential store; no effect on SQLite.
    #[must_use]
    pub fn with_password(mut self, secret: impl Into<String>) -> Self {
        if let Target::MySql(target) = &mut self.target {
            target.password = Some(secret.into());
        }
        self
    }

    /// When an acknowledged write is on disk; no effect on MySQL.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        if let Target::Sqlite(target) = &mut self.target {
            target.durability = durability;
        }
        self
    }

    /// Connections of the MySQL pool, or reader threads of SQLite, at most; at least 1.
    #[must_use]
    pub fn with_pool_max(mut self, max: usize) -> Self {
        match &mut self.target {
            Target::Sqlite(target) => target.readers = max.max(1),
            Target::MySql(target) => target.pool_max = max.max(1),
        }
        self
    }

    /// How long a transaction may keep SQLite's write lock while its closure asks for nothing.
    #[must_use]
    pub fn with_stall_timeout(mut self, stall: Duration) -> Self {
        if let Target::Sqlite(target) = &mut self.target {
            target.stall_timeout = stall;
        }
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Sqlite(target) => match &target.path {
                Some(path) => write!(f, "sqlite:{}", path.display()),
                None => f.write_str("sqlite::memory:"),
            },
            Target::MySql(target) => {
                f.write_str("mysql://")?;
                if let Some(user) = &target.user {
                    f.write_str(user)?;
                    if target.password.is_some() {
                        f.write_str(":***")?;
                    }
                    f.write_str("@")?;
                }
                for (index, (host, port)) in target.hosts.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{host}:{port}")?;
                }
                write!(f, "/{}", target.database)
            }
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({self}, timeout {:?})", self.timeout)
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

fn unknown_option(key: &str) -> Error {
    bad(format!("database URL has an unknown option {key:?}"))
}

fn unknown_value(key: &str) -> Error {
    bad(format!(
        "option {key:?} of the database URL has an unknown value"
    ))
}

fn decoded(text: &str) -> Result<String, Error> {
    Ok(percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| bad("database URL holds bytes that are no UTF-8"))?
        .into_owned())
}

fn pairs(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for part in options.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| bad(format!("option {part:?} of the database URL needs a value")))?;
        found.push((key.to_owned(), decoded(value)?));
    }
    Ok(found)
}

fn host(text: &str) -> Result<(String, u16), Error> {
    const PORT: u16 = 3306;
    let (name, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (name, rest) = bracketed
            .split_once(']')
            .ok_or_else(|| bad("database URL has [ without ]"))?;
        (name, rest.strip_prefix(':'))
    } else {
        match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map_or(Ok(PORT), |port| {
        port.parse()
            .map_err(|_| bad("database URL has a port that is no port"))
    })?;
    let name = if name.is_empty() { "localhost" } else { name };
    Ok((name.to_owned(), port))
}

fn number(key: &str, value: &str, low: usize, high: usize) -> Result<usize, Error> {
    match value.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(bad(format!(
            "option {key:?} of the database URL must be a number from {low} to {high}"
        ))),
    }
}

/// `250ms`, `5s`, `2m`; a bare number is seconds.
fn duration(key: &str, value: &str) -> Result<Duration, Error> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: Option<u64> = digits.parse().ok();
    let millis = number.and_then(|number| match &value[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => None,
    });
    match millis {
        Some(millis) if (1..=86_400_000).contains(&millis) => Ok(Duration::from_millis(millis)),
        _ => Err(bad(format!(
            "option {key:?} of the database URL must be a time such as 250ms, 5s or 2m, one day at most"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_a_config_is_printed() {
        let config =
            Config::new("mysql://lj:s%40cret@db1:3307,db2/queue?pool=4&timeout=2s").unwrap();
        assert_eq!(config.to_string(), "mysql://lj:***@db1:3307,db2:3306/queue");
        assert!(!format!("{config:?}").contains("cret"), "{config:?}");
        let Target::MySql(target) = &config.target else {
            panic!("mysql expected")
        };
        assert_eq!(target.password.as_deref(), Some("s@cret"));
        assert_eq!(
            (target.pool_max, config.timeout),
            (4, Duration::from_secs(2))
        );
    }

    #[test]
    fn sqlite_urls() {
        let config =
            Config::new("sqlite:/var/lib/q.db?synchronous=normal&readers=2&busy_timeout=250ms")
                .unwrap();
        let Target::Sqlite(target) = &config.target else {
            panic!("sqlite expected")
        };
        assert_eq!(
            target.path.as_deref(),
            Some(std::path::Path::new("/var/lib/q.db"))
        );
        assert_eq!(
            (target.durability, target.readers, target.busy_timeout),
            (Durability::Os, 2, Duration::from_millis(250))
        );
        assert_eq!(
            Config::new("sqlite::memory:").unwrap().to_string(),
            "sqlite::memory:"
        );
        assert_eq!(
            Config::new("sqlite:///tmp/x.db").unwrap().to_string(),
            "sqlite:/tmp/x.db"
        );
    }

    #[test]
    fn nonsense_is_refused_without_showing_the_password() {
        for dsn in [
            "",
            "postgres://u:hunter2@h/d",
            "sqlite:",
            "mysql://u:hunter2@h",
            "mysql://u:hunter2@h/",
            "mysql://u:hunter2@h:port/d",
            "mysql://u:hunter2@h/d?pool=0",
            "mysql://u:hunter2@h/d?colour=red",
            "sqlite:/x?readers=none",
            "sqlite:/x?synchronous=off",
            "sqlite:/x?timeout=5y",
            "mysql://u:hunter2@[::1/d",
            "mysql://u:hunter2@h/d?ssl-mode=required",
            "sqlite:/x?mode",
        ] {
            let error = Config::new(dsn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{dsn}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn ipv6_hosts() {
        assert_eq!(
            Config::new("mysql://u@[::1]:33/d").unwrap().to_string(),
            "mysql://u@::1:33/d"
        );
    }
}
