//! Operators' and libmemcached's tools: copying, showing, checking the protocol, loading, the original's `memcached-tool`, our own load.

use std::process::Command;

use ibex_testkit::skip;
use integration_tests::peers;
use tempfile::TempDir;

use super::start;

/// Where Debian's package memcached puts its scripts.
const MEMCACHED_TOOL: &str = "/usr/share/memcached/scripts/memcached-tool";

#[test]
fn libmemcached_tools_copy_show_and_remove() {
    let (Some(memccp), Some(memccat), Some(memcrm)) = (
        skip::program("memccp"),
        skip::program("memccat"),
        skip::program("memcrm"),
    ) else {
        return;
    };
    let cache = start();
    let servers = format!("--servers={}", cache.addr("memcached").unwrap());
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("note.txt");
    std::fs::write(&file, "kept in the cache").unwrap();
    peers::ok(Command::new(memccp).arg(&servers).arg(&file), b"").unwrap();
    let shown = peers::ok(Command::new(&memccat).arg(&servers).arg("note.txt"), b"").unwrap();
    assert_eq!(shown.trim_end(), "kept in the cache");
    for tool in ["memcexist", "memctouch"] {
        if let Some(tool) = skip::program(tool) {
            peers::ok(Command::new(tool).arg(&servers).arg("note.txt"), b"").unwrap();
        }
    }
    if let Some(memcping) = skip::program("memcping") {
        peers::ok(Command::new(memcping).arg(&servers), b"").unwrap();
    }
    if let Some(memcdump) = skip::program("memcdump") {
        let keys = peers::ok(Command::new(memcdump).arg(&servers), b"").unwrap();
        assert_eq!(keys.trim_end(), "note.txt");
    }
    if let Some(memcstat) = skip::program("memcstat") {
        let stats = peers::ok(Command::new(memcstat).arg(&servers), b"").unwrap();
        assert!(stats.contains("curr_items: 1"), "{stats}");
    }
    peers::ok(Command::new(memcrm).arg(&servers).arg("note.txt"), b"").unwrap();
    let gone = peers::run(Command::new(&memccat).arg(&servers).arg("note.txt"), b"").unwrap();
    assert!(!String::from_utf8_lossy(&gone.stdout).contains("kept"));
    cache.stop().unwrap();
}

/// libmemcached's own judge of the text and the binary protocol.
#[test]
fn memccapable_passes_every_one_of_its_tests() {
    let Some(memccapable) = skip::program("memccapable") else {
        return;
    };
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    let mut command = Command::new(memccapable);
    command
        .args(["-h", &addr.ip().to_string()])
        .args(["-p", &addr.port().to_string()]);
    let output = peers::run(&mut command, b"").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("All tests passed") && !text.contains("[FAIL]"),
        "{text}"
    );
    assert_eq!(text.matches("[pass]").count(), 54, "{text}");
    cache.stop().unwrap();
}

#[test]
fn memcslap_loads_in_text_and_binary() {
    let Some(memcslap) = skip::program("memcslap") else {
        return;
    };
    let cache = start();
    let servers = format!("--servers={}", cache.addr("memcached").unwrap());
    for more in [&[][..], &["--binary"], &["--test=mget"]] {
        let mut command = Command::new(&memcslap);
        command
            .args([&servers, "--concurrency=4", "--execute-number=500"])
            .args(more);
        peers::ok(&mut command, b"").unwrap();
    }
    let sets = cache
        .metric("ibex_memcached_items_stored_total")
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert!(sets > 500.0, "{sets}");
    cache.stop().unwrap();
}

#[test]
fn memcached_tool_shows_the_server() {
    let Some(perl) = skip::program("perl") else {
        return;
    };
    if !std::path::Path::new(MEMCACHED_TOOL).is_file() {
        skip::skip("memcached-tool is not installed (package memcached)");
        return;
    }
    let cache = start();
    let addr = cache.addr("memcached").unwrap();
    let tool = |mode: &str| {
        let mut command = Command::new(&perl);
        command.args([MEMCACHED_TOOL, &addr.to_string(), mode]);
        peers::ok(&mut command, b"").unwrap()
    };
    let script = ibex_testkit::wire::run(
        "c > set tooled 7 0 5\\r\\nhello\\r\\n\nc < STORED\\r\\n\n",
        addr,
    );
    script.unwrap();
    assert!(tool("display").contains("96B"), "{}", tool("display"));
    let stats = tool("stats");
    assert!(
        stats.contains("curr_items") && stats.contains("limit_maxbytes"),
        "{stats}"
    );
    assert!(tool("settings").contains("item_size_max"));
    assert!(tool("sizes").contains("sizes_status"));
    assert!(tool("dump").contains("add tooled 7 0 5\r\nhello"));
    assert!(tool("keys").contains("key=tooled "));
    cache.stop().unwrap();
}

/// One row of `ibex cache bench` as it prints JSON.
fn bench(server: &str, more: &[&str]) -> Vec<serde_json::Value> {
    let mut command = Command::new(ibex_testkit::daemon::binary("ibex").unwrap());
    command
        .args(["--output", "json", "cache", "--server", server, "bench"])
        .args(["--keys", "1000", "--warmup", "0"])
        .args(more);
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&peers::ok(&mut command, b"").unwrap()).unwrap();
    rows
}

fn number(row: &serde_json::Value, name: &str) -> f64 {
    row[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn our_load_asks_as_often_as_it_is_told() {
    let cache = start();
    let server = cache.addr("memcached").unwrap().to_string();
    let open = ["--rate", "2000", "--arrivals", "constant", "--duration"];
    for more in [
        &[][..],
        &["--protocol", "meta", "--connections", "7"],
        &["--multiget", "10", "--threads", "2"],
        &["--multiget", "10", "--protocol", "meta"],
    ] {
        let rows = bench(&server, &[&open[..], &["0.5"], more].concat());
        // Two thousand a second for half a second, all of keys that were stored before.
        assert_eq!(number(&rows[0], "requests"), 1000.0, "{rows:?}");
        let keys = if more.contains(&"--multiget") {
            10.0
        } else {
            1.0
        };
        assert_eq!(number(&rows[0], "hits"), keys * 1000.0, "{rows:?}");
        assert_eq!(number(&rows[0], "misses"), 0.0, "{rows:?}");
        assert!(number(&rows[0], "p50_us") <= number(&rows[0], "max_us"));
    }
    let mixed = ["--sets", "0.5", "--pipeline", "8", "--duration", "0.3"];
    let rows = bench(&server, &mixed);
    assert_eq!(
        (&rows[0]["what"], &rows[1]["what"]),
        (&"read".into(), &"store".into())
    );
    cache.stop().unwrap();
}

#[test]
fn our_load_stores_what_it_misses() {
    let cache = start();
    let server = cache.addr("memcached").unwrap().to_string();
    let scan = [
        "--no-fill",
        "--fill-misses",
        "--key-spread",
        "scan",
        "--connections",
        "1",
    ];
    let spans = [
        "--rate",
        "4000",
        "--arrivals",
        "constant",
        "--duration",
        "0.5",
    ];
    let rows = bench(&server, &[&scan[..], &spans].concat());
    // 2000 requests over 1000 keys: each is missed once, unless its second reading overtakes the store.
    assert!(number(&rows[0], "misses") >= 1000.0, "{rows:?}");
    let items = cache.metric("ibex_memcached_items_stored_total");
    assert!(items.unwrap() >= 1000.0);
    cache.stop().unwrap();
}
