//! The web server role: files, directories, concatenation, uploads, and what stays out of reach.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::os::unix::fs::symlink;
use std::path::Path;

use ibex_testkit::Daemon;

use crate::support::{Answer, Manage, Raw, balancer, get};

fn web(docroot: &Path, settings: &str) -> Daemon {
    let mut commands = format!(
        "CREATE SERVICE web\nSET role = web_server\nSET docroot = {}\nSET persist_client = on\nSET listen = 127.0.0.1:0\n",
        docroot.display()
    );
    for line in settings.lines().filter(|l| !l.trim().is_empty()) {
        commands.push_str(&format!("SET {}\n", line.trim()));
    }
    commands.push_str("ENABLE web\nCREATE SERVICE mgmt\nSET role = management\nSET listen = 127.0.0.1:0\nENABLE mgmt\n");
    balancer(&commands)
}

fn ask(daemon: &Daemon, head: &str, body: &str) -> Answer {
    let to_head = head.starts_with("HEAD");
    let (line, fields) = head.split_once("\r\n").map_or((head, ""), |(l, f)| (l, f));
    let fields = if fields.is_empty() {
        String::new()
    } else {
        format!("{fields}\r\n")
    };
    Raw::connect(daemon.addr("web").unwrap())
        .send(&format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}"))
        .try_answer(to_head)
        .expect("an answer")
}

#[test]
fn files() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a b.HTML"), "<p>hi</p>").unwrap();
    std::fs::write(root.path().join("big.bin"), vec![7; 300_000]).unwrap();
    std::fs::create_dir(root.path().join("sub")).unwrap();
    std::fs::write(root.path().join("sub/index.html"), "index").unwrap();
    std::fs::create_dir(root.path().join("bare")).unwrap();
    let daemon = web(root.path(), "");
    let page = ask(&daemon, "GET /a%20b.HTML?x=y", "");
    assert_eq!(
        (
            page.status,
            page.text().as_str(),
            page.header("Content-Type"),
            page.header("Server")
        ),
        (200, "<p>hi</p>", Some("text/html"), Some("Perlbal"))
    );
    let names: Vec<&str> = page
        .head
        .lines()
        .skip(1)
        .filter_map(|l| l.split_once(": "))
        .map(|(n, _)| n)
        .collect();
    assert_eq!(
        names,
        [
            "Date",
            "Server",
            "Last-Modified",
            "ETag",
            "Accept-Ranges",
            "Content-Type",
            "Content-Length",
            "Connection"
        ]
    );
    assert_eq!(ask(&daemon, "GET /big.bin", "").body.len(), 300_000);
    let head = ask(&daemon, "HEAD /big.bin", "");
    assert_eq!(
        (head.status, head.header("Content-Length")),
        (200, Some("300000"))
    );
    let part = ask(&daemon, "GET /big.bin\r\nRange: bytes=10-19", "");
    assert_eq!(
        (part.status, part.body.len(), part.header("Content-Range")),
        (206, 10, Some("bytes 10-19/300000"))
    );
    let modified = page.header("Last-Modified").unwrap().to_owned();
    let fresh = ask(
        &daemon,
        &format!("GET /a%20b.HTML\r\nIf-Modified-Since: {modified}"),
        "",
    );
    assert_eq!((fresh.status, fresh.header("Content-Length")), (304, None));
    assert_eq!(ask(&daemon, "GET /sub", "").text(), "index");
    assert_eq!(ask(&daemon, "GET /sub/", "").text(), "index");
    let bare = ask(&daemon, "GET /bare/", "");
    assert_eq!(
        (bare.status, bare.text().as_str()),
        (200, "<h1>200 - OK</h1>\nDirectory listing disabled")
    );
    assert_eq!(
        ask(&daemon, "GET /missing", "").text(),
        "<h1>404 - Not Found</h1>\n"
    );
    assert_eq!(ask(&daemon, "GET /a%20b.HTML/", "").status, 404);
    assert_eq!(ask(&daemon, "FROB /", "").status, 400);
    assert_eq!(ask(&daemon, "PUT /x\r\nContent-Length: 0", "").status, 403);
    assert_eq!(
        Manage::connect(&daemon).run("SET web.strict_status = on"),
        "OK"
    );
    let refused = ask(&daemon, "POST /\r\nContent-Length: 0", "");
    assert_eq!(
        (refused.status, refused.header("Allow")),
        (405, Some("GET, HEAD, PUT, DELETE"))
    );
    daemon.stop().unwrap();
}

#[test]
fn nothing_outside_of_the_docroot() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("www");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(outer.path().join("secret"), "secret").unwrap();
    symlink(outer.path().join("secret"), root.join("link")).unwrap();
    let daemon = web(&root, "");
    for (target, status, text) in [
        ("/../secret", 403, "Bogus URL"),
        ("/%2e%2e/secret", 403, "Bogus URL"),
        ("/x/..%2f..%2fsecret", 403, "Bogus URL"),
        ("/a%00b", 400, ""),
        ("//etc/passwd", 404, ""),
        ("/%2fetc/passwd", 404, ""),
        ("/%252e%252e/secret", 404, ""),
    ] {
        let answer = ask(&daemon, &format!("GET {target}"), "");
        assert_eq!(answer.status, status, "{target}");
        assert!(
            answer.text().ends_with(text) && !answer.text().contains("secret"),
            "{target}"
        );
    }
    assert_eq!(
        ask(&daemon, "GET /link", "").text(),
        "secret",
        "links are followed as in the original"
    );
    assert_eq!(
        Manage::connect(&daemon).run("SET web.symlinks = inside"),
        "OK"
    );
    assert_eq!(ask(&daemon, "GET /link", "").status, 404);
    daemon.stop().unwrap();
}

#[test]
fn listings_and_concatenations() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("d")).unwrap();
    for (name, text) in [
        ("d/<x>.txt", "x"),
        ("d/a.css", "A{}"),
        ("d/b.js", "b()"),
        ("d/.hidden", "h"),
    ] {
        std::fs::write(root.path().join(name), text).unwrap();
    }
    let daemon = web(root.path(), "dirindexing = on");
    let page = ask(&daemon, "GET /d/", "").text();
    assert!(
        page.contains("<a href='/d/%3Cx%3E.txt'>&lt;x&gt;.txt</a>") && !page.contains("hidden"),
        "{page}"
    );
    assert_eq!(
        ask(&daemon, "GET /d/??a.css,b.js", "").text(),
        "<h1>403 - Forbidden</h1>\nMultiple file serving isn't enabled"
    );
    assert_eq!(
        Manage::connect(&daemon).run("SET web.enable_concatenate_get = on"),
        "OK"
    );
    let both = ask(&daemon, "GET /d/??a.css,b.js?v=1", "");
    assert_eq!(
        (
            both.status,
            both.text().as_str(),
            both.header("Content-Type")
        ),
        (200, "A{}b()", Some("text/css"))
    );
    let modified = both.header("Last-Modified").unwrap().to_owned();
    assert_eq!(
        ask(
            &daemon,
            &format!("GET /d/??a.css,b.js\r\nIf-Modified-Since: {modified}"),
            ""
        )
        .status,
        304
    );
    for (target, status) in [
        ("/d/??a.css,missing", 404),
        ("/d??a.css", 500),
        ("/d/??../d/a.css", 403),
        ("/nowhere/??a", 404),
    ] {
        assert_eq!(
            ask(&daemon, &format!("GET {target}"), "").status,
            status,
            "{target}"
        );
    }
    daemon.stop().unwrap();
}

#[test]
fn put_and_delete() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("dev1")).unwrap();
    let daemon = web(
        root.path(),
        "enable_put = on\nenable_delete = on\nmax_put_size = 10\nmin_put_directory = 1",
    );
    let put = |target: &str, fields: &str, body: &str| {
        ask(
            &daemon,
            &format!("PUT {target}\r\nContent-Length: {}{fields}", body.len()),
            body,
        )
    };
    assert_eq!(put("/dev1/sub/a.txt", "", "hello").status, 200);
    assert_eq!(
        std::fs::read(root.path().join("dev1/sub/a.txt")).unwrap(),
        b"hello"
    );
    assert_eq!(put("/dev1/empty", "", "").status, 200);
    assert_eq!(
        put(
            "/dev1/m.txt",
            "\r\nContent-MD5: XUFAKrxLKna5cZ2REBfFkg==",
            "hello"
        )
        .status,
        201
    );
    let mismatch = put(
        "/dev1/n.txt",
        "\r\nContent-MD5: AAAAAAAAAAAAAAAAAAAAAA",
        "hello",
    );
    assert!(mismatch.status == 400 && mismatch.text().ends_with("Content-MD5 mismatch, expected: AAAAAAAAAAAAAAAAAAAAAA actual: XUFAKrxLKna5cZ2REBfFkg"), "{}", mismatch.text());
    assert!(!root.path().join("dev1/n.txt").exists());
    for (target, body, text) in [
        ("/dev1/a%20b", "x", "Invalid filename"),
        ("/dev1/../x", "x", "Invalid filename"),
        ("/top", "x", "Does not meet minimum directory requirement"),
        ("/dev9/x", "x", "Base directory does not exist"),
        (
            "/dev1/big",
            "01234567890",
            "Content-length of 11 is invalid.",
        ),
    ] {
        assert!(put(target, "", body).text().ends_with(text), "{target}");
    }
    let chunked = |size: usize| {
        ask(
            &daemon,
            "PUT /dev1/c\r\nTransfer-Encoding: chunked",
            &format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)),
        )
        .status
    };
    assert_eq!((chunked(10), chunked(11)), (200, 413));
    assert_eq!(ask(&daemon, "DELETE /dev1/sub/a.txt", "").status, 204);
    assert_eq!(ask(&daemon, "DELETE /dev1/sub/a.txt", "").status, 404);
    assert_eq!(ask(&daemon, "DELETE /dev1/../dev1/c", "").status, 400);
    assert_eq!(
        Manage::connect(&daemon).run("SET web.put_atomic = on"),
        "OK"
    );
    assert_eq!(put("/dev1/at", "", "whole").status, 200);
    let left: Vec<_> = std::fs::read_dir(root.path().join("dev1"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    daemon.stop().unwrap();
}

#[test]
fn a_client_that_reads_slowly_gets_all() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("big"), vec![1; 5_000_000]).unwrap();
    let daemon = web(root.path(), "client_sndbuf_size = 8k");
    assert_eq!(
        get(daemon.addr("web").unwrap(), "/big").body.len(),
        5_000_000
    );
    daemon.stop().unwrap();
}
