//! HTTP on the storage port.

use crate::Node;
use ibex_testkit::disk::Small;
use ibex_testkit::http::{Request, Response};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use tempfile::TempDir;

const FID: &str = "/dev1/0/000/000/0000000001.fid";

fn put(node: &Node, path: &str, body: &[u8]) -> Response {
    Request::new("PUT", path)
        .body(body)
        .send(node.http())
        .unwrap()
}

fn get(node: &Node, path: &str) -> Response {
    Request::get(path).send(node.http()).unwrap()
}

#[test]
fn a_file_comes_and_goes() {
    let node = Node::start();
    assert_eq!(get(&node, FID).status, 404);
    assert_eq!(put(&node, FID, b"hello").status, 201);
    assert_eq!(put(&node, FID, b"other").status, 200);
    let found = get(&node, FID);
    assert_eq!(
        (
            found.status,
            found.text().as_str(),
            found.header("content-length")
        ),
        (200, "other", Some("5"))
    );
    let modified = found.header("last-modified").unwrap().to_owned();
    let again = Request::get(FID)
        .header("If-Modified-Since", &modified)
        .send(node.http())
        .unwrap();
    assert_eq!(again.status, 304);
    assert_eq!(put(&node, "/dev1/empty", b"").status, 201);
    assert_eq!(
        get(&node, "/dev1/empty").header("content-length"),
        Some("0")
    );
    assert_eq!(
        Request::new("DELETE", FID)
            .send(node.http())
            .unwrap()
            .status,
        204
    );
    assert_eq!(
        Request::new("DELETE", FID)
            .send(node.http())
            .unwrap()
            .status,
        404
    );
    assert_eq!(get(&node, "/").status, 200);
    assert!(get(&node, "//dev1/usage").text().contains("total: "));
    node.stop();
}

#[test]
fn ranges() {
    let node = Node::start();
    put(&node, FID, b"0123456789");
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=8-", 206, "89", Some("bytes 8-9/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=5-99", 206, "56789", Some("bytes 5-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=1-2,4-5", 200, "0123456789", None),
    ] {
        let found = Request::get(FID)
            .header("Range", range)
            .send(node.http())
            .unwrap();
        assert_eq!(
            (
                found.status,
                found.text().as_str(),
                found.header("content-range")
            ),
            (status, body, content_range),
            "{range}"
        );
    }
    node.stop();
}

#[test]
fn nothing_outside_a_device_is_touched() {
    let node = Node::start();
    fs::write(node.path("secret"), "x").unwrap();
    std::os::unix::fs::symlink(node.path("secret"), node.path("dev1/link")).unwrap();
    std::os::unix::fs::symlink(node.path(""), node.path("dev1/up")).unwrap();
    for path in [
        "/dev1/../secret",
        "/dev1/%2e%2e/secret",
        "/dev1/..%2fsecret",
        "/dev1/a%00b",
        "/dev1/a%zz",
    ] {
        assert_eq!(get(&node, path).status, 400, "{path}");
        assert_eq!(put(&node, path, b"evil").status, 400, "{path}");
    }
    for path in [
        "/secret",
        "/dev3/x",
        "/dev01/x",
        "/devX/x",
        "/dev99999999999/x",
        "/dev1/link",
        "/dev1/up/secret",
        "/dev1/",
        "/dev1",
    ] {
        assert_eq!(get(&node, path).status, 404, "{path}");
    }
    assert_eq!(put(&node, "/dev3/x", b"evil").status, 404);
    assert_eq!(put(&node, "/dev1/up/secret", b"evil").status, 404);
    assert_eq!(put(&node, "/dev1/link", b"evil").status, 403);
    assert_eq!(put(&node, "/dev1/usage", b"evil").status, 403);
    assert_eq!(put(&node, "/dev1/.tmp/x", b"evil").status, 403);
    assert_eq!(
        Request::new("DELETE", "/dev1/usage")
            .send(node.http())
            .unwrap()
            .status,
        403
    );
    assert_eq!(
        Request::new("MKCOL", "/dev1/0/")
            .send(node.http())
            .unwrap()
            .status,
        400
    );
    assert_eq!(
        Request::new("POST", "/dev1/x")
            .send(node.http())
            .unwrap()
            .status,
        405
    );
    assert!(!node.path("dev3").exists(), "a device is never made");
    assert_eq!(fs::read(node.path("secret")).unwrap(), b"x");
    node.stop();
}

#[test]
fn failed_uploads_change_nothing() {
    let node = Node::start();
    put(&node, FID, b"old");
    for md5 in ["AAAAAAAAAAAAAAAAAAAAAA==", "nonsense"] {
        let refused = Request::new("PUT", FID)
            .header("Content-MD5", md5)
            .body(&b"new"[..])
            .send(node.http())
            .unwrap();
        assert_eq!(refused.status, 400, "{md5}");
    }
    // The client leaves in the middle of the body.
    let mut stream = TcpStream::connect(node.http()).unwrap();
    stream
        .write_all(
            format!("PUT {FID} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").as_bytes(),
        )
        .unwrap();
    stream.write_all(&[7; 600_000]).unwrap();
    drop(stream);
    // A chunked upload whose trailer is wrong, then one whose trailer is right.
    assert!(chunked(&node, "AAAAAAAAAAAAAAAAAAAAAA==").starts_with("HTTP/1.1 400"));
    assert_eq!(get(&node, FID).text(), "old");
    assert!(chunked(&node, "kAFQmDzST7DWlj99KOF/cg==").starts_with("HTTP/1.1 200"));
    assert_eq!(get(&node, FID).text(), "abc");
    ibex_testkit::wait::until_true("no temporary file is left", || {
        fs::read_dir(node.path("dev1/.tmp")).unwrap().count() == 0
    })
    .unwrap();
    node.stop();
}

fn chunked(node: &Node, md5: &str) -> String {
    let mut stream = TcpStream::connect(node.http()).unwrap();
    let head = format!(
        "PUT {FID} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Content-MD5\r\n\r\n"
    );
    stream
        .write_all(
            format!("{head}1\r\na\r\n2;x=y\r\nbc\r\n0\r\nContent-MD5: {md5}\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_range_is_written_in_place() {
    let node = Node::start();
    put(&node, FID, b"0123456789");
    let patched = Request::new("PUT", FID)
        .header("Content-Range", "bytes 2-4/*")
        .body(&b"abc"[..])
        .send(node.http())
        .unwrap();
    assert_eq!(patched.status, 200);
    assert_eq!(get(&node, FID).text(), "01abc56789");
    let refused = Request::new("PUT", FID)
        .header("Content-Range", "bytes 2-9/*")
        .body(&b"abc"[..])
        .send(node.http())
        .unwrap();
    assert_eq!(refused.status, 400);
    node.stop();
}

#[test]
fn unfinished_uploads_of_an_earlier_process_are_removed() {
    let docroot = TempDir::with_prefix("mogdata-").unwrap();
    fs::create_dir_all(docroot.path().join("dev1/.tmp")).unwrap();
    fs::write(docroot.path().join("dev1/.tmp/4711-0"), "half").unwrap();
    let node = Node::start_in(docroot);
    assert_eq!(fs::read_dir(node.path("dev1/.tmp")).unwrap().count(), 0);
    node.stop();
}

#[test]
fn a_full_disk_refuses_and_keeps_nothing() {
    let docroot = TempDir::with_prefix("mogdata-").unwrap();
    let device = docroot.path().join("dev1");
    fs::create_dir(&device).unwrap();
    let Some(disk) = Small::mount_at(device, 1) else {
        return;
    };
    let node = Node::start_in(docroot);
    assert_eq!(put(&node, FID, b"fits").status, 201);
    // Too large by its length, and too large by what comes in chunks.
    assert_eq!(put(&node, "/dev1/large", &vec![1; 3 << 20]).status, 507);
    assert_eq!(put(&node, FID, &vec![1; 1_000_000]).status, 200);
    assert_eq!(put(&node, "/dev1/second", &vec![1; 900_000]).status, 507);
    assert_eq!(get(&node, "/dev1/second").status, 404);
    assert_eq!(get(&node, FID).header("content-length"), Some("1000000"));
    assert_eq!(fs::read_dir(node.path("dev1/.tmp")).unwrap().count(), 0);
    // The disk disappears under the running node: what is below the mount point must not be filled instead.
    drop(disk);
    assert_eq!(put(&node, "/dev1/after", b"x").status, 500);
    assert!(!node.path("dev1/after").exists());
    let mut daemon = node.daemon;
    daemon.announce("cannot write usage");
    daemon.stop().unwrap();
}

#[test]
fn directories_of_devices_are_made_when_asked_for() {
    let docroot = tempfile::TempDir::with_prefix("mogdata-").unwrap();
    std::fs::create_dir(docroot.path().join("dev7")).unwrap();
    std::fs::write(docroot.path().join("dev7/kept"), "old").unwrap();
    let daemon = ibex_testkit::Daemon::builder("ibex-mogstored")
        .set("docroot", docroot.path().to_str().unwrap())
        .env("IBEX_MAKE_DEVICES", "7,8")
        .start()
        .unwrap();
    let node = Node { daemon, docroot };
    assert_eq!(get(&node, "/dev7/kept").text(), "old");
    assert_eq!(put(&node, "/dev8/new", b"x").status, 201);
    assert_eq!(put(&node, "/dev9/new", b"x").status, 404);
    node.stop();
}
