//! The storage node as any HTTP client sees it, and the tracker with its nodes as a telnet user does.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::PathBuf;
use std::process::Command;

use ibex_testkit::{Daemon, skip};
use integration_tests::peers;
use tempfile::TempDir;

/// A storage node with one device.
struct Node {
    daemon: Daemon,
    url: String,
    _docroot: TempDir,
}

fn node() -> Node {
    let docroot = TempDir::new().unwrap();
    std::fs::create_dir(docroot.path().join("dev1")).unwrap();
    let builder = Daemon::builder("ibex-mogstored")
        .set("docroot", &docroot.path().to_string_lossy())
        .set("side_listen", "127.0.0.1:0");
    let daemon = builder.start().unwrap();
    let url = format!(
        "http://{}",
        daemon
            .addr(ibex_testkit::family::member("mogstored").unwrap().listener)
            .unwrap()
    );
    Node {
        daemon,
        url,
        _docroot: docroot,
    }
}

fn curl(curl: &PathBuf, args: &[&str], input: &[u8]) -> String {
    let mut command = Command::new(curl);
    command
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(args);
    peers::ok(&mut command, input).unwrap()
}

#[test]
fn curl_puts_gets_and_deletes_on_a_storage_node() {
    let Some(program) = skip::program("curl") else {
        return;
    };
    let node = node();
    let url = format!("{}/dev1/0/000/000/0000000001.fid", node.url);
    let code = |args: &[&str], input: &[u8]| {
        curl(
            &program,
            &[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat(),
            input,
        )
    };
    assert_eq!(code(&[&url], b""), "404");
    let put = code(&["-T", "-", &url], b"ten bytes!");
    assert!(
        put == "200" || put == "201" || put == "204",
        "PUT answers {put}"
    );
    assert_eq!(curl(&program, &[&url], b""), "ten bytes!");
    assert_eq!(curl(&program, &["-r", "4-8", &url], b""), "bytes");
    assert_eq!(code(&["-r", "4-8", &url], b""), "206");
    let head = curl(&program, &["-I", &url], b"").to_ascii_lowercase();
    assert!(head.contains("content-length: 10"), "{head}");
    assert_eq!(code(&["-X", "DELETE", &url], b""), "204");
    assert_eq!(code(&[&url], b""), "404");
    node.daemon.stop().unwrap();
}

#[test]
fn nothing_outside_the_devices_is_served_or_written() {
    let Some(program) = skip::program("curl") else {
        return;
    };
    let node = node();
    for path in [
        "/../../etc/passwd",
        "/dev1/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ] {
        let url = format!("{}{path}", node.url);
        let text = curl(
            &program,
            &["--path-as-is", "-o", "-", "-w", "%{http_code}", &url],
            b"",
        );
        assert!(
            !text.contains("root:") && !text.ends_with("200"),
            "{path}: {text}"
        );
        let put = curl(
            &program,
            &[
                "--path-as-is",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-T",
                "-",
                &url,
            ],
            b"x",
        );
        assert!(put.starts_with('4'), "PUT {path} answers {put}");
    }
    drop(node.daemon);
}
