//! Request bodies: held back, spooled, streamed, refused.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::sync::Mutex;
use std::sync::mpsc::channel;

use ibex_testkit::wait::until_true;

use crate::support::{Backend, Manage, Raw, balancer, builder, proxy_commands, respond};

fn spooled(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_backend_is_asked_for_only_when_the_body_is_there() {
    let backend = Backend::start(|seen, stream| respond(stream, "200 OK", "", &seen.body));
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let mut manage = Manage::connect(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst");
    until_true("the balancer waits for the rest", || {
        manage
            .list("states")
            .iter()
            .any(|l| l == "Perlbal::ClientProxy buffering_request 1")
    })
    .unwrap();
    assert_eq!(backend.connections(), 0);
    assert_eq!(client.send("other").answer().text(), "firstother");
    daemon.stop().unwrap();
}

#[test]
fn large_bodies_stream_through() {
    let backend = Backend::start(|seen, stream| {
        respond(stream, "200 OK", "", seen.body.len().to_string().as_bytes())
    });
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\nbuffer_backend_connect = 10k",
    ));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let body = "x".repeat(3_000_000);
    assert_eq!(
        client
            .send(&format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .answer()
            .text(),
        "3000000"
    );
    let chunks: String = (0..100)
        .map(|_| format!("7530\r\n{}\r\n", "y".repeat(30_000)))
        .collect();
    assert_eq!(
        client
            .send(&format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
            ))
            .answer()
            .text(),
        "3000000"
    );
    assert_eq!(
        backend.seen()[1].header("Transfer-Encoding"),
        Some("chunked")
    );
    let small = client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        )
        .answer();
    assert_eq!(small.text(), "2");
    assert_eq!(
        backend.seen()[2].header("Content-Length"),
        Some("2"),
        "a small chunked body gets its length"
    );
    daemon.stop().unwrap();
}

#[test]
fn spooled_uploads() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("web-1-client-1-abc"),
        "left by an earlier run",
    )
    .unwrap();
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::start(move |seen, stream| {
        gate.lock().unwrap().recv().is_ok()
            && respond(
                stream,
                "200 OK",
                "",
                format!(
                    "{} {}",
                    seen.body.len(),
                    seen.header("X-PERLBAL-BUFFERED-UPLOAD-REASON")
                        .unwrap_or("none")
                )
                .as_bytes(),
            )
    });
    let settings = format!(
        "persist_client = on\nbuffer_uploads_path = {}\nbuffer_uploads = on\nbuffer_upload_threshold_size = 1000",
        directory.path().display()
    );
    let daemon = builder(&proxy_commands(&[backend.addr], &settings))
        .env("PERLBAL_DEBUG_BUFFERED_UPLOADS", "1")
        .start()
        .unwrap();
    assert_eq!(
        spooled(directory.path()),
        0,
        "leftovers are removed at start"
    );
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n")
        .send(&"x".repeat(1000));
    until_true("the spool file is there", || spooled(directory.path()) == 1).unwrap();
    assert_eq!(backend.connections(), 0);
    client.send(&"x".repeat(1000));
    until_true("the backend has it", || backend.seen().len() == 1).unwrap();
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "2000 size");
    until_true("the spool file is gone", || spooled(directory.path()) == 0).unwrap();
    go.send(()).unwrap();
    assert_eq!(client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: x\r\n\r\n").answer().text(), "3 chunked");
    assert_eq!(backend.seen()[1].header("Content-Length"), Some("3"));
    go.send(()).unwrap();
    assert_eq!(
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            .answer()
            .text(),
        "3 none"
    );
    // A client that goes away takes its file with it.
    let mut leaving = Raw::connect(addr);
    leaving.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nxx");
    until_true("the spool file is there", || spooled(directory.path()) == 1).unwrap();
    drop(leaving);
    until_true("the spool file is gone", || spooled(directory.path()) == 0).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn a_spool_that_cannot_be_written_is_500() {
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let backend = Backend::text("x");
    let settings = format!(
        "buffer_uploads_path = {}\nbuffer_uploads = on\nbuffer_upload_threshold_size = 1",
        gone.display()
    );
    let daemon = builder(&proxy_commands(&[backend.addr], &settings))
        .announce("upload could not be spooled")
        .start()
        .unwrap();
    std::fs::remove_dir(&gone).unwrap();
    let answer = Raw::connect(daemon.addr("web").unwrap())
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .answer();
    assert_eq!(
        (answer.status, answer.header("Connection")),
        (500, Some("close"))
    );
    assert_eq!(backend.connections(), 0);
    daemon.stop().unwrap();
}

#[test]
fn expectations() {
    let backend = Backend::start(|seen, stream| respond(stream, "200 OK", "", &seen.body));
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.send("hi").answer().text(), "hi");
    assert_eq!(backend.seen()[0].header("Expect"), None);
    daemon.stop().unwrap();
}

#[test]
fn an_early_answer_is_passed_on() {
    use std::io::Write as _;
    use std::net::TcpListener;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
                crate::support::read_head(&mut reader);
                // The answer comes before the body was read; the connection stays open until the other side closes.
                stream
                    .write_all(b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig")
                    .unwrap();
                drop(std::io::copy(&mut reader, &mut std::io::sink()));
            });
        }
    });
    let daemon = balancer(&proxy_commands(
        &[addr],
        "persist_client = on\nbuffer_backend_connect = 0",
    ));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let answer = client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin")
        .answer();
    assert_eq!(
        (
            answer.status,
            answer.text().as_str(),
            answer.header("Connection")
        ),
        (413, "big", Some("close"))
    );
    daemon.stop().unwrap();
}

#[test]
fn chunked_bodies_are_limited() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "max_chunked_request_size = 10",
    ));
    let post = |size: usize| {
        Raw::connect(daemon.addr("web").unwrap()).send(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size))).answer().status
    };
    assert_eq!([post(9), post(10), post(11)], [200, 200, 413]);
    daemon.stop().unwrap();
}
