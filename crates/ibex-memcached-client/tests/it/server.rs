//! Starts and stops a memcached for one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Memcached {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

fn program() -> Option<PathBuf> {
    match std::env::var_os("IBEX_TEST_MEMCACHED") {
        Some(named) => Some(named.into()),
        None => Path::new("/usr/bin/memcached")
            .exists()
            .then(|| "/usr/bin/memcached".into()),
    }
}

impl Memcached {
    /// Starts one, or says why not.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(-1)
    }

    pub(crate) fn start_on(port: i32) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: no memcached on this machine");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let port_file = dir.path().join("ports");
        // Many at a time must not share ours' admin port; the original has none.
        let is_ours = program
            .file_name()
            .is_some_and(|name| name == "ibex-memcached");
        let admin: &[&str] = if is_ours { &["--admin", "none"] } else { &[] };
        let child = Command::new(program)
            .args(admin)
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "0",
                "-u",
                "root",
            ])
            .env("MEMCACHED_PORT_FILENAME", &port_file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = loop {
            let text = std::fs::read_to_string(&port_file).unwrap_or_default();
            if let Some(port) = text
                .lines()
                .find_map(|line| line.strip_prefix("TCP INET: "))
            {
                break port.trim().parse().unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "memcached did not publish its port"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        Some(Self {
            child,
            port,
            _dir: dir,
        })
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
