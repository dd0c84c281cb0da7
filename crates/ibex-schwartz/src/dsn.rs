//! From a database URL to the name its Perl peers know it by.
//!
//! Apart because handles depend on it: the hash of `dsn "|" user` must come out the same in both languages. Passwords never
//! enter it. It opens nothing.

use crate::error::Error;
use ibex_sql::{Config, Engine};
use md5::{Digest, Md5};

/// A database's address and its name in handles.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) config: Config,
    pub(crate) hash: String,
}

impl Address {
    /// Reads `sqlite:PATH` or `mysql://…`; `?dbi=` gives the Perl side's spelling when it is another one.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let config = Config::new(url).map_err(|error| Error::Config(error.to_string()))?;
        let user = config.user().unwrap_or_default().to_owned();
        let dsn = match spelled(url) {
            Some(dsn) => dsn,
            None => derive(&config),
        };
        Ok(Self {
            config,
            hash: hash(&dsn, &user),
        })
    }
}

impl Address {
    /// The address of a database that is open already.
    pub(crate) fn of(config: &Config) -> Self {
        let hash = hash(&derive(config), config.user().unwrap_or_default());
        Self {
            config: config.clone(),
            hash,
        }
    }
}

fn derive(config: &Config) -> String {
    match config.engine() {
        Engine::Sqlite => match config.path() {
            Some(path) => format!("dbi:SQLite:dbname={}", path.display()),
            None => "dbi:SQLite:dbname=:memory:".to_owned(),
        },
        Engine::MySql => {
            let database = config.database().unwrap_or_default();
            if let Some(socket) = config.socket() {
                return format!("dbi:mysql:database={database};mysql_socket={socket}");
            }
            let (host, port) = config.host().unwrap_or(("localhost", 3306));
            format!("dbi:mysql:database={database};host={host};port={port}")
        }
    }
}

fn spelled(url: &str) -> Option<String> {
    let (_, options) = url.split_once('?')?;
    let value = options
        .split('&')
        .find_map(|option| option.strip_prefix("dbi="))?;
    Some(
        percent_encoding::percent_decode_str(value)
            .decode_utf8_lossy()
            .into_owned(),
    )
}

fn hash(dsn: &str, user: &str) -> String {
    let digest = Md5::digest(format!("{dsn}|{user}").as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, dsn: &str, user: &str) {
        assert_eq!(Address::parse(url).unwrap().hash, hash(dsn, user), "{url}");
    }

    #[test]
    fn urls_become_the_perl_sides_names() {
        check("sqlite:/tmp/q.db", "dbi:SQLite:dbname=/tmp/q.db", "");
        check(
            "mysql://lj:secret@db1/queue",
            "dbi:mysql:database=queue;host=db1;port=3306",
            "lj",
        );
        check(
            "mysql://lj:other@db1:3306,db2/queue",
            "dbi:mysql:database=queue;host=db1;port=3306",
            "lj",
        );
        check(
            "mysql://lj@h/queue?socket=/run/s",
            "dbi:mysql:database=queue;mysql_socket=/run/s",
            "lj",
        );
        check(
            "mysql://lj@h/q?dbi=dbi%3AMariaDB%3Adatabase%3Dq",
            "dbi:MariaDB:database=q",
            "lj",
        );
        assert_eq!(hash("dbi:SQLite:dbname=/tmp/q.db", "").len(), 32);
    }
}
