//! Log streams: what they show, that slow readers lose lines and hold nobody up, that places are bounded.

use crate::client::Client;
use ibex_testkit::{Daemon, wait};
use std::sync::atomic::{AtomicBool, Ordering};

fn start(args: &[&str]) -> Daemon {
    let builder = Daemon::builder("ibex-memcached");
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
        .unwrap()
}

fn watcher(daemon: &Daemon, kinds: &str) -> Client {
    let mut client = Client::new(daemon);
    assert_eq!(client.ask(&format!("watch {kinds}\r\n"), "\n"), "OK\r\n");
    client
}

/// The next line without time and number.
fn line(watcher: &mut Client) -> String {
    let line = String::from_utf8(watcher.until(b"\n")).unwrap();
    let at = line.find("type=").unwrap_or_else(|| panic!("{line}"));
    assert!(
        line.starts_with("ts=") && line[..at].contains(" gid="),
        "{line}"
    );
    line[at..].trim_end().to_owned()
}

fn fd(client: &mut Client) -> String {
    let conns = client.ask("stats conns\r\n", "END\r\n");
    // The asking connection is the one that is parsing a command.
    let state = conns
        .lines()
        .find(|line| line.ends_with(":state conn_parse_cmd"));
    let words = state.unwrap().strip_prefix("STAT ").unwrap();
    words.split(':').next().unwrap().to_owned()
}

#[test]
fn lookups_stores_and_deletes() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    let fd = fd(&mut client);
    let mut watcher = watcher(&daemon, "fetchers mutations deletions");
    client.ask("set k 0 60 4\r\nabcd\r\nget k\r\n", "END\r\n");
    client.ask("add k 0 0 1\r\nx\r\nms m 1\r\nx\r\nmg none v\r\n", "EN\r\n");
    client.ask(
        "cas k 0 0 1 999\r\nx\r\nmd k I\r\ndelete k\r\nmd m\r\nmn\r\n",
        "MN\r\n",
    );
    let expected = [
        "type=item_get key=k status=not_found clsid=0 cfd=FD size=0",
        "type=item_store key=k status=stored cmd=set ttl=60 clsid=1 cfd=FD size=4",
        "type=item_get key=k status=found clsid=1 cfd=FD size=4",
        "type=item_get key=k status=found clsid=1 cfd=FD size=4",
        "type=item_store key=k status=not_stored cmd=add ttl=0 clsid=1 cfd=FD size=1",
        "type=item_get key=m status=not_found clsid=0 cfd=FD size=0",
        "type=item_store key=m status=stored cmd=set ttl=0 clsid=1 cfd=FD size=1",
        "type=item_get key=none status=not_found clsid=0 cfd=FD size=0",
        "type=item_get key=k status=found clsid=1 cfd=FD size=4",
        "type=item_store key=k status=exists cmd=cas ttl=0 clsid=1 cfd=FD size=1",
        "type=item_get key=k status=found clsid=1 cfd=FD size=4",
        "type=item_get key=k status=found clsid=1 cfd=FD size=4",
        "type=deleted key=k cmd=delete clsid=1 size=4",
        "type=item_get key=m status=found clsid=1 cfd=FD size=1",
        "type=deleted key=m cmd=md clsid=1 size=1",
    ];
    for expected in expected {
        assert_eq!(line(&mut watcher), expected.replace("FD", &fd));
    }
    client.send(format!("set big 0 0 {}\r\n{}\r\n", 2 << 20, "v".repeat(2 << 20)).as_bytes());
    client.until(b"too large for cache\r\n");
    assert!(
        line(&mut watcher).starts_with("type=item_store key=big status=too_large cmd=set ttl=0")
    );
    daemon.stop().unwrap();
}

#[test]
fn connections_and_evictions() {
    let daemon = start(&["-m", "4", "-I", "512k"]);
    let mut evictions = watcher(&daemon, "evictions");
    let mut connections = watcher(&daemon, "connevents");
    let mut client = Client::new(&daemon);
    let new = line(&mut connections);
    assert!(
        new.starts_with("type=conn_new rip=127.0.0.1 rport="),
        "{new}"
    );
    assert!(new.contains(" transport=tcp cfd="), "{new}");
    client.send(b"quit\r\n");
    client.rest();
    let close = line(&mut connections);
    assert!(
        close.starts_with("type=conn_close rip=127.0.0.1 rport="),
        "{close}"
    );
    assert!(
        close.contains(" transport=tcp reason=normal cfd="),
        "{close}"
    );
    Client::new(&daemon).send(b"GET / HTTP/1.1\r\n");
    line(&mut connections);
    let close = line(&mut connections);
    assert!(close.contains(" reason=error cfd="), "{close}");
    let mut client = Client::new(&daemon);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until the first line has come: the store is told to remember evicted items some moments after the watcher has joined.
            let value = "v".repeat(10_000);
            for n in 0.. {
                client.ask(&format!("set n{n} 0 0 10000\r\n{value}\r\n"), "STORED\r\n");
                if is_done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let evicted = line(&mut evictions);
        is_done.store(true, Ordering::Relaxed);
        assert!(evicted.starts_with("type=eviction key=n"), "{evicted}");
        assert!(evicted.contains(" fetch=no ttl=-1 la="), "{evicted}");
        assert!(evicted.ends_with(" size=10000"), "{evicted}");
    });
    daemon.stop().unwrap();
}

/// Lines a reader does not take are dropped and counted, whoever makes them is not held up, and the reader is told.
#[test]
fn a_slow_reader_loses_lines_and_holds_nobody_up() {
    let daemon = start(&["-t", "1", "-o", "watcher_logbuf_size=8"]);
    let mut slow = watcher(&daemon, "");
    let mut client = Client::new(&daemon);
    let gets = format!("get {}\r\n", "k".repeat(240)).repeat(100) + "mn\r\n";
    wait::until_true("lines are skipped", || {
        client.ask(&gets, "MN\r\n");
        client.stat("log_watcher_skipped") > 1000
    })
    .unwrap();
    let buffers = daemon.metric("ibex_memcached_connection_buffer_bytes");
    assert!(buffers.unwrap() < 1e6);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                client.ask("get k\r\n", "END\r\n");
            }
        });
        let text = slow.until(b"skipped=");
        assert_eq!(
            text.split(|byte| *byte == b'\n').next_back().unwrap(),
            b"skipped="
        );
        let count = String::from_utf8(slow.until(b"\n")).unwrap();
        assert!(count.trim_end().parse::<u64>().unwrap() > 0);
        assert!(line(&mut slow).starts_with("type=item_get"));
        is_done.store(true, Ordering::Relaxed);
    });
    daemon.stop().unwrap();
}

#[test]
fn places_words_and_refusals() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    assert_eq!(client.ask("watch nonsense\r\n", "\r\n"), "ERROR\r\n");
    let pipelined = client.ask("mn\r\nwatch\r\n", "watch\r\n");
    assert_eq!(
        pipelined,
        "MN\r\nERROR cannot pipeline other commands before watch\r\n"
    );
    let mut watchers: Vec<Client> = (0..20)
        .map(|_| watcher(&daemon, "mutations proxyreqs"))
        .collect();
    assert_eq!(client.stat("log_watchers"), 20);
    let full = client.ask("watch\r\n", "\r\n");
    assert_eq!(full, "WATCHER_TOO_MANY log watcher limit reached\r\n");
    // The last one's state is noted after its answer is on its way.
    wait::until_true("all are shown as watchers", || {
        let conns = client.ask("stats conns\r\n", "END\r\n");
        conns.matches(":state conn_watch").count() == 20
    })
    .unwrap();
    // What a watcher sends is thrown away, and its end frees the place.
    watchers[0].send(b"get k\r\n");
    watchers.truncate(1);
    wait::until_true("places are free", || client.stat("log_watchers") == 1).unwrap();
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    assert!(line(&mut watchers[0]).starts_with("type=item_store key=k"));
    daemon.stop().unwrap();
    let daemon = start(&["-W"]);
    let refused = Client::new(&daemon).ask("watch\r\n", "\r\n");
    assert_eq!(refused, "CLIENT_ERROR watch commands not allowed\r\n");
    daemon.stop().unwrap();
}
