//! A Galera cluster of three nodes on loopback, each with ports of its own for SQL, group, incremental and whole state transfer.
//!
//! Apart because the benchmark starts the same.

use ibex_testkit::{ports, skip};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// Whether everything a cluster needs is there.
pub(crate) fn is_installed() -> bool {
    Path::new(PROVIDER).is_file()
        && ["mariadbd", "mariadb", "mariadb-install-db", "rsync"]
            .iter()
            .all(|name| skip::find_program(name).is_some())
}

/// A running node; ends when dropped.
pub(crate) struct Node {
    pub(crate) sql: SocketAddr,
    child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("a node stays: {error}");
        }
    }
}

/// What the client program prints, or nothing when the node does not answer.
pub(crate) fn ask(sql: SocketAddr, statement: &str) -> Option<String> {
    let output = Command::new(skip::find_program("mariadb")?)
        .args(["--no-defaults", "-uroot", "-N", "-e", statement])
        .args(["-h", &sql.ip().to_string(), "-P", &sql.port().to_string()])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Starts a node; each has its own ports for SQL, group, incremental and whole state transfer.
fn node(dir: &Path, group: &[SocketAddr], index: usize) -> Node {
    let (sql, own) = (ports::free(), group[index]);
    let cluster: Vec<String> = group.iter().map(ToString::to_string).collect();
    let mut command = Command::new(skip::find_program("mariadbd").unwrap());
    command
        .args(["--no-defaults", "--user=mysql", "--skip-log-bin", "--binlog-format=ROW"])
        .args(["--innodb-autoinc-lock-mode=2", "--innodb-flush-log-at-trx-commit=0"])
        .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"])
        .args(["--wsrep-on=ON", "--wsrep-sst-method=rsync", "--bind-address=127.0.0.1"])
        .arg(format!("--wsrep-provider={PROVIDER}"))
        .arg(format!("--datadir={}", dir.join("data").display()))
        .arg(format!("--socket={}", dir.join("socket").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--log-error={}", dir.join("log.err").display()))
        .arg(format!("--port={}", sql.port()))
        .arg(format!("--wsrep-cluster-address=gcomm://{}", cluster.join(",")))
        .arg(format!("--wsrep-node-address={own}"))
        .arg(format!("--wsrep-sst-receive-address={}", ports::free()))
        .arg(format!(
            "--wsrep-provider-options=base_port={};gmcast.listen_addr=tcp://{own};ist.recv_addr={};gcache.size=16M;pc.recovery=false;\
             evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S",
            own.port(),
            ports::free()
        ))
        .env("TMPDIR", dir);
    if index == 0 {
        command.arg("--wsrep-new-cluster");
    }
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Node { sql, child }
}

fn wait_ready(node: &Node) {
    ibex_testkit::wait::until(
        std::time::Duration::from_secs(120),
        "a node to be ready",
        || ask(node.sql, "SHOW STATUS LIKE 'wsrep_ready'").filter(|text| text.contains("ON")),
    )
    .unwrap();
}

/// Three nodes that are ready, with a database `q`.
pub(crate) fn start(dir: &Path) -> Vec<Node> {
    let group = [ports::free(), ports::free(), ports::free()];
    let folders: Vec<_> = (0..3).map(|index| dir.join(format!("{index}"))).collect();
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        let made = Command::new("chown")
            .arg("mysql")
            .args([dir, folder])
            .status()
            .unwrap();
        assert!(made.success());
        let installed = Command::new(skip::find_program("mariadb-install-db").unwrap())
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", "--user=mysql"])
            .arg(format!("--datadir={}", folder.join("data").display()))
            .env("TMPDIR", folder)
            .output()
            .unwrap();
        assert!(installed.status.success(), "{installed:?}");
    }
    let first = node(&folders[0], &group, 0);
    wait_ready(&first);
    let mut nodes = vec![first];
    for (index, folder) in folders.iter().enumerate().skip(1) {
        nodes.push(node(folder, &group, index));
    }
    nodes.iter().for_each(wait_ready);
    ask(nodes[0].sql, "CREATE DATABASE q").unwrap();
    nodes
}
