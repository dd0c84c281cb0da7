//! The cache as its widespread clients see it: pymemcache, libmemcached's tools, php-memcached.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::process::Command;

use ibex_testkit::{Daemon, skip};
use integration_tests::peers;
use tempfile::TempDir;

fn start() -> Daemon {
    Daemon::builder("ibex-memcached").start().unwrap()
}

fn script(name: &str) -> String {
    format!("{}/tests/it/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn pymemcache_walks_its_whole_surface() {
    let python = peers::python();
    if !peers::can_run(&python, &["-c", "import pymemcache"], "python3-pymemcache") {
        return;
    }
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    let mut command = Command::new(python);
    command
        .arg(script("pymemcache_tour.py"))
        .arg(addr.ip().to_string())
        .arg(addr.port().to_string());
    let out = peers::ok(&mut command, b"").unwrap();
    assert_eq!(out.lines().last(), Some("ok"));
    cache.stop().unwrap();
}

#[test]
fn php_memcached_walks_its_whole_surface() {
    let Some(php) = skip::program("php") else {
        return;
    };
    if !peers::can_run(
        &php,
        &["-r", "exit(class_exists('Memcached') ? 0 : 1);"],
        "php-memcached",
    ) {
        return;
    }
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    let mut command = Command::new(php);
    command
        .arg(script("memcached_tour.php"))
        .arg(addr.ip().to_string())
        .arg(addr.port().to_string());
    let out = peers::ok(&mut command, b"").unwrap();
    assert_eq!(out.lines().last(), Some("ok"));
    cache.stop().unwrap();
}

#[test]
fn libmemcached_tools_copy_show_and_remove() {
    let (Some(memccp), Some(memccat), Some(memcrm)) = (
        skip::program("memccp"),
        skip::program("memccat"),
        skip::program("memcrm"),
    ) else {
        return;
    };
    let cache = start();
    let servers = format!("--servers={}", cache.addr("memcached").unwrap());
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("note.txt");
    std::fs::write(&file, "kept in the cache").unwrap();
    peers::ok(Command::new(memccp).arg(&servers).arg(&file), b"").unwrap();
    let shown = peers::ok(Command::new(&memccat).arg(&servers).arg("note.txt"), b"").unwrap();
    assert_eq!(shown.trim_end(), "kept in the cache");
    for tool in ["memcexist", "memctouch"] {
        if let Some(tool) = skip::program(tool) {
            peers::ok(Command::new(tool).arg(&servers).arg("note.txt"), b"").unwrap();
        }
    }
    if let Some(memcstat) = skip::program("memcstat") {
        let stats = peers::ok(Command::new(memcstat).arg(&servers), b"").unwrap();
        assert!(stats.contains("curr_items: 1"), "{stats}");
    }
    peers::ok(Command::new(memcrm).arg(&servers).arg("note.txt"), b"").unwrap();
    let gone = peers::run(Command::new(&memccat).arg(&servers).arg("note.txt"), b"").unwrap();
    assert!(!String::from_utf8_lossy(&gone.stdout).contains("kept"));
    cache.stop().unwrap();
}

#[test]
fn memccapable_finds_the_text_protocol_whole() {
    let Some(memccapable) = skip::program("memccapable") else {
        return;
    };
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    let mut command = Command::new(memccapable);
    command
        .args(["-a", "-h"])
        .arg(addr.ip().to_string())
        .arg("-p")
        .arg(addr.port().to_string());
    let output = peers::run(&mut command, b"").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("All tests passed") && !text.contains("[FAIL]"),
        "{text}"
    );
    drop(cache);
}
