//! Listeners follow a reload: added ones open, removed ones close with their connections alive, the others are left alone, and one that cannot be bound
//! refuses the whole change.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use ibex_testkit::{Daemon, ports, wait};
use rustix::process::Signal;

use crate::packets::Wire;

fn configure(path: &Path, listen: &[String]) {
    std::fs::write(path, format!("listen = {listen:?}\n")).unwrap();
}

fn start(config: &Path) -> Daemon {
    Daemon::builder("ibex-gearmand")
        .without_env("IBEX_LISTEN")
        .arg("--config")
        .arg(config.as_os_str())
        .start()
        .unwrap()
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test]
fn addresses_are_added_and_removed_live() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gearmand.toml");
    let [kept, removed, added] = [(); 3].map(|()| ports::free());
    configure(&config, &[kept.to_string(), removed.to_string()]);
    let daemon = start(&config);
    let (mut old, mut leaving) = (Wire::connect(kept), Wire::connect(removed));
    leaving.line("create function f");
    configure(&config, &[kept.to_string(), added.to_string()]);
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the new address to open", || is_open(added)).unwrap();
    wait::until_true("the old address to close", || !is_open(removed)).unwrap();
    let mut new = Wire::connect(added);
    for wire in [&mut old, &mut leaving, &mut new] {
        assert_eq!(wire.list("status"), ["f\\t0\\t0\\t0"]);
    }
    // All of them can go, and come back.
    configure(&config, &[]);
    daemon.signal(Signal::HUP).unwrap();
    for address in [kept, added] {
        wait::until_true("the address to close", || !is_open(address)).unwrap();
    }
    assert!(old.line("version").starts_with("text OK "));
    configure(&config, &[kept.to_string()]);
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the address to open again", || is_open(kept)).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gearmand.toml");
    let (kept, added) = (ports::free(), ports::free());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap();
    configure(&config, &[kept.to_string()]);
    let mut daemon = start(&config);
    daemon.announce("configuration not reloaded");
    configure(&config, &[added.to_string(), taken_at.to_string()]);
    daemon.signal(Signal::HUP).unwrap();
    daemon.wait_log("configuration not reloaded").unwrap();
    assert!(!is_open(added));
    assert!(is_open(kept));
    daemon.stop().unwrap();
}
