//! Start, stop, reload.

use crate::client::Client;
use ibex_testkit::Daemon;
use std::time::Duration;

#[test]
fn a_stop_does_not_wait_for_uploads() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::new(&daemon)).collect();
    for client in &mut clients {
        client.send(b"set k 0 0 1000\r\nhalf of it");
    }
    assert!(daemon.stop().unwrap() < Duration::from_secs(1));
}

#[test]
fn the_shutdown_command_stops_only_where_it_is_allowed() {
    let mut daemon = Daemon::builder("ibex-memcached").arg("-A").start().unwrap();
    let mut client = Client::new(&daemon);
    assert_eq!(
        client.ask("shutdown maybe\r\n", "\r\n"),
        "CLIENT_ERROR invalid shutdown mode\r\n"
    );
    client.send(b"shutdown\r\n");
    assert!(daemon.wait_exit(Duration::from_secs(10)).unwrap().success());
}

#[test]
fn a_unix_socket_serves() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sock");
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-s")
        .arg(path.as_os_str())
        .start()
        .unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"mn\r\n").unwrap();
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"MN\r\n");
    daemon.stop().unwrap();
}
