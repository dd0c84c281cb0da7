//! Dead servers, slow servers, dropped calls.

use crate::fake::{Act, Scripted};
use crate::server::{Memcached, patient};
use ibex_memcached_client::{Client, Config, Error, Expiry, Protocol, WhenDead};
use ibex_testkit::proxy::{Fault, Faults, Proxy};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_dead_server_costs_three_failures_and_then_nothing() {
    let Some(mut server) = Memcached::start() else {
        return;
    };
    let dead_for = |dead_for| patient([server.address()]).with_backoff(3, dead_for);
    let for_long = Client::connect(dead_for(Duration::from_secs(600)))
        .await
        .unwrap();
    let cache = Client::connect(dead_for(Duration::from_millis(50)))
        .await
        .unwrap();
    cache.set("k", "v", Expiry::Never).await.unwrap();
    let port = server.port;
    server.kill();
    for _ in 0..3 {
        assert!(for_long.get("k").await.unwrap_err().is_server_away());
        assert!(cache.get("k").await.unwrap_err().is_server_away());
    }
    assert!(matches!(for_long.get("k").await, Err(Error::Dead { .. })));
    let _again = Memcached::start_on(i32::from(port)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while cache.get("k").await.is_err() {
        assert!(
            Instant::now() < deadline,
            "the server is back and nobody noticed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cache.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn reads_miss_and_deletes_fail_while_a_server_is_dead() {
    let config = Config::new(["127.0.0.1:1"]).with_when_dead(WhenDead::Miss);
    let cache = Client::connect(config).await.unwrap();
    for _ in 0..5 {
        assert_eq!(cache.get("k").await.unwrap(), None);
        cache.set("k", "v", Expiry::Never).await.unwrap();
        assert!(cache.get_multi(&["a", "b"]).await.unwrap().is_empty());
        assert!(cache.delete("k").await.is_err());
        assert!(cache.invalidate("k", Duration::from_secs(1)).await.is_err());
    }
}

/// A server that answers `VA` for another key late: the reply must never reach a later call.
#[tokio::test]
async fn a_dropped_call_does_not_leave_its_reply_to_the_next() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buf = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buf).await {
                    let slow = buf[..read].starts_with(b"mg slow");
                    if slow {
                        tokio::time::sleep(Duration::from_secs(120)).await;
                    }
                    let reply: &[u8] = if slow {
                        b"VA 4 f0 c1\r\nslow\r\n"
                    } else {
                        b"VA 4 f0 c1\r\nfast\r\n"
                    };
                    if stream.write_all(reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let config = patient([address])
        .with_protocol(Protocol::Meta)
        .with_connections_max(1);
    let cache = Client::connect(config).await.unwrap();
    assert_eq!(cache.get("fast").await.unwrap().unwrap().value, "fast");
    assert!(
        tokio::time::timeout(Duration::from_millis(50), cache.get("slow"))
            .await
            .is_err()
    );
    for _ in 0..5 {
        assert_eq!(cache.get("fast").await.unwrap().unwrap().value, "fast");
    }
}

/// Leaves an open connection in the pool, so that what follows does not depend on how fast one can be opened.
async fn connected(cache: &Client) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while cache.get("absent").await.is_err() {
        assert!(Instant::now() < deadline, "no connection");
    }
}

#[tokio::test]
async fn a_write_without_answer_says_so() {
    let server = Scripted::start(|line| match line {
        "mg absent v f c" => Act::Answer("EN\r\n"),
        _ => Act::Silence,
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_operation_timeout(Duration::from_secs(1));
    let cache = Client::connect(config).await.unwrap();
    connected(&cache).await;
    let set = cache.set("k", "v", Expiry::Never).await;
    assert!(matches!(set, Err(Error::OutcomeUnknown { .. })), "{set:?}");
    connected(&cache).await;
    let get = cache.get("k").await;
    assert!(matches!(get, Err(Error::Lost { .. })), "{get:?}");
}

/// Calls until the answer is what it should be; whatever comes before must be a server that is away.
async fn until_known_dead(cache: &Client, key: &str) {
    for _ in 0..3 {
        match cache.get(key).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_server_away(), "{error}"),
        }
    }
}

fn mortal(config: Config) -> Config {
    config.with_backoff(1, Duration::from_secs(600))
}

/// Three servers, of which the owner of `key` is killed under each policy.
async fn without_the_owner(policy: WhenDead) -> Option<(Client, Vec<Memcached>)> {
    let mut servers: Vec<_> = (0..3).filter_map(|_| Memcached::start()).collect();
    if servers.len() < 3 {
        return None;
    }
    let config = mortal(patient(servers.iter().map(Memcached::address)));
    let cache = Client::connect(config.with_when_dead(policy))
        .await
        .unwrap();
    for n in 0..100 {
        cache
            .set(&format!("k{n}"), "before", Expiry::Never)
            .await
            .unwrap();
    }
    let owner = cache.server_name("k0").unwrap().to_owned();
    for server in &mut servers {
        if server.address() == owner {
            server.kill();
        }
    }
    until_known_dead(&cache, "k0").await;
    Some((cache, servers))
}

#[tokio::test]
async fn calls_for_a_dead_server_fail() {
    let Some((cache, _servers)) = without_the_owner(WhenDead::Fail).await else {
        return;
    };
    assert!(matches!(cache.get("k0").await, Err(Error::Dead { .. })));
    let set = cache.set("k0", "v", Expiry::Never).await;
    assert!(matches!(set, Err(Error::Dead { .. })));
    let mut dead = 0;
    for n in 0..100 {
        dead += u32::from(cache.get(&format!("k{n}")).await.is_err());
    }
    assert!((1..100).contains(&dead), "{dead}: the others are served");
}

#[tokio::test]
async fn reads_of_a_dead_server_miss_and_others_are_served() {
    let Some((cache, _servers)) = without_the_owner(WhenDead::Miss).await else {
        return;
    };
    assert_eq!(cache.get("k0").await.unwrap(), None);
    assert!(!cache.add("k0", "v", Expiry::Never).await.unwrap());
    assert!(matches!(cache.delete("k0").await, Err(Error::Dead { .. })));
    let keys: Vec<_> = (0..100).map(|n| format!("k{n}")).collect();
    let found = cache.get_multi(&keys).await.unwrap().len();
    assert!((1..100).contains(&found), "{found}");
}

#[tokio::test]
async fn keys_of_a_dead_server_move_and_the_others_stay() {
    for policy in [WhenDead::Rehash, WhenDead::Eject] {
        let Some((cache, _servers)) = without_the_owner(policy).await else {
            return;
        };
        let (mut moved, mut stayed) = (0, 0);
        for n in 0..100 {
            let key = format!("k{n}");
            if cache.get(&key).await.unwrap().is_some() {
                stayed += 1;
            } else {
                moved += 1;
                cache.set(&key, "after", Expiry::Never).await.unwrap();
                assert_eq!(cache.get(&key).await.unwrap().unwrap().value, "after");
                assert!(cache.delete(&key).await.unwrap());
            }
        }
        assert!(moved > 0 && stayed > 0, "{policy:?}: {moved} {stayed}");
    }
}

#[tokio::test]
async fn the_gutter_takes_over_with_a_short_life_and_hears_of_deletes() {
    let (Some(mut main), Some(gutter)) = (Memcached::start(), Memcached::start()) else {
        return;
    };
    let limit = Duration::from_secs(10);
    let config = mortal(patient([main.address()])).with_gutter([gutter.address()], limit);
    let cache = Client::connect(config).await.unwrap();
    let aside = Client::connect(patient([gutter.address()])).await.unwrap();
    let hour = Expiry::After(Duration::from_secs(3600));
    cache.set("k", "main", hour).await.unwrap();
    assert_eq!(
        aside.get("k").await.unwrap(),
        None,
        "nothing goes there yet"
    );
    // A delete goes to both.
    aside.set("k", "old", hour).await.unwrap();
    assert!(cache.delete("k").await.unwrap());
    assert_eq!(aside.get("k").await.unwrap(), None);
    aside.set("k", "old", hour).await.unwrap();
    cache.invalidate("k", limit).await.unwrap();
    assert_eq!(aside.get("k").await.unwrap(), None);
    aside.flush_all().await.unwrap();

    cache.set("k", "main", hour).await.unwrap();
    let cas = cache.get("k").await.unwrap().unwrap().cas.unwrap();
    main.kill();
    until_known_dead(&cache, "k").await;
    for expiry in [hour, Expiry::Never] {
        cache.set("k", "aside", expiry).await.unwrap();
        let request = ibex_memcached_client::MetaRequest::get()
            .flag(b'v')
            .flag(b't');
        let there = aside.meta("k", &request).await.unwrap();
        assert_eq!(there.value, "aside");
        assert!(
            there.number(b't').is_some_and(|left| left <= 10),
            "{there:?}"
        );
    }
    assert_eq!(cache.get("k").await.unwrap().unwrap().value, "aside");
    // A number of the dead server means nothing in the gutter.
    let swap = cache.cas("k", "swapped", hour, cas).await;
    assert!(matches!(swap, Err(Error::Dead { .. })), "{swap:?}");
    // The gutter forgets, and the caller hears that the owner was not told.
    assert!(matches!(cache.delete("k").await, Err(Error::Dead { .. })));
    assert_eq!(aside.get("k").await.unwrap(), None);
    let states: Vec<_> = cache
        .metrics()
        .iter()
        .map(|m| (m.is_gutter, m.is_dead))
        .collect();
    assert_eq!(states, [(false, true), (true, false)]);
}

/// A server that lost its answers comes back: the first thing it is asked is `mn`, and no caller's request is lost to it before.
#[tokio::test]
async fn a_dead_server_is_probed_before_it_is_trusted() {
    let is_well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&is_well);
    let server =
        Scripted::start(
            move |line| match (told.load(std::sync::atomic::Ordering::SeqCst), line) {
                (false, _) => Act::Close,
                (true, "mn") => Act::Answer("MN\r\n"),
                (true, "version") => Act::Answer("VERSION 1.6.40\r\n"),
                (true, _) => Act::Answer("STORED\r\n"),
            },
        )
        .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_backoff(1, Duration::from_millis(1));
    let cache = Client::connect(config).await.unwrap();
    let unknown = cache.set("k", "v", Expiry::Never).await;
    assert!(
        matches!(unknown, Err(Error::OutcomeUnknown { .. })),
        "{unknown:?}"
    );
    // From here on nothing is sent but probes.
    let mut probes = 0;
    while probes < 5 {
        let set = cache.set("k", "v", Expiry::Never).await;
        assert!(matches!(set, Err(Error::Dead { .. })), "{set:?}");
        probes = server.lines().iter().filter(|line| *line == "mn").count();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = ["set k 0 0 1"];
    assert!(
        server
            .lines()
            .iter()
            .all(|line| line == "mn" || first.contains(&line.as_str()) || line == "v")
    );
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while cache.set("k", "v", Expiry::Never).await.is_err() {
        assert!(Instant::now() < deadline, "it is well and nobody noticed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let lines = server.lines();
    assert_eq!(
        lines[lines.len().saturating_sub(3)..][..2],
        ["mn", "set k 0 0 1"]
    );
}

/// One caller probes; those who ask meanwhile are told at once.
#[tokio::test]
async fn only_one_caller_waits_for_a_probe() {
    let server = Scripted::start(|line| match line {
        "mn" => Act::Silence,
        _ => Act::Close,
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_backoff(1, Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    assert!(cache.get("k").await.is_err());
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get("k").await }
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.lines().contains(&"mn".to_owned()) {
        assert!(Instant::now() < deadline, "nobody probes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..20 {
        assert!(matches!(cache.get("k").await, Err(Error::Dead { .. })));
    }
    assert_eq!(
        server.lines().iter().filter(|line| *line == "mn").count(),
        1
    );
    waiting.abort();
}

/// A server that stands still with its connections open: three calls wait for it, then nobody does, until it goes on.
#[tokio::test]
async fn a_stalled_server_costs_three_timeouts() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let config = |dead_for| {
        Config::new([server.address()])
            .with_operation_timeout(Duration::from_millis(300))
            .with_when_dead(WhenDead::Miss)
            .with_backoff(3, dead_for)
    };
    let steady = Client::connect(patient([server.address()])).await.unwrap();
    steady.set("k", "v", Expiry::Never).await.unwrap();
    let for_long = Client::connect(config(Duration::from_secs(600)))
        .await
        .unwrap();
    let for_short = Client::connect(config(Duration::from_millis(50)))
        .await
        .unwrap();
    server.signal("-STOP");
    let deadline = Instant::now() + Duration::from_secs(60);
    for cache in [&for_long, &for_short] {
        while cache.metrics()[0].deaths == 0 {
            assert_eq!(cache.get("k").await.unwrap(), None);
            assert!(
                Instant::now() < deadline,
                "it is waited for again and again"
            );
        }
    }
    for _ in 0..100 {
        assert_eq!(for_long.get("k").await.unwrap(), None);
    }
    let metrics = &for_long.metrics()[0];
    assert_eq!((metrics.failures, metrics.timeouts), (3, 3), "{metrics:?}");
    server.signal("-CONT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while for_short.get("k").await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on and nobody noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Through a proxy that breaks answers in every way: no call gets anything but its own answer or an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_answers_never_reach_another_call() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let proxy = Proxy::start(server.address().parse().unwrap()).unwrap();
    let config = Config::new([proxy.addr().to_string()])
        .with_operation_timeout(Duration::from_millis(300))
        .with_connect_timeout(Duration::from_secs(30))
        .with_connections_max(2)
        .with_protocol(Protocol::Meta)
        .with_backoff(u32::MAX, Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    let direct = Client::connect(patient([server.address()])).await.unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("key{n}")).collect();
    for key in &keys {
        let value = key.repeat(500);
        direct.set(key, &value, Expiry::Never).await.unwrap();
    }
    let faults = [
        Fault::CutAfter(1),
        Fault::CutAfter(700),
        Fault::CutAfter(5000),
        Fault::HalfCloseAfter(9),
        Fault::HalfCloseAfter(2600),
        Fault::Swallow,
        Fault::None,
    ];
    let mut broken = 0;
    for fault in faults {
        let down = Faults {
            up: Fault::None,
            down: fault,
        };
        proxy.set(down);
        proxy.cut_all();
        for key in keys.iter().take(4) {
            match cache.get(key).await {
                Ok(item) => assert!(item.unwrap().value == key.repeat(500), "{key} {fault:?}"),
                Err(error) => {
                    assert!(error.is_server_away(), "{error}");
                    broken += 1;
                }
            }
        }
    }
    assert!(broken >= 8, "{broken}: the faults were felt");
    proxy.set(Faults::default());
    proxy.cut_all();
    for key in &keys {
        // Slowness is an error like others here; a wrong value would be a bug.
        if let Ok(item) = cache.get(key).await {
            assert!(item.unwrap().value == key.repeat(500), "{key}");
        }
    }
}

/// Half an answer, then silence: the call ends at its deadline, and the next opens another connection.
#[tokio::test]
async fn a_connection_with_half_an_answer_is_closed() {
    let server = Scripted::start(|line| match line {
        "mg half v f c" => Act::Half("VA 10 f0 c1\r\nhal"),
        "mg garbage v f c" => Act::Answer("what\r\n"),
        "mg more v f c" => Act::Answer("EN\r\nVA 4 f0 c1\r\nmore\r\n"),
        _ => Act::Answer("EN\r\n"),
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_operation_timeout(Duration::from_secs(1))
        .with_backoff(u32::MAX, Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    for key in ["half", "garbage"] {
        connected(&cache).await;
        let before = server.accepted();
        let broken = cache.get(key).await;
        assert!(
            matches!(broken, Err(Error::Lost { .. })),
            "{key} {broken:?}"
        );
        assert_eq!(cache.metrics()[0].connections_idle, 0, "{key}");
        connected(&cache).await;
        assert!(server.accepted() > before, "{key}");
        // An answer with bytes behind it that nobody asked for.
        assert!(!matches!(cache.get("more").await, Ok(Some(_))), "{key}");
        assert_eq!(cache.metrics()[0].connections_idle, 0, "{key}");
    }
}

/// Answers cut at every byte, then the end of the connection: an error or the whole answer, for every kind of reply.
#[tokio::test]
async fn an_answer_cut_anywhere_is_an_error() {
    const ANSWERS: [(&str, &str); 5] = [
        ("mg k v f c", "VA 5 f3 c77\r\nhello\r\n"),
        ("mn", "VA 5 f3 c77 O0\r\nhello\r\nMN\r\n"),
        ("incr n 1", "1234\r\n"),
        ("delete k", "DELETED\r\n"),
        ("stats", "STAT pid 12\r\nSTAT uptime 345\r\nEND\r\n"),
    ];
    let cut = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let at = std::sync::Arc::clone(&cut);
    let server = Scripted::start(move |line| {
        let answer = ANSWERS.iter().find(|(request, _)| *request == line);
        let at = at.load(std::sync::atomic::Ordering::SeqCst);
        answer.map_or(Act::Silence, |(_, answer)| {
            Act::Last(answer.as_bytes().iter().copied().take(at).collect())
        })
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_backoff(u32::MAX, Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    let longest = ANSWERS
        .iter()
        .map(|(_, answer)| answer.len())
        .max()
        .unwrap();
    for bytes in 0..=longest {
        cut.store(bytes, std::sync::atomic::Ordering::SeqCst);
        let is_whole = |n: usize| bytes >= ANSWERS[n].1.len();
        let get = cache.get("k").await.ok().map(|item| item.unwrap());
        assert_eq!(get.is_some(), is_whole(0), "get at {bytes}");
        assert!(get.is_none_or(|item| item.value == "hello" && item.flags == 3));
        let many = cache.get_multi(&["k"]).await.ok();
        assert_eq!(many.is_some(), is_whole(1), "multi-get at {bytes}");
        assert!(many.is_none_or(|items| items[&b"k"[..]].value == "hello"));
        let incr = cache.incr("n", 1).await.ok();
        assert_eq!(incr, is_whole(2).then_some(Some(1234)), "incr at {bytes}");
        let deleted = cache.delete("k").await.ok();
        assert_eq!(deleted, is_whole(3).then_some(true), "delete at {bytes}");
        let stats = cache.stats("").await.ok();
        assert_eq!(stats.is_some(), is_whole(4), "stats at {bytes}");
    }
}
