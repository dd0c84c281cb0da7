//! The side channel.

use crate::Node;
use ibex_testkit::http::Request;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

#[test]
fn sizes_and_digests_in_order() {
    let node = Node::start();
    let path = "/dev1/0/000/000/0000000781.fid";
    Request::new("PUT", path)
        .body(&b"hello"[..])
        .send(node.http())
        .unwrap();
    let mut stream = TcpStream::connect(node.side()).unwrap();
    let requests = [
        format!("size {path}"),
        format!("MD5 {path} fsck"),
        format!("SHA-1 {path}"),
        "size /dev1/missing".into(),
        "MD5 /dev1/missing".into(),
        "size /dev1/../x".into(),
        "foo".into(),
        String::new(),
        "server aio_threads = 4".into(),
    ];
    stream
        .write_all(format!("{}\r\n", requests.join("\r\n")).as_bytes())
        .unwrap();
    let mut answers = BufReader::new(stream).lines();
    for expected in [
        format!("{path} 5"),
        format!("{path} MD5=5d41402abc4b2a76b9719d911017c592"),
        format!("{path} SHA-1=aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"),
        "/dev1/missing -1".into(),
        "/dev1/missing MD5=-1".into(),
        "ERROR: uri invalid (contains ..)".into(),
        "ERROR: unknown command: foo".into(),
        String::new(),
        String::new(),
    ] {
        assert_eq!(answers.next().unwrap().unwrap(), expected);
    }
    node.stop();
}

#[test]
fn watch_names_every_device_each_second() {
    let node = Node::start();
    let mut stream = TcpStream::connect(node.side()).unwrap();
    stream.write_all(b"watch\r\n").unwrap();
    let mut lines = BufReader::new(&stream).lines();
    for _ in 0..2 {
        assert!(lines.next().unwrap().unwrap().starts_with("1\t"));
        assert!(lines.next().unwrap().unwrap().starts_with("2\t"));
        assert_eq!(lines.next().unwrap().unwrap(), ".");
    }
    drop(stream);
    node.stop();
}

#[test]
fn shutdown_ends_the_node() {
    let node = Node::start();
    let mut stream = TcpStream::connect(node.side()).unwrap();
    stream.write_all(b"shutdown\r\n").unwrap();
    let mut daemon = node.daemon;
    assert!(
        daemon
            .wait_exit(std::time::Duration::from_secs(10))
            .unwrap()
            .success()
    );
}
