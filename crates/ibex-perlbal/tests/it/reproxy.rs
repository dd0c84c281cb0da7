//! X-REPROXY-URL, -FILE, -SERVICE and -CACHE-FOR.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::io::Write as _;
use std::sync::Mutex;

use ibex_testkit::wait::until_true;

use crate::support::{Backend, Manage, Raw, balancer, get, proxy_commands, respond};

const ON: &str = "enable_reproxy = on\npersist_client = on\npersist_backend = on";

/// An application that answers every request with these fields and a body nobody shall see.
fn application(fields: String) -> Backend {
    Backend::start(move |_, stream| respond(stream, "200 OK", &fields, b"not this"))
}

#[test]
fn the_first_url_that_works_is_used() {
    let dead = ibex_testkit::ports::free();
    let missing = Backend::start(|_, stream| respond(stream, "404 Not Found", "", b"missing"));
    let storage = Backend::start(|_, stream| {
        respond(
            stream,
            "200 OK",
            "Content-Type: x/storage\r\nX-Internal: secret\r\n",
            b"the real thing",
        )
    });
    let urls = format!(
        "http://{dead}/a ftp://x/ http://{}/b http://{}/c?d=e",
        missing.addr, storage.addr
    );
    let app = application(format!(
        "X-REPROXY-URL: {urls}\r\nContent-Type: image/x-app\r\nX-App: kept\r\n"
    ));
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for _ in 0..3 {
        let answer = client
            .send("GET /pic HTTP/1.1\r\nHost: site\r\nCookie: secret\r\n\r\n")
            .answer();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "the real thing")
        );
        assert_eq!(
            (
                answer.header("Content-Type"),
                answer.header("X-App"),
                answer.header("X-Internal")
            ),
            (Some("image/x-app"), Some("kept"), None)
        );
        assert!(
            !answer.head.to_ascii_lowercase().contains("reproxy"),
            "{}",
            answer.head
        );
    }
    let seen = &storage.seen()[0];
    assert_eq!(
        (seen.line(), seen.header("Host"), seen.header("Cookie")),
        ("GET /c?d=e HTTP/1.1", Some("site"), None)
    );
    assert_eq!(storage.connections(), 1, "connections to targets are kept");
    assert_eq!(
        app.connections(),
        1,
        "the application's connection was free at once"
    );
    daemon.stop().unwrap();
}

#[test]
fn the_backend_is_released_before_the_body_flows() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let storage = Backend::start(move |_, stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            .is_ok()
            && gate.lock().unwrap().recv().is_ok()
            && stream.write_all(b"llo").is_ok()
    });
    let app = application(format!("X-REPROXY-URL: http://{}/x\r\n", storage.addr));
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut manage = Manage::connect(&daemon);
    until_true("the storage is sending", || !storage.seen().is_empty()).unwrap();
    until_true("the application is free", || {
        manage
            .list("show service web")
            .iter()
            .any(|l| l == " connect-ahead: 1/0")
    })
    .unwrap();
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "hello");
    daemon.stop().unwrap();
}

#[test]
fn none_left_is_503_and_the_expected_size_counts() {
    let storage = Backend::text("12345");
    let app = Backend::start({
        let addr = storage.addr;
        move |seen, stream| {
            let size = if seen.line().contains("right") { 5 } else { 6 };
            respond(
                stream,
                "204 No Content",
                &format!("X-REPROXY-URL: http://{addr}/\r\nX-REPROXY-EXPECTED-SIZE: {size}\r\n"),
                b"",
            )
        }
    });
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let addr = daemon.addr("web").unwrap();
    let right = get(addr, "/right");
    assert_eq!(
        (right.status, right.text().as_str()),
        (200, "12345"),
        "204 becomes 200"
    );
    assert_eq!(get(addr, "/wrong").status, 503);
    daemon.stop().unwrap();
}

#[test]
fn ranges_and_conditions_of_urls() {
    let storage = Backend::start(|seen, stream| match seen.header("Range") {
        Some("bytes=1-2") => respond(
            stream,
            "206 Partial Content",
            "Content-Range: bytes 1-2/5\r\nAccept-Ranges: bytes\r\n",
            b"el",
        ),
        Some(_) => respond(
            stream,
            "416 Range Not Satisfiable",
            "Content-Range: bytes */5\r\n",
            b"",
        ),
        None => respond(stream, "200 OK", "ETag: \"s\"\r\n", b"hello"),
    });
    let app = application(format!(
        "X-REPROXY-URL: http://{}/\r\nX-REPROXY-EXPECTED-SIZE: 5\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nETag: \"app\"\r\n",
        storage.addr
    ));
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let mut with = |field: &str| {
        client
            .send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
            .answer()
    };
    let part = with("Range: bytes=1-2\r\n");
    assert_eq!(
        (
            part.status,
            part.text().as_str(),
            part.header("Content-Range")
        ),
        (206, "el", Some("bytes 1-2/5"))
    );
    let beyond = with("Range: bytes=9-\r\n");
    assert_eq!(
        (beyond.status, beyond.header("Content-Range")),
        (416, Some("bytes */5"))
    );
    let whole = with("");
    assert_eq!(
        (whole.status, whole.text().as_str(), whole.header("ETag")),
        (200, "hello", Some("\"app\""))
    );
    assert_eq!(
        with("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n").status,
        304
    );
    assert_eq!(with("If-None-Match: \"app\"\r\n").status, 304);
    assert_eq!(with("If-None-Match: \"other\"\r\n").status, 200);
    daemon.stop().unwrap();
}

#[test]
fn files_with_ranges_and_conditions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.bin");
    let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&path, &content).unwrap();
    std::fs::write(directory.path().join("empty"), "").unwrap();
    let root = directory.path().to_owned();
    let app = Backend::start(move |seen, stream| {
        let target = seen.line().split(' ').nth(1).unwrap();
        let file = if target == "/passwd" {
            "/etc/passwd".to_owned()
        } else {
            format!("{}{target}", root.display())
        };
        respond(
            stream,
            "204 No Content",
            &format!("X-REPROXY-FILE: {file}\r\nX-App: kept\r\n"),
            b"",
        )
    });
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    let mut ask = |target: &str, field: &str| {
        client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
            .answer()
    };
    let whole = ask("/data.bin", "");
    assert_eq!(
        (
            whole.status,
            whole.body == content,
            whole.header("X-App"),
            whole.header("Accept-Ranges")
        ),
        (200, true, Some("kept"), Some("bytes"))
    );
    let part = ask("/data.bin", "Range: bytes=-10\r\n");
    assert_eq!(
        (
            part.status,
            part.body == content[99_990..],
            part.header("Content-Range")
        ),
        (206, true, Some("bytes 99990-99999/100000"))
    );
    let several = ask("/data.bin", "Range: bytes=0-0,10-11\r\n");
    assert_eq!(several.status, 206);
    assert!(
        several
            .header("Content-Type")
            .unwrap()
            .starts_with("multipart/byteranges; boundary=")
    );
    assert!(
        several
            .text()
            .contains("Content-Range: bytes 10-11/100000\r\n\r\n\u{a}\u{b}\r\n")
    );
    let beyond = ask("/data.bin", "Range: bytes=100000-\r\n");
    assert_eq!(
        (beyond.status, beyond.header("Content-Range")),
        (416, Some("bytes */100000"))
    );
    let etag = whole.header("ETag").unwrap().to_owned();
    assert_eq!(
        ask("/data.bin", &format!("If-None-Match: {etag}\r\n")).status,
        304
    );
    assert_eq!(
        ask(
            "/data.bin",
            &format!("Range: bytes=0-0\r\nIf-Range: {etag}\r\n")
        )
        .status,
        206
    );
    assert_eq!(
        ask("/data.bin", "Range: bytes=0-0\r\nIf-Range: \"old\"\r\n").status,
        200
    );
    let empty = ask("/empty", "");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(ask("/missing", "").status, 404);
    assert_eq!(ask("/", "").status, 404, "a directory is no file");
    let head = Raw::connect(addr)
        .send("HEAD /data.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        .try_answer(true)
        .unwrap();
    assert_eq!(head.header("Content-Length"), Some("100000"));
    daemon.stop().unwrap();
}

#[test]
fn files_outside_of_the_roots_stay_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.bin");
    let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&path, &content).unwrap();
    let root = directory.path().to_owned();
    let app = Backend::start(move |seen, stream| {
        let target = seen.line().split(' ').nth(1).unwrap();
        let file = if target == "/passwd" {
            "/etc/passwd".to_owned()
        } else {
            format!("{}{target}", root.display())
        };
        respond(
            stream,
            "204 No Content",
            &format!("X-REPROXY-FILE: {file}\r\nX-App: kept\r\n"),
            b"",
        )
    });
    let daemon = balancer(&proxy_commands(&[app.addr], ON));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    let mut ask = |target: &str, field: &str| {
        client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
            .answer()
    };
    assert_eq!(ask("/passwd", "").status, 200, "no root is set");
    let mut manage = Manage::connect(&daemon);
    assert_eq!(
        manage.run(&format!(
            "SET web.reproxy_file_root = {}",
            directory.path().display()
        )),
        "OK"
    );
    assert_eq!(ask("/passwd", "").status, 404);
    assert_eq!(ask("/data.bin", "").status, 200);
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
    assert_eq!(
        ask("/link", "").status,
        404,
        "a link does not lead out of the root"
    );
    daemon.stop().unwrap();
}

#[test]
fn off_passes_the_fields_through() {
    let app = application("X-REPROXY-FILE: /etc/passwd\r\n".to_owned());
    let daemon = balancer(&proxy_commands(&[app.addr], ""));
    let answer = get(daemon.addr("web").unwrap(), "/");
    assert_eq!(
        (answer.text().as_str(), answer.header("X-REPROXY-FILE")),
        ("not this", Some("/etc/passwd"))
    );
    assert_eq!(app.seen()[0].header("X-Proxy-Capabilities"), None);
    daemon.stop().unwrap();
}

#[test]
fn another_service_answers() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("page.html"), "static").unwrap();
    let app = Backend::start(|seen, stream| {
        respond(
            stream,
            "200 OK",
            if seen.line().contains("nowhere") {
                "X-REPROXY-SERVICE: nowhere\r\n"
            } else {
                "X-REPROXY-SERVICE: files\r\n"
            },
            b"no",
        )
    });
    let mut commands = proxy_commands(&[app.addr], ON);
    commands.push_str(&format!(
        "CREATE SERVICE files\nSET role = web_server\nSET docroot = {}\n",
        directory.path().display()
    ));
    let daemon = balancer(&commands);
    let addr = daemon.addr("web").unwrap();
    assert_eq!(get(addr, "/page.html").text(), "static");
    assert_eq!(get(addr, "/nowhere").status, 404);
    daemon.stop().unwrap();
}

#[test]
fn remembered_urls_spare_the_application() {
    let storage = Backend::text("cached");
    let app = application(format!(
        "X-REPROXY-URL: http://{}/\r\nX-REPROXY-CACHE-FOR: 60; Last-Modified Content-Type\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: image/png\r\nX-Private: p\r\n",
        storage.addr
    ));
    let daemon = balancer(&proxy_commands(
        &[app.addr],
        &format!("{ON}\nreproxy_cache_maxsize = 2"),
    ));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    let mut ask = |target: &str, field: &str| {
        client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
            .answer()
    };
    assert_eq!(ask("/1", "").header("X-Private"), Some("p"));
    let again = ask("/1", "");
    assert_eq!(
        (
            again.text().as_str(),
            again.header("Content-Type"),
            again.header("X-Private")
        ),
        ("cached", Some("image/png"), None)
    );
    assert_eq!(app.seen().len(), 1, "the application was asked once");
    assert_eq!(
        ask(
            "/1",
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT; length=6\r\n"
        )
        .status,
        304
    );
    ask("/2", "");
    ask("/3", "");
    assert_eq!(app.seen().len(), 3);
    ask("/1", "");
    assert_eq!(
        app.seen().len(),
        4,
        "the least recently used entry was dropped"
    );
    let shown = Manage::connect(&daemon).list("show service web");
    assert!(
        shown
            .iter()
            .any(|l| l.starts_with("    cache size: 2/2 (100.00%)")),
        "{shown:?}"
    );
    daemon.stop().unwrap();
}
