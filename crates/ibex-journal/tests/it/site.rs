//! A site of two clusters in a folder of its own: web processes, and the commands run against the same databases.

use ibex_testkit::daemon::{Builder, Daemon, binary};
use ibex_testkit::mariadb;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output};
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    extra: String,
}

impl Site {
    pub(crate) fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let dsn = |name: &str| {
            format!(
                "sqlite:{}?synchronous=normal",
                dir.path().join(name).display()
            )
        };
        let (global, one, two) = (dsn("global.db"), dsn("one.db"), dsn("two.db"));
        Self::new(dir, &global, &one, &two)
    }

    pub(crate) fn new(dir: TempDir, global: &str, one: &str, two: &str) -> Self {
        let config = format!(
            "[db.global]\nmaster = \"{global}\"\n[[cluster]]\nid = 1\na = \"{one}\"\n[[cluster]]\nid = 2\na = \"{two}\"\n\
             [files]\ndir = \"{}\"\n[site]\nargon2_kib = 64\n[read]\ngather_deadline = \"10s\"\n[worker]\npoll = \"200ms\"\n",
            dir.path().join("files").display()
        );
        std::fs::write(dir.path().join("journal.toml"), config).unwrap();
        Self {
            dir,
            extra: String::new(),
        }
    }

    /// Adds one key for every process started from now on.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        writeln!(self.extra, "{key}={value}").unwrap();
    }

    fn settings(&self) -> impl Iterator<Item = &str> {
        self.extra.lines()
    }

    pub(crate) fn config(&self) -> String {
        self.dir.path().join("journal.toml").display().to_string()
    }

    /// A daemon of the journal, not started yet.
    pub(crate) fn daemon(&self, role: &str) -> Builder {
        let mut builder = Daemon::builder("ibex-journal")
            .arg(role)
            .arg("--config")
            .arg(self.config());
        for setting in self.settings() {
            builder = builder.arg("--set").arg(setting);
        }
        builder
    }

    pub(crate) fn serve(&self) -> Daemon {
        self.daemon("serve").start().unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("ibex-journal").unwrap());
        command.args(args).arg("--config").arg(self.config());
        for setting in self.settings() {
            command.arg("--set").arg(setting);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(crate) fn addr(daemon: &Daemon) -> SocketAddr {
    daemon.addr("journal").unwrap()
}

/// Runs `body` with a site on SQLite, and with one on MariaDB when there is one.
pub(crate) fn on_both(body: impl Fn(Site)) {
    body(Site::sqlite());
    if let Some(server) = mariadb::Server::start().unwrap() {
        let (global, one, two) = (
            server.database().unwrap(),
            server.database().unwrap(),
            server.database().unwrap(),
        );
        body(Site::new(
            TempDir::new().unwrap(),
            &global.url(),
            &one.url(),
            &two.url(),
        ));
    }
}
