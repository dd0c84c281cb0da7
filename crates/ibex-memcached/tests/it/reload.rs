//! Listeners follow a reload: added ones open, removed ones close with their connections alive, the others are left alone, and one that cannot be bound
//! refuses the whole change.

use crate::client::Client;
use ibex_testkit::{Daemon, ports, wait};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

fn configure(path: &Path, listen: &[String], others: &[String]) {
    let text = format!("listen = {listen:?}\nlisten_as = {others:?}\n");
    std::fs::write(path, text).unwrap();
}

fn start(config: &Path) -> Daemon {
    Daemon::builder("ibex-memcached")
        .without_env("IBEX_LISTEN")
        .arg("--config")
        .arg(config.as_os_str())
        .start()
        .unwrap()
}

fn wait_open(address: SocketAddr) {
    wait::until_true("the new address is open", || {
        TcpStream::connect(address).is_ok()
    })
    .unwrap();
}

fn wait_closed(address: SocketAddr) {
    wait::until_true("the old address is closed", || {
        TcpStream::connect(address).is_err()
    })
    .unwrap();
}

#[test]
fn addresses_are_added_and_removed_live() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("memcached.toml");
    let [kept, removed, added, ascii] = [(); 4].map(|()| ports::free());
    let socket = dir.path().join("cache.sock");
    configure(&config, &[kept.to_string(), removed.to_string()], &[]);
    let daemon = start(&config);
    let (mut old, mut leaving) = (Client::to(kept), Client::to(removed));
    assert_eq!(leaving.ask("set k 0 0 1\r\nx\r\n", "\r\n"), "STORED\r\n");
    configure(
        &config,
        &[
            kept.to_string(),
            added.to_string(),
            format!("unix:{}", socket.display()),
        ],
        &[format!("proto[ascii]:{ascii}")],
    );
    daemon.signal(Signal::HUP).unwrap();
    wait_open(added);
    wait_open(ascii);
    wait_closed(removed);
    let hit = "VALUE k 0 1\r\nx\r\nEND\r\n";
    for client in [&mut old, &mut leaving] {
        assert_eq!(
            client.ask("get k\r\n", "END\r\n"),
            hit,
            "its connection lives on"
        );
    }
    for address in [kept, added, ascii] {
        assert_eq!(Client::to(address).ask("get k\r\n", "END\r\n"), hit);
    }
    let conns = old.ask("stats conns\r\n", "END\r\n");
    let listening = |address: &str| conns.contains(&format!(":addr {address}\r\n"));
    assert!(listening(&format!("tcp:{added}")), "{conns}");
    assert!(listening(&format!("unix:{}", socket.display())), "{conns}");
    assert!(!listening(&format!("tcp:{removed}")), "{conns}");
    // All of them can go, and come back.
    configure(&config, &[], &[]);
    daemon.signal(Signal::HUP).unwrap();
    for address in [kept, added, ascii] {
        wait_closed(address);
    }
    assert!(!socket.exists());
    assert_eq!(old.ask("get k\r\n", "END\r\n"), hit);
    configure(&config, &[kept.to_string()], &[]);
    daemon.signal(Signal::HUP).unwrap();
    wait_open(kept);
    assert_eq!(Client::to(kept).ask("get k\r\n", "END\r\n"), hit);
    daemon.stop().unwrap();
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("memcached.toml");
    let (kept, added) = (ports::free(), ports::free());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_by = taken;
    let taken = taken_by.local_addr().unwrap();
    configure(&config, &[kept.to_string()], &[]);
    let mut daemon = start(&config);
    daemon.announce("configuration not reloaded");
    configure(
        &config,
        &[added.to_string()],
        &[format!("proto[binary]:{taken}")],
    );
    daemon.signal(Signal::HUP).unwrap();
    daemon.wait_log("configuration not reloaded").unwrap();
    assert!(TcpStream::connect(added).is_err());
    assert_eq!(Client::to(kept).ask("mn\r\n", "MN\r\n"), "MN\r\n");
    daemon.stop().unwrap();
}
