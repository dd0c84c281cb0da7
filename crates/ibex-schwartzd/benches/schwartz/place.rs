//! Where the tables lie: a SQLite file or a MariaDB database, each fresh for one measurement, made by our schema.

use std::process::Command;

use ibex_schwartz::schema::{self, Dialect, Style};
use ibex_testkit::mariadb::{Database, Server};

use crate::http::folder;

/// A fresh place for tables.
pub(crate) enum Place<'s> {
    File(tempfile::TempDir),
    Server(Database<'s>, &'s Server),
}

/// Which kind of place.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'s> {
    Sqlite,
    Maria(Option<&'s Server>),
}

impl<'s> Place<'s> {
    /// `None` where MariaDB is not installed.
    pub(crate) fn new(kind: Kind<'s>) -> Option<Self> {
        match kind {
            Kind::Sqlite => Some(Self::File(folder())),
            Kind::Maria(server) => {
                let server = server?;
                Some(Self::Server(server.database().unwrap(), server))
            }
        }
    }

    /// The URL for ours; as many connections to a server as there are producers.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::File(dir) => format!("sqlite:{}", dir.path().join("jobs.db").display()),
            Self::Server(database, _) => format!("{}?pool=32", database.url()),
        }
    }

    /// The DBI string and the user for Perl.
    pub(crate) fn dbi(&self) -> (String, &'static str) {
        match self {
            Self::File(dir) => {
                let file = dir.path().join("jobs.db");
                (format!("dbi:SQLite:dbname={}", file.display()), "")
            }
            Self::Server(database, server) => {
                let (addr, name) = (server.addr(), database.name());
                let dsn = format!(
                    "dbi:MariaDB:database={name};host={};port={}",
                    addr.ip(),
                    addr.port()
                );
                (dsn, "root")
            }
        }
    }

    /// The classic tables alone, in the journal mode that Perl's users have.
    pub(crate) fn make_classic(&self) {
        match self {
            Self::File(dir) => {
                let statements = schema::statements(Dialect::Sqlite, Style::Bare, "");
                let make = "use DBI; my $d = DBI->connect('dbi:SQLite:dbname='.shift,'','',{RaiseError=>1}); $d->do($_) for @ARGV";
                let made = Command::new("perl")
                    .args(["-e", make])
                    .arg(dir.path().join("jobs.db"))
                    .args(statements)
                    .status();
                assert!(made.unwrap().success());
            }
            Self::Server(database, server) => {
                let statements = schema::statements(Dialect::MySql, Style::Bare, "");
                let all = statements.join("; ");
                server
                    .sql(&format!("USE {}; {all}", database.name()))
                    .unwrap();
            }
        }
    }
}
