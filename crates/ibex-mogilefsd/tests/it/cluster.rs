//! One tracker (or two) and a few storage nodes, on addresses of their own: 127.0.0.2, .3, … because a cluster's hosts differ by address.

use ibex_mogilefs_client::admin::{ClassSpec, HostSpec, Layout};
use ibex_mogilefs_client::{Client, Config, DevId};
use ibex_testkit::wait;
use ibex_testkit::{Daemon, ports};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A storage node with one device whose number is the node's.
pub(crate) struct Node {
    pub(crate) daemon: Daemon,
    pub(crate) ip: String,
    pub(crate) port: u16,
    pub(crate) docroot: TempDir,
    pub(crate) device: DevId,
}

impl Node {
    /// Node number `index`, from 1.
    fn start(index: u32) -> Self {
        let docroot = TempDir::with_prefix("mogdata-").unwrap();
        std::fs::create_dir(docroot.path().join(format!("dev{index}"))).unwrap();
        let ip = format!("127.0.0.{}", index + 1);
        // Kept over restarts, so it is chosen here.
        let port = ports::free_on(ip.parse().unwrap()).unwrap().port();
        let daemon = Daemon::builder("ibex-mogstored")
            .arg("--listen")
            .arg(format!("{ip}:{port}"))
            .set("side_listen", &format!("{ip}:0"))
            .set("docroot", docroot.path().to_str().unwrap())
            .start()
            .unwrap();
        Self {
            daemon,
            ip,
            port,
            docroot,
            device: DevId(index),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("node{}", self.device)
    }

    /// Every stored file below the device, except the monitor's test files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(
            &self.docroot.path().join(format!("dev{}", self.device)),
            &mut found,
        );
        found.sort();
        found
    }
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "fid") {
            found.push(path);
        }
    }
}

/// Where the metadata is.
pub(crate) enum Store {
    Sqlite(TempDir),
    Url(String),
}

impl Store {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::with_prefix("mogdb-").unwrap())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(dir) => format!("sqlite:{}", dir.path().join("mogilefs.db").display()),
            Self::Url(url) => url.clone(),
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) tracker: Daemon,
    pub(crate) nodes: Vec<Node>,
    pub(crate) store: Store,
}

/// A tracker with short intervals on a database.
pub(crate) fn tracker(store: &Store) -> ibex_testkit::Builder {
    tracker_that_waits(store, "1s")
}

/// The same with another patience with nodes.
fn tracker_that_waits(store: &Store, node_timeout: &str) -> ibex_testkit::Builder {
    Daemon::builder("ibex-mogilefsd")
        .set("store.url", &store.url())
        .set("monitor_interval", "200ms")
        .set("test_write_interval", "1s")
        .set("reaper_delay", "300ms")
        .set("node_timeout", node_timeout)
        .set("conn_timeout", "1s")
        .set("min_free_space_mb", "1")
}

impl Cluster {
    pub(crate) fn start(node_count: u32) -> Self {
        Self::start_on(node_count, Store::sqlite())
    }

    pub(crate) fn start_on(node_count: u32, store: Store) -> Self {
        let nodes: Vec<Node> = (1..=node_count).map(Node::start).collect();
        let tracker = tracker(&store).start().unwrap();
        Self {
            tracker,
            nodes,
            store,
        }
    }

    /// With a tracker that waits for a node longer than any test waits for the tracker.
    pub(crate) fn start_patient(node_count: u32) -> Self {
        let store = Store::sqlite();
        let tracker = tracker_that_waits(&store, "300s").start().unwrap();
        Self {
            tracker,
            nodes: (1..=node_count).map(Node::start).collect(),
            store,
        }
    }

    pub(crate) fn tracker_addr(&self) -> String {
        self.tracker.addr("tracker").unwrap().to_string()
    }

    /// A client of the domain `t` that does not wait long.
    pub(crate) fn client(&self) -> Client {
        Client::new(
            Config::new([self.tracker_addr()], "t")
                .with_node_timeouts(Duration::from_secs(1), Duration::from_secs(5)),
        )
    }

    /// A client that gives up at once when the tracker is gone.
    pub(crate) fn impatient_client(&self) -> Client {
        let config = Config::new([self.tracker_addr()], "t");
        Client::new(config.with_attempts_max(1).with_store_attempts_max(1))
    }

    /// Nodes and devices registered, classes `one`, `two`, `three`; every device seen writeable.
    pub(crate) async fn populated(self) -> Self {
        let admin = self.client().admin();
        admin.apply(&self.layout()).await.unwrap();
        // Again: nothing left to do.
        assert_eq!(
            admin.apply(&self.layout()).await.unwrap(),
            Vec::<String>::new()
        );
        self.all_writeable().await;
        self
    }

    pub(crate) fn layout(&self) -> Layout {
        let hosts = self.nodes.iter().map(|node| HostSpec {
            name: node.name(),
            ip: node.ip.clone(),
            port: node.port,
            devices: vec![node.device],
        });
        Layout {
            classes: vec![
                ClassSpec::new("one", 1),
                ClassSpec::new("two", 2),
                ClassSpec::new("three", 3),
            ],
            hosts: hosts.collect(),
        }
    }

    pub(crate) async fn all_writeable(&self) {
        let admin = self.client().admin();
        eventually("every device is writeable", async || {
            let devices = admin.devices().await.unwrap();
            devices.len() == self.nodes.len()
                && devices
                    .iter()
                    .all(|device| device.observed_state == "writeable")
        })
        .await;
    }

    /// Waits until `key` has exactly `count` replicas, and returns their devices.
    pub(crate) async fn replicas(&self, key: &str, count: usize) -> Vec<DevId> {
        let client = self.client();
        let mut devices = Vec::new();
        eventually(&format!("{key} has {count} replicas"), async || {
            devices = devices_of(&client, key).await;
            devices.len() == count
        })
        .await;
        devices
    }

    pub(crate) fn node(&self, device: DevId) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.device == device)
            .unwrap()
    }

    pub(crate) fn node_mut(&mut self, device: DevId) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|node| node.device == device)
            .unwrap()
    }

    /// Stops everything and judges the logs.
    pub(crate) fn stop(self) {
        self.tracker.stop().unwrap();
        for node in self.nodes {
            node.daemon.stop().unwrap();
        }
    }

    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(&self.tracker_addr())
    }
}

/// Devices a file is recorded on.
pub(crate) async fn devices_of(client: &Client, key: &str) -> Vec<DevId> {
    let args = ibex_mogilefs_proto::Pairs::new()
        .with("domain", "t")
        .with("key", key)
        .with("devices", "1");
    let reply = client
        .admin()
        .call(ibex_mogilefs_proto::Command::FileInfo, args)
        .await
        .unwrap();
    let list = String::from_utf8_lossy(reply.value("devids").unwrap()).into_owned();
    list.split(',')
        .filter_map(|part| DevId::parse(part.as_bytes()))
        .collect()
}

/// Waits for a condition with a deadline.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As [`eventually`], for conditions that do not wait themselves.
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    wait::until_true(what, condition).unwrap();
}

/// A bare connection to the tracker port.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// One line with its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Sends one line and returns the one reply, without its end.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\r\n").as_bytes());
        let line = self.line();
        assert!(line.ends_with("\r\n"), "{line:?}");
        line.trim_end_matches("\r\n").to_owned()
    }

    /// Sends a console line and returns the lines before the dot.
    pub(crate) fn console(&mut self, request: &str) -> Vec<String> {
        self.send(format!("{request}\r\n").as_bytes());
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(line.ends_with("\r\n"), "{line:?}");
            if line == ".\r\n" {
                return lines;
            }
            lines.push(line.trim_end_matches("\r\n").to_owned());
        }
    }
}
