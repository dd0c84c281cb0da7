//! `stats` and `/metrics` tell the same, memory stays under its limit, expired items go by themselves.

use crate::client::Client;
use ibex_testkit::{Daemon, wait};

#[test]
fn stats_and_metrics_are_the_same_numbers() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut client = Client::new(&daemon);
    client.ask(
        "set k 0 0 1\r\nx\r\nget k absent\r\nincr absent 1\r\ndelete k\r\ntouch k 1\r\nmn\r\n",
        "MN\r\n",
    );
    for (stat, sample) in [
        (
            "get_hits",
            "ibex_memcached_commands_total{command=\"get\",status=\"hit\"}",
        ),
        (
            "get_misses",
            "ibex_memcached_commands_total{command=\"get\",status=\"miss\"}",
        ),
        (
            "cmd_set",
            "ibex_memcached_commands_total{command=\"set\",status=\"any\"}",
        ),
        (
            "incr_misses",
            "ibex_memcached_commands_total{command=\"incr\",status=\"miss\"}",
        ),
        (
            "delete_hits",
            "ibex_memcached_commands_total{command=\"delete\",status=\"hit\"}",
        ),
        ("curr_items", "ibex_memcached_items"),
        ("limit_maxbytes", "ibex_memcached_limit_bytes"),
    ] {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let stat = client.stat(stat) as f64;
        assert!(
            (stat - daemon.metric(sample).unwrap()).abs() < 0.5,
            "{sample}"
        );
    }
    assert_eq!(client.ask("stats\r\n", "END\r\n").lines().count(), 93 + 1);
    daemon.stop().unwrap();
}

#[test]
fn memory_stays_under_its_limit() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-m")
        .arg("16")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    let value = "v".repeat(1000);
    for n in 0..40_000 {
        client.send(format!("set key{n} 0 0 1000 noreply\r\n{value}\r\n").as_bytes());
    }
    client.ask("mn\r\n", "MN\r\n");
    let held = ["segment", "index"].map(|what| {
        daemon
            .metric(&format!("ibex_memcached_{what}_bytes"))
            .unwrap()
    });
    assert!(
        held.iter().sum::<f64>() <= f64::from(16 << 20) + 65_536.0,
        "{held:?}"
    );
    assert!(client.stat("evictions") > 20_000);
    assert!(client.stat("curr_items") > 14_000);
    daemon.stop().unwrap();
}

#[test]
fn expired_items_go_without_being_asked_for() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("--test-hooks")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    for n in 0..1000 {
        client.ask(&format!("set key{n} 0 50 1\r\nx\r\n"), "STORED\r\n");
    }
    assert_eq!(client.stat("curr_items"), 1000);
    client.ask("debugtime 60\r\n", "OK\r\n");
    wait::until_true("the sweep has passed", || client.stat("curr_items") == 0).unwrap();
    assert_eq!(client.stat("crawler_reclaimed"), 1000);
    let items = client.ask("stats items\r\n", "END\r\n");
    assert_eq!(items, "END\r\n", "classes without items are not shown");
    daemon.stop().unwrap();
}

/// Without the crawler expired items stay until they are met or a sweep is asked for.
#[test]
fn the_crawler_is_off_when_it_is_told_so() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("--test-hooks")
        .arg("-o")
        .arg("no_lru_crawler")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    assert!(
        client
            .ask("stats settings\r\n", "END\r\n")
            .contains("STAT lru_crawler no\r\n")
    );
    for n in 0..10 {
        client.ask(&format!("set key{n} 0 50 1\r\nx\r\n"), "STORED\r\n");
    }
    client.ask("set stays 0 0 1\r\nx\r\ndebugtime 60\r\n", "OK\r\n");
    assert_eq!(client.stat("curr_items"), 11);
    assert_eq!(client.ask("lru_crawler enable\r\n", "\r\n"), "OK\r\n");
    assert_eq!(client.ask("lru_crawler crawl all\r\n", "\r\n"), "OK\r\n");
    wait::until_true("the sweep is over", || {
        client.stat("lru_crawler_running") == 0
    })
    .unwrap();
    assert_eq!(client.stat("curr_items"), 1);
    let items = client.ask("stats items\r\n", "END\r\n");
    assert!(
        items.contains("STAT items:1:crawler_reclaimed 10\r\n"),
        "{items}"
    );
    assert_eq!(
        client.ask("mn\r\nlru_crawler metadump all\r\n", "metadump\r\n"),
        "MN\r\nERROR cannot pipeline other commands before metadump\r\n"
    );
    daemon.stop().unwrap();
}

#[test]
fn sizes_of_items() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut client = Client::new(&daemon);
    let off = client.ask("stats sizes\r\n", "END\r\n");
    assert_eq!(off, "STAT sizes_status disabled\r\nEND\r\n");
    daemon.stop().unwrap();
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-o")
        .arg("track_sizes")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    assert_eq!(client.ask("stats sizes\r\n", "END\r\n"), "END\r\n");
    for n in 1000..6000 {
        client.send(format!("set k{n} 0 0 1 noreply\r\nx\r\n").as_bytes());
    }
    client.ask(
        &format!("set big 0 0 400\r\n{}\r\n", "v".repeat(400)),
        "STORED\r\n",
    );
    // 59 bytes, key and value: 65 and 462.
    let sizes = client.ask("stats sizes\r\nmn\r\n", "MN\r\n");
    assert_eq!(sizes, "STAT 96 5000\r\nSTAT 480 1\r\nEND\r\nMN\r\n");
    daemon.stop().unwrap();
}

/// Whose dump is larger than all buffers and who reads it late gets every line, and others are served meanwhile.
#[test]
fn a_dump_read_late_holds_nobody_up() {
    const ITEMS: usize = 60_000;
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-t")
        .arg("1")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    let key = "k".repeat(200);
    for n in 0..ITEMS {
        client.send(format!("set {key}{n} 0 0 1 noreply\r\nx\r\n").as_bytes());
    }
    client.ask("mn\r\n", "MN\r\n");
    let mut late = Client::new(&daemon);
    late.send(b"lru_crawler metadump all\r\n");
    let buffers = || daemon.metric("ibex_memcached_connection_buffer_bytes");
    wait::until_true("the dump waits for its reader", || {
        buffers().is_ok_and(|bytes| bytes > 1e6)
    })
    .unwrap();
    assert_eq!(client.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    assert!(buffers().unwrap() < 4e6);
    assert_eq!(
        client.ask("lru_crawler mgdump all\r\n", "\r\n"),
        "BUSY currently processing crawler request\r\n"
    );
    let dump = late.until(b"END\r\n");
    let lines = dump.split(|byte| *byte == b'\n');
    assert_eq!(
        lines.filter(|line| line.starts_with(b"key=k")).count(),
        ITEMS
    );
    assert_eq!(client.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    daemon.stop().unwrap();
}

#[test]
fn a_dump_shows_every_key() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut client = Client::new(&daemon);
    for n in 0..5000 {
        client.send(format!("set key:{n} 0 0 1 noreply\r\nx\r\n").as_bytes());
    }
    client.ask("mn\r\n", "MN\r\n");
    let dump = client.ask("lru_crawler metadump all\r\n", "END\r\n");
    assert_eq!(
        dump.lines()
            .filter(|line| line.starts_with("key=key%3A"))
            .count(),
        5000
    );
    let keys = client.ask("lru_crawler mgdump all\r\n", "EN\r\n");
    assert_eq!(
        keys.lines()
            .filter(|line| line.starts_with("mg key:"))
            .count(),
        5000
    );
    daemon.stop().unwrap();
}

/// What is beyond the original's statistics: how long requests take, which keys are hot, what each worker does.
#[test]
fn our_own_statistics() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-t")
        .arg("2")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    client.ask(
        &"set k 0 0 1\r\nx\r\n".repeat(640),
        &"STORED\r\n".repeat(640),
    );
    client.ask(
        &format!("{}mn\r\n", "get hot key\r\n".repeat(6400)),
        "MN\r\n",
    );
    let latency = client.ask("stats latency\r\n", "END\r\n");
    let number = |text: &str, name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
        value.trim().parse::<f64>().unwrap()
    };
    assert!(number(&latency, "store:count") >= 9.0, "{latency}");
    assert!(number(&latency, "get:count") >= 99.0, "{latency}");
    let quantiles = ["p50", "p90", "p99", "p999", "max"];
    let quantiles = quantiles.map(|name| number(&latency, &format!("get:{name}_us")));
    assert!(quantiles.is_sorted() && quantiles[4] > 0.0, "{latency}");
    let hot = client.ask("stats hotkeys\r\n", "END\r\n");
    assert!(hot.starts_with("STAT 1:key hot\r\n"), "{hot}");
    assert!(number(&hot, "1:requests") >= 6000.0, "{hot}");
    assert!(hot.contains("STAT 2:key k\r\n"), "{hot}");
    let threads = client.ask("stats threads\r\n", "END\r\n");
    let sum = |name: &str| {
        number(&threads, &format!("0:{name}")) + number(&threads, &format!("1:{name}"))
    };
    assert!(
        sum("connections") >= 1.0 && sum("requests") >= 7040.0,
        "{threads}"
    );
    assert!(sum("cpu_us") > 0.0 && sum("loop_max_us") > 0.0, "{threads}");
    assert!(
        client
            .ask("stats segments\r\n", "END\r\n")
            .contains("STAT shards ")
    );
    daemon.stop().unwrap();
}
