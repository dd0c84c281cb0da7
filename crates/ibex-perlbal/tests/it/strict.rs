//! Doubtful messages are refused, never passed on: the backend must not see a byte of them.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use crate::support::{Backend, Raw, balancer, get, proxy_commands};

/// Messages no two readers agree on, and what ours says to them.
const ATTEMPTS: &[(&str, u16)] = &[
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcde",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nabcd",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        501,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        400,
    ),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n",
        400,
    ),
    (
        "GET /s HTTP/1.1\r\nHost: a\r\nX: b\r\n folded: yes\r\n\r\n",
        400,
    ),
    ("GET /s HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET /s HTTP/1.1\r\n\r\n", 400),
    ("GET /s HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET /s HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400),
    ("GET /s HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", 400),
    ("GET /s HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET /s\r\n\r\n", 400),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /s HTTP/1.0\r\n\r\nGET /s2 HTTP/1.0\r\n\r\n", 400),
    (
        "POST /s HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 1\r\n\r\nx",
        417,
    ),
];

#[test]
fn smuggling_attempts_are_refused() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on",
    ));
    let addr = daemon.addr("web").unwrap();
    for (message, status) in ATTEMPTS {
        let mut client = Raw::connect(addr);
        // What follows must not be taken for a request, whatever the lengths say.
        client
            .send(message)
            .send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{message:?}");
        assert_eq!(answer.header("Connection"), Some("close"), "{message:?}");
        assert!(
            client.rest().is_empty(),
            "nothing follows the refusal of {message:?}"
        );
        assert_eq!(
            get(addr, "/alive").status,
            200,
            "others are served after {message:?}"
        );
    }
    let seen = backend.seen();
    assert!(
        seen.iter().all(|s| s.line() == "GET /alive HTTP/1.1"),
        "{:?}",
        seen.iter().map(|s| s.line().to_owned()).collect::<Vec<_>>()
    );
    let negative = Raw::connect(addr)
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n")
        .answer();
    assert!(negative.text().contains("Content-Length < 0"));
    daemon.stop().unwrap();
}

#[test]
fn identical_lengths_collapse_and_one_framing_field_is_sent() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    assert_eq!(
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nhi")
            .answer()
            .status,
        200
    );
    let seen = &backend.seen()[0];
    assert_eq!(
        seen.head
            .to_ascii_lowercase()
            .matches("content-length")
            .count(),
        1
    );
    assert_eq!(seen.body, b"hi");
    daemon.stop().unwrap();
}

#[test]
fn surplus_bytes_of_a_backend_go_nowhere() {
    use std::io::Write as _;
    let backend = Backend::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").is_ok()
    });
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on",
    ));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for _ in 0..3 {
        assert_eq!(
            client
                .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .answer()
                .text(),
            "ok"
        );
    }
    assert_eq!(
        backend.connections(),
        3,
        "a connection with surplus bytes is not used again"
    );
    daemon.stop().unwrap();
}
