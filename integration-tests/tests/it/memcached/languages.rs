//! Third-party clients in Python, Perl and PHP: each walks its surface in a script of `scripts/` that compares every answer and ends with the line `ok`.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use ibex_testkit::{Daemon, skip};
use integration_tests::peers;
use tempfile::TempDir;

use super::{script, start};

const USER: &str = "frank";
const PASSWORD: &str = "the goat";

/// Runs a script with the server's host and port and then `more`; its last line must be `ok`.
fn tour(mut command: Command, name: &str, addr: SocketAddr, more: &[&str]) {
    command
        .arg(script(name))
        .arg(addr.ip().to_string())
        .arg(addr.port().to_string())
        .args(more);
    let out = peers::ok(&mut command, b"").unwrap();
    assert_eq!(out.lines().last(), Some("ok"), "{name} {more:?}");
}

/// The tour of a Python client, unless no Python here has `module`.
fn python(module: &str, name: &str) {
    let Some(python) = peers::python_with(module) else {
        return;
    };
    let cache = start();
    tour(
        Command::new(python),
        name,
        cache.addr("memcached").unwrap(),
        &[],
    );
    cache.stop().unwrap();
}

/// A server that asks for a SASL login, with its file of users.
fn start_with_login() -> (TempDir, Daemon) {
    let dir = TempDir::new().unwrap();
    let users = dir.path().join("users");
    fs::write(&users, format!("{USER}:{PASSWORD}\n")).unwrap();
    let cache = Daemon::builder("ibex-memcached")
        .arg("-S")
        .env("MEMCACHED_SASL_PWDB", &users)
        .start()
        .unwrap();
    (dir, cache)
}

#[test]
fn pymemcache_walks_its_whole_surface() {
    python("pymemcache", "pymemcache_tour.py");
}

#[test]
fn aiomcache_walks_its_whole_surface() {
    python("aiomcache", "cache/aiomcache_tour.py");
}

#[test]
fn emcache_walks_its_whole_surface() {
    python("emcache", "cache/emcache_tour.py");
}

#[test]
fn memcachio_walks_its_whole_surface() {
    python("memcachio", "cache/memcachio_tour.py");
}

#[test]
fn meta_memcache_walks_its_whole_surface_with_leases() {
    python("meta_memcache", "cache/meta_memcache_tour.py");
}

#[test]
fn libmc_walks_its_whole_surface() {
    python("libmc", "cache/libmc_tour.py");
}

#[test]
fn pylibmc_walks_its_whole_surface_in_text_and_binary() {
    let Some(python) = peers::python_with("pylibmc") else {
        return;
    };
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    for mode in ["text", "binary"] {
        tour(
            Command::new(&python),
            "cache/pylibmc_tour.py",
            addr,
            &[mode],
        );
    }
    cache.stop().unwrap();
}

#[test]
fn bmemcached_walks_its_whole_surface() {
    python("bmemcached", "cache/bmemcached_tour.py");
}

#[test]
fn bmemcached_and_pylibmc_log_in_with_sasl() {
    let clients = [
        ("bmemcached", "cache/bmemcached_tour.py", &[][..]),
        ("pylibmc", "cache/pylibmc_tour.py", &["sasl"]),
    ];
    for (module, name, mode) in clients {
        let Some(python) = peers::python_with(module) else {
            continue;
        };
        let (_dir, cache) = start_with_login();
        let addr = cache.addr("memcached").unwrap();
        tour(
            Command::new(&python),
            name,
            addr,
            &[mode, &[USER, PASSWORD]].concat(),
        );
        let mut wrong = Command::new(&python);
        wrong
            .arg(script(name))
            .args([addr.ip().to_string(), addr.port().to_string()])
            .args(mode)
            .args([USER, "not the goat"]);
        let output = peers::run(&mut wrong, b"").unwrap();
        assert!(
            !output.status.success(),
            "{module} got in with a wrong password"
        );
        cache.stop().unwrap();
    }
}

#[test]
fn php_memcached_walks_its_whole_surface_in_text_and_binary() {
    let Some(php) = skip::program("php") else {
        return;
    };
    let probe = "exit(class_exists('Memcached') ? 0 : 1);";
    if !peers::can_run(&php, &["-r", probe], "php-memcached") {
        return;
    }
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    for mode in ["text", "binary"] {
        tour(Command::new(&php), "memcached_tour.php", addr, &[mode]);
    }
    cache.stop().unwrap();
}

/// The tour of a Perl client, unless its module is missing.
fn perl(class: &str, package: &str) {
    let Some(perl) = skip::program("perl") else {
        return;
    };
    if !peers::can_run(&perl, &[&format!("-M{class}"), "-e1"], package) {
        return;
    }
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    tour(Command::new(perl), "cache/tour.pl", addr, &[class]);
    cache.stop().unwrap();
}

#[test]
fn cache_memcached_walks_its_whole_surface() {
    perl("Cache::Memcached", "libcache-memcached-perl");
}

#[test]
fn cache_memcached_fast_walks_its_whole_surface() {
    perl("Cache::Memcached::Fast", "libcache-memcached-fast-perl");
}
