//! A MariaDB server as an ordinary child: its own data folder, its own free port, no service of the system touched, gone with the value that holds it.
//!
//! Starting one takes about two seconds, so `cargo xtask test` starts one for the whole run and names it in `IBEX_TEST_MARIADB` (`mysql://root@host:port`);
//! without that variable each holder starts its own. Every test takes its own database from it, dropped at the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Result, ports, skip};

/// Names a running server that tests may use instead of starting their own.
pub const SERVER_ENV: &str = "IBEX_TEST_MARIADB";
/// Installing the system tables and starting, on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A server, ours or the one of the whole run.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    client: PathBuf,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    child: Child,
    dir: TempDir,
}

/// One database, dropped with this value.
#[derive(Debug)]
pub struct Database<'a> {
    server: &'a Server,
    name: String,
}

impl Server {
    /// A server for this test, or `None` after one visible line when MariaDB is not installed.
    ///
    /// # Errors
    /// When it is installed and does not start.
    pub fn start() -> Result<Option<Self>> {
        let (Some(install), Some(server), Some(client)) = (
            skip::find_program("mariadb-install-db"),
            skip::find_program("mariadbd"),
            skip::find_program("mariadb"),
        ) else {
            skip::skip("MariaDB is not installed (Debian package mariadb-server)");
            return Ok(None);
        };
        if let Ok(url) = std::env::var(SERVER_ENV) {
            let addr = url
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .trim_end_matches('/');
            let addr = addr
                .parse()
                .with_context(|| format!("{SERVER_ENV}={url}"))?;
            return Ok(Some(Self {
                addr,
                client,
                own: None,
            }));
        }
        Self::launch(&install, &server, client).map(Some)
    }

    /// A server of the test's own even when one serves the whole run: for tests that end it and start it again.
    ///
    /// # Errors
    /// When it is installed and does not start.
    pub fn start_own() -> Result<Option<Self>> {
        let (Some(install), Some(server), Some(client)) = (
            skip::find_program("mariadb-install-db"),
            skip::find_program("mariadbd"),
            skip::find_program("mariadb"),
        ) else {
            skip::skip("MariaDB is not installed (Debian package mariadb-server)");
            return Ok(None);
        };
        Self::launch(&install, &server, client).map(Some)
    }

    /// Starts our own server again after [`Server::kill`], on the same data and the same port.
    ///
    /// # Errors
    /// When it is not ours or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        let addr = self.addr;
        let own = self
            .own
            .as_mut()
            .context("the server of the whole run is not ours to start")?;
        let server = skip::find_program("mariadbd").context("mariadbd is gone")?;
        let is_root = rustix::process::geteuid().is_root();
        own.child = spawn_server(
            &server,
            own.dir.path(),
            &own.dir.path().join("data"),
            addr,
            is_root,
        )?;
        self.wait_up()
    }

    fn launch(install: &Path, server: &Path, client: PathBuf) -> Result<Self> {
        let dir = TempDir::with_prefix("ibex-mariadb-")?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            give_to_mysql(dir.path())?;
            give_to_mysql(&data)?;
        }
        let mut command = Command::new(install);
        command
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--datadir={}", data.display()));
        if is_root {
            command.arg("--user=mysql");
        }
        // A server that starts deletes left-over temporary tables in its folder for them; several must not share one.
        let done = command
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .output()
            .context("run mariadb-install-db")?;
        ensure!(
            done.status.success(),
            "mariadb-install-db: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let addr = ports::free_on(Ipv4Addr::LOCALHOST.into())?;
        let child = spawn_server(server, dir.path(), &data, addr, is_root)?;
        let mut started = Self {
            addr,
            client,
            own: Some(Own { child, dir }),
        };
        started.wait_up()?;
        Ok(started)
    }

    fn wait_up(&mut self) -> Result<()> {
        let deadline = std::time::Instant::now() + START_PATIENCE;
        while let Err(error) = self.sql("SELECT 1") {
            let Some(own) = self.own.as_mut() else {
                return Err(error);
            };
            if let Some(status) = own.child.try_wait()? {
                bail!(
                    "mariadbd ended with {status}: {}",
                    std::fs::read_to_string(own.dir.path().join("log")).unwrap_or_default()
                );
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "mariadbd is not up after {START_PATIENCE:?}: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of the server without a database: `mysql://root@127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mysql://root@{}", self.addr)
    }

    /// Runs statements as root and answers the client's output (tab-separated, no header).
    ///
    /// # Errors
    /// With the server's message.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut command = Command::new(&self.client);
        command.args([
            "--no-defaults",
            "--protocol=tcp",
            "--user=root",
            "--batch",
            "--skip-column-names",
            "--connect-timeout=10",
        ]);
        command
            .arg(format!("--host={}", self.addr.ip()))
            .arg(format!("--port={}", self.addr.port()))
            .arg(format!("--execute={statements}"));
        let done = command
            .stdin(Stdio::null())
            .output()
            .context("run the mariadb client")?;
        ensure!(
            done.status.success(),
            "{statements}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// A fresh database for one test.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn database(&self) -> Result<Database<'_>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ibex_test_{}_{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        self.sql(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"))?;
        Ok(Database { server: self, name })
    }

    /// Ends our own server with SIGKILL, as a power cut would; for tests of daemons whose database goes away.
    ///
    /// # Errors
    /// When the server is the one of the whole run, which no test may end.
    pub fn kill(&mut self) -> Result<()> {
        let own = self
            .own
            .as_mut()
            .context("the server of the whole run is not ours to end")?;
        own.child.kill()?;
        own.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(own) = self.own.as_mut() else { return };
        let pid = i32::try_from(own.child.id()).ok().and_then(Pid::from_raw);
        if matches!(own.child.try_wait(), Ok(None))
            && pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
        {
            drop(own.child.wait());
        }
    }
}

impl Database<'_> {
    /// `mysql://root@127.0.0.1:port/name`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}", self.server.url(), self.name)
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if let Err(error) = self
            .server
            .sql(&format!("DROP DATABASE IF EXISTS {}", self.name))
        {
            eprintln!("database {} stays: {error:#}", self.name);
        }
    }
}

fn spawn_server(
    server: &Path,
    dir: &Path,
    data: &Path,
    addr: SocketAddr,
    is_root: bool,
) -> Result<Child> {
    let log = std::fs::File::create(dir.join("log"))?;
    let mut command = Command::new(server);
    command.args([
        "--no-defaults",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-buffer-pool-size=64M",
        "--skip-log-bin",
    ]);
    command.args([
        "--innodb-flush-log-at-trx-commit=2",
        "--max-connections=500",
    ]);
    command
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}/s.sock", dir.display()));
    command
        .arg(format!("--pid-file={}/pid", dir.display()))
        .arg(format!("--port={}", addr.port()));
    if is_root {
        command.arg("--user=mysql");
    }
    command
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start mariadbd")
}

/// Gives a folder to the user `mysql`, which the server changes to when it is started by root.
fn give_to_mysql(dir: &Path) -> Result<()> {
    let status = Command::new("chown")
        .arg("mysql")
        .arg(dir)
        .status()
        .context("run chown")?;
    ensure!(status.success(), "chown mysql {}: {status}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_has_a_database_of_its_own() {
        let Some(server) = Server::start().unwrap() else {
            return;
        };
        let name = {
            let database = server.database().unwrap();
            server
                .sql(&format!(
                    "CREATE TABLE {}.t (a INT); INSERT INTO {0}.t VALUES (1)",
                    database.name()
                ))
                .unwrap();
            assert_eq!(
                server
                    .sql(&format!("SELECT a FROM {}.t", database.name()))
                    .unwrap()
                    .trim(),
                "1"
            );
            database.name().to_owned()
        };
        assert!(
            !server.sql("SHOW DATABASES").unwrap().contains(&name),
            "dropped with the value"
        );
    }
}
