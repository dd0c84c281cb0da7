//! The list of daemons. A new daemon is judged by the common tests, checked by `cargo xtask tidy` and shipped by `cargo xtask dist` by adding one entry here.

/// What the common tests and tools need to know about one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Package and binary: `ibex-gearmand`.
    pub binary: &'static str,
    /// Name in units, configuration files and metrics: `gearmand`.
    pub short: &'static str,
    /// Folder under `docs/`.
    pub docs: &'static str,
    /// Default port of the admin HTTP.
    pub admin_port: u16,
    /// Name of the first data listener in the port file and in socket units; empty when the daemon has none of its own by default.
    pub listener: &'static str,
    /// Arguments without which it is no daemon: a subcommand.
    pub args: &'static [&'static str],
    /// Whether it keeps data in a SQL store named by `store.url`.
    pub has_store: bool,
}

/// Every daemon, in the order in which they start.
pub const DAEMONS: &[Member] = &[
    Member {
        binary: "ibex-memcached",
        short: "memcached",
        docs: "memcached",
        admin_port: 9811,
        listener: "memcached",
        args: &[],
        has_store: false,
    },
    Member {
        binary: "ibex-gearmand",
        short: "gearmand",
        docs: "gearman",
        admin_port: 9815,
        listener: "gearman",
        args: &[],
        has_store: true,
    },
    Member {
        binary: "ibex-mogstored",
        short: "mogstored",
        docs: "mogilefs",
        admin_port: 9814,
        listener: "http",
        args: &[],
        has_store: false,
    },
    Member {
        binary: "ibex-mogilefsd",
        short: "mogilefsd",
        docs: "mogilefs",
        admin_port: 9813,
        listener: "tracker",
        args: &[],
        has_store: true,
    },
    Member {
        binary: "ibex-schwartzd",
        short: "schwartzd",
        docs: "schwartz",
        admin_port: 9816,
        listener: "schwartz",
        args: &[],
        has_store: true,
    },
    Member {
        binary: "ibex-journal",
        short: "journal",
        docs: "journal",
        admin_port: 9818,
        listener: "journal",
        args: &["serve"],
        has_store: false,
    },
    Member {
        binary: "ibex-perlbal",
        short: "perlbal",
        docs: "perlbal",
        admin_port: 9812,
        listener: "http",
        args: &[],
        has_store: false,
    },
];

/// The daemon whose short name is `short`.
#[must_use]
pub fn member(short: &str) -> Option<&'static Member> {
    DAEMONS.iter().find(|member| member.short == short)
}
