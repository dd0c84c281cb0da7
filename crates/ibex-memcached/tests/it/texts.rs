//! Rows of the protocol's tables that no wire script shows, by the flags of the daemon they need; and that no text of ours goes without a test.

use crate::client::Client;
use ibex_memcached_proto::texts;
use ibex_testkit::Daemon;
use std::path::Path;

fn start(args: &[&str]) -> Daemon {
    let builder = Daemon::builder("ibex-memcached");
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
        .unwrap()
}

/// Each request on one connection, with its whole reply.
fn check(args: &[&str], rows: &[(&str, &str)]) {
    let daemon = start(args);
    let mut client = Client::new(&daemon);
    for (request, expected) in rows {
        let mark = if request.ends_with('\n') {
            "mn\r\n"
        } else {
            "\r\nmn\r\n"
        };
        let reply = client.ask(&format!("{request}{mark}"), "MN\r\n");
        let reply = reply.strip_suffix("MN\r\n").unwrap();
        assert_eq!(reply, format!("{expected}\r\n"), "{args:?}: {request:?}");
    }
    daemon.stop().unwrap();
}

const FORMAT: &str = "CLIENT_ERROR bad command line format";

#[test]
fn classic_rows() {
    let key251 = "k".repeat(251);
    let long: Vec<String> = ["get", "gat 0", "delete", "touch"]
        .iter()
        .map(|command| format!("{command} {key251}"))
        .chain([format!("incr {key251} 1"), format!("touch {key251} 1")])
        .collect();
    let long: Vec<(&str, &str)> = long
        .iter()
        .map(|request| (request.as_str(), FORMAT))
        .collect();
    check(&[], &long);
    check(
        &[],
        &[
            ("x", FORMAT),
            ("", FORMAT),
            ("set k 0 0 2147483646", FORMAT),
            ("set k 4294967296 0 1\r\nx\r\n", FORMAT),
            ("set k -1 0 1\r\nx\r\n", FORMAT),
            ("set k 0 x 1\r\nx\r\n", FORMAT),
            ("cas k 0 0 1 x\r\nx\r\n", FORMAT),
            ("cas k 0 0 1\r\nx\r\n", FORMAT),
            ("set k 4294967295 0 1 extra words\r\nx\r\n", "STORED"),
            ("get k", "VALUE k 4294967295 1\r\nx\r\nEND"),
            ("gets k", "VALUE k 4294967295 1 1\r\nx\r\nEND"),
            (
                "gats 0 k none k",
                "VALUE k 4294967295 1 1\r\nx\r\nVALUE k 4294967295 1 1\r\nx\r\nEND",
            ),
            ("cas k 0 0 1 2\r\ny\r\n", "EXISTS"),
            ("cas k 0 0 1 1\r\ny\r\n", "STORED"),
            ("gets k", "VALUE k 0 1 2\r\ny\r\nEND"),
            ("touch k 100", "TOUCHED"),
            ("gets k", "VALUE k 0 1 2\r\ny\r\nEND"),
            (
                "incr k 18446744073709551616",
                "CLIENT_ERROR invalid numeric delta argument",
            ),
            ("incr k", FORMAT),
            ("touch k", FORMAT),
            ("gat 0", FORMAT),
            ("delete", FORMAT),
            ("set n 3 0 3\r\n100\r\n", "STORED"),
            ("decr n 95", "5"),
            ("get n", "VALUE n 3 1\r\n5\r\nEND"),
            ("set n 0 0 4\r\n 9  \r\n", "STORED"),
            ("incr n 1", "10"),
            ("set n 0 0 21\r\n123456789012345678901\r\n", "STORED"),
            (
                "incr n 1",
                "CLIENT_ERROR cannot increment or decrement non-numeric value",
            ),
            ("verbosity x", FORMAT),
            ("verbosity 9", "OK"),
            ("flush_all -5", "OK"),
            ("get k n", "END"),
            ("cache_memlimit 64", "OK"),
            ("cache_memlimit", "ERROR"),
            ("shutdown", "SERVER_ERROR: shutdown not enabled"),
            ("extstore free_memchunks 1 1", "ERROR"),
            ("debugtime 5", "ERROR"),
            ("ns_invalidate a", "ERROR"),
            ("stats noreply", "ERROR"),
            ("stats reset", "RESET"),
        ],
    );
}

#[test]
fn meta_rows() {
    let many: Vec<char> = "bckfhlqstuvxITNRCDEFJMO".chars().collect::<Vec<_>>()[..19].to_vec();
    let many = many.iter().fold("mg aaaa".to_owned(), |line, letter| {
        let token = if letter.is_ascii_uppercase() { "1" } else { "" };
        format!("{line} {letter}{token}")
    });
    check(
        &[],
        &[
            (&many, "CLIENT_ERROR options flags are too long"),
            ("mg k v v", "CLIENT_ERROR duplicate flag"),
            ("mg k !", "CLIENT_ERROR invalid flag"),
            ("mg k Tx", "CLIENT_ERROR bad token in command line format"),
            ("md k Cx q", "CLIENT_ERROR bad token in command line format"),
            (
                "mg k O123456789012345678901234567890123",
                "CLIENT_ERROR opaque token too long",
            ),
            (
                "mg k O12345678901234567890123456789012",
                "EN O12345678901234567890123456789012",
            ),
            ("mg", FORMAT),
            ("ms k", FORMAT),
            ("ms k x", FORMAT),
            (
                "ms k 2 Mx\r\nab\r\n",
                "CLIENT_ERROR invalid mode for ms M token",
            ),
            (
                "ms k 2 Ma\r\nab\r\n",
                "CLIENT_ERROR invalid mode for ms M token",
            ),
            ("ms k 2 F4294967296\r\nab\r\n", FORMAT),
            ("ms k 2 v v\r\nab\r\n", "CLIENT_ERROR duplicate flag"),
            ("ms !! 2 b\r\nab\r\n", "CLIENT_ERROR error decoding key"),
            ("ms k 2 q\r\nabc\n", "CLIENT_ERROR bad data chunk"),
            ("ms k 2 S99 k s c Oz\r\nab\r\n", "CLIENT_ERROR invalid flag"),
            ("ms k 2 k s c Oz\r\nab\r\n", "HD kk s2 c1 Oz"),
            ("ms k 2 MA k s Oz C0\r\ncd\r\n", "HD kk s4 Oz"),
            ("ms k 1 C0\r\nx\r\n", "EX"),
            ("ms fresh 1 ME C7\r\nx\r\n", "HD"),
            ("ms none 1 MP C7\r\nx\r\n", "NS"),
            ("mg k v C2 Pproxy Lhint", "HD"),
            ("mg k s q k", "HD s4 kk"),
            ("md k C1 q", "EX"),
            (
                "ma k",
                "CLIENT_ERROR cannot increment or decrement non-numeric value",
            ),
            ("ma k Dx", "CLIENT_ERROR invalid or duplicate flag"),
            ("ma k M*", "CLIENT_ERROR invalid mode for ma M token"),
            (
                "ma num N90 J18446744073709551615 t v",
                "VA 20 t90\r\n18446744073709551615",
            ),
            ("ma num v", "VA 1\r\n0"),
            ("ma num MI D5 c E77", "HD c77"),
            ("ma num M- D9 v C77 Ok", "VA 1 Ok\r\n0"),
            ("ma num C1 k", "EX knum"),
            ("me k b", "CLIENT_ERROR error decoding key"),
        ],
    );
}

#[test]
fn operators_rows() {
    check(
        &[],
        &[
            ("slabs reassign x y", FORMAT),
            ("slabs reassign 2", "ERROR"),
            ("slabs reassign 2 1", "OK"),
            ("slabs reassign -1 1", "OK"),
            ("slabs reassign 2 0", "OK"),
            ("slabs reassign 0 2", "BADCLASS invalid src or dst class id"),
            (
                "slabs reassign 2 60",
                "BADCLASS invalid src or dst class id",
            ),
            ("slabs automove", FORMAT),
            ("slabs automove x", FORMAT),
            ("slabs automove ratio x", "ERROR"),
            ("slabs automove freeratio 0.1", "OK"),
            ("slabs automove window x", FORMAT),
            (
                "slabs automove window 1801",
                "CLIENT_ERROR automove window too low or too high",
            ),
            ("lru", "ERROR"),
            ("lru tune 10 x 1 1", "ERROR"),
            ("lru mode round", "ERROR"),
            ("lru temp_ttl x", "ERROR"),
            ("lru_crawler", "ERROR"),
            ("lru_crawler sleep x", FORMAT),
            ("lru_crawler tocrawl x", FORMAT),
            ("lru_crawler disable", "OK"),
            ("lru_crawler enable", "OK"),
            ("lru_crawler crawl 1,2,3", "OK"),
            ("watch nonsense", "ERROR"),
            (
                "stats detail",
                "CLIENT_ERROR usage: stats detail on|off|dump",
            ),
            ("stats detail on", "OK"),
            ("set p:1 0 0 1\r\nx\r\n", "STORED"),
            ("get p:1 p:2", "VALUE p:1 0 1\r\nx\r\nEND"),
            ("delete p:1", "DELETED"),
            (
                "stats detail dump",
                "PREFIX p get 2 hit 1 set 1 del 1\r\nEND",
            ),
            ("stats detail off", "OK"),
            ("set c 0 0 3\r\nabc\r\n", "STORED"),
            ("stats cachedump 1 0", "ITEM c [3 b; 0 s]\r\nEND"),
            ("stats cachedump 2 0", "END"),
            ("stats sizes", "STAT sizes_status disabled\r\nEND"),
        ],
    );
    let watch_disabled = "CLIENT_ERROR watch commands not allowed";
    check(
        &["-X", "-F", "-W", "-A", "-C", "-o", "no_lru_maintainer"],
        &[
            ("lru_crawler metadump all", "ERROR metadump not allowed"),
            ("lru_crawler mgdump all", "ERROR key dump not allowed"),
            (
                "stats cachedump 1 1",
                "CLIENT_ERROR stats cachedump not allowed",
            ),
            ("stats detail on", "CLIENT_ERROR stats detail not allowed"),
            ("stats hotkeys", "CLIENT_ERROR stats hotkeys not allowed"),
            ("flush_all", "CLIENT_ERROR flush_all not allowed"),
            ("watch", watch_disabled),
            ("shutdown later", "CLIENT_ERROR invalid shutdown mode"),
            ("set k 0 0 1\r\nx\r\n", "STORED"),
            ("gets k", "VALUE k 0 1 0\r\nx\r\nEND"),
            ("lru mode flat", "ERROR"),
        ],
    );
}

#[test]
fn a_stream_wants_a_connection_without_replies_on_their_way() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    assert_eq!(
        client.ask("mn\r\nwatch fetchers\r\n", "watch\r\n"),
        "MN\r\nERROR cannot pipeline other commands before watch\r\n"
    );
    daemon.stop().unwrap();
}

/// Without evictions a full store says so; a value that had to be replaced does not survive as an outdated one.
#[test]
fn a_store_without_evictions_fills_up() {
    let daemon = start(&["-m", "8", "-M"]);
    let mut client = Client::new(&daemon);
    let value = "v".repeat(300_000);
    let text = "SERVER_ERROR out of memory storing object\r\n";
    client.ask("set small 0 0 1\r\nx\r\n", "STORED\r\n");
    let full = (0..100).find(|n| {
        let request = format!("set k{n} 0 0 300000\r\n{value}\r\n");
        client.ask(&request, "\r\n") == text
    });
    assert!(full.is_some_and(|stored| stored > 15), "{full:?}");
    let request = format!("set small 0 0 300000\r\n{value}\r\n");
    assert_eq!(client.ask(&request, "\r\n"), text);
    assert_eq!(client.ask("get small\r\n", "END\r\n"), "END\r\n");
    assert!(client.stat("store_no_memory") >= 2);
    assert_eq!(client.stat("evictions"), 0);
    daemon.stop().unwrap();
}

/// Every text the daemon may answer is compared in some script or test here.
#[test]
fn every_text_is_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    for dir in ["tests/wire", "tests/it"] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            all += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
    }
    let missing: Vec<&str> = texts::ALL
        .iter()
        .map(|text| std::str::from_utf8(text).unwrap().trim_end())
        // Only where memory has 32-bit addresses.
        .filter(|text| !text.starts_with("MEMLIMIT_ADJUST_FAILED out of bounds"))
        .filter(|text| !all.contains(text))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
