//! `ns_invalidate`: everything stored before under a prefix is a miss for every command, what is stored later is not, also over a restart.

use crate::client::Client;
use ibex_testkit::Daemon;
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn everything_stored_before_is_a_miss() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-o")
        .arg("ns=:")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    let fill = |client: &mut Client| {
        for key in ["u1:a", "u1:b", "u1:c:d", "u2:a", "u1"] {
            client.ask(&format!("set {key} 0 0 1\r\n1\r\n"), "STORED\r\n");
        }
    };
    fill(&mut client);
    assert_eq!(client.ask("ns_invalidate u1\r\n", "\r\n"), "OK\r\n");
    assert_eq!(client.ask("get u1:a u1:c:d\r\n", "END\r\n"), "END\r\n");
    assert_eq!(
        client
            .ask("get u2:a u1\r\n", "END\r\n")
            .matches("VALUE")
            .count(),
        2
    );
    fill(&mut client);
    assert_eq!(
        client
            .ask("get u1:a u1:b u1:c:d\r\n", "END\r\n")
            .matches("VALUE")
            .count(),
        3
    );
    client.ask("ns_invalidate u1\r\n", "OK\r\n");
    for (request, reply) in [
        ("incr u1:a 1\r\n", "NOT_FOUND\r\n"),
        ("append u1:b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("mg u1:c:d v\r\n", "EN\r\n"),
        ("add u1:a 0 0 1\r\n2\r\n", "STORED\r\n"),
        ("touch u1:b 0\r\n", "NOT_FOUND\r\n"),
        ("md u1:b\r\n", "NF\r\n"),
    ] {
        assert_eq!(client.ask(request, "\r\n"), *reply, "{request}");
    }
    fill(&mut client);
    client.ask("ns_invalidate u1:c\r\n", "OK\r\n");
    let dump = client.ask("lru_crawler mgdump all\r\n", "EN\r\n");
    assert_eq!(dump.matches("mg ").count(), 4, "{dump}");
    assert_eq!(
        client.ask("ns_invalidate\r\n", "\r\n"),
        "CLIENT_ERROR bad command line format\r\n"
    );
    daemon.stop().unwrap();
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    assert_eq!(
        Client::new(&daemon).ask("ns_invalidate u1\r\n", "\r\n"),
        "ERROR\r\n"
    );
    daemon.stop().unwrap();
}

#[test]
fn it_stays_a_miss_over_a_warm_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let builder = Daemon::builder("ibex-memcached").arg("-o").arg("ns=:");
        builder
            .arg("-e")
            .arg(dir.path().join("items"))
            .start()
            .unwrap()
    };
    let mut daemon = start();
    let mut client = Client::new(&daemon);
    client.ask(
        "set u:old 0 0 1\r\n1\r\nset v:old 0 0 1\r\n1\r\nns_invalidate u\r\n",
        "OK\r\n",
    );
    client.ask("set u:new 0 0 1\r\n1\r\n", "STORED\r\n");
    daemon.signal(Signal::USR1).unwrap();
    assert_eq!(
        daemon.wait_exit(Duration::from_secs(60)).unwrap().code(),
        Some(0)
    );
    let daemon = start();
    let got = Client::new(&daemon).ask("get u:old v:old u:new\r\n", "END\r\n");
    assert_eq!(
        got,
        "VALUE v:old 0 1\r\n1\r\nVALUE u:new 0 1\r\n1\r\nEND\r\n"
    );
    daemon.stop().unwrap();
}

#[test]
fn one_prefix_too_many_is_refused() {
    const PREFIXES_MAX: usize = 65_536;
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-o")
        .arg("ns=:")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    for round in 0..64 {
        let lines: String = (0..PREFIXES_MAX / 64)
            .map(|n| format!("ns_invalidate {round}.{n}\r\n"))
            .collect();
        let replies = client.ask(&format!("{lines}mn\r\n"), "MN\r\n");
        assert_eq!(replies.matches("OK").count(), PREFIXES_MAX / 64);
    }
    let refused = client.ask("ns_invalidate more\r\n", "\r\n");
    assert_eq!(refused, "SERVER_ERROR too many namespaces\r\n");
    assert_eq!(client.ask("ns_invalidate 0.0\r\n", "\r\n"), "OK\r\n");
    daemon.stop().unwrap();
}
