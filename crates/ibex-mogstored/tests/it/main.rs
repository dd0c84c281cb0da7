//! Tests of the storage node as a real process: HTTP, the side channel, and disks that misbehave.
#![allow(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions fail the test they serve"
)]

mod http;
mod side;

use ibex_testkit::Daemon;
use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;

/// A node with the devices 1 and 2.
pub(crate) struct Node {
    daemon: Daemon,
    docroot: TempDir,
}

impl Node {
    pub(crate) fn start() -> Self {
        let docroot = TempDir::with_prefix("mogdata-").unwrap();
        for device in ["dev1", "dev2"] {
            std::fs::create_dir(docroot.path().join(device)).unwrap();
        }
        Self::start_in(docroot)
    }

    pub(crate) fn start_in(docroot: TempDir) -> Self {
        let daemon = Daemon::builder("ibex-mogstored")
            .set("docroot", docroot.path().to_str().unwrap())
            .start()
            .unwrap();
        Self { daemon, docroot }
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.daemon.addr("http").unwrap()
    }

    pub(crate) fn side(&self) -> SocketAddr {
        self.daemon.addr("side").unwrap()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.docroot.path().join(below)
    }

    pub(crate) fn stop(self) {
        self.daemon.stop().unwrap();
    }
}
