//! Every operation once, and many keys over many servers.

use crate::server::{Memcached, patient};
use ibex_memcached_client::{Client, Error, Expiry, LeaseOptions, MetaRequest, Swap};
use std::time::Duration;

#[tokio::test]
async fn every_operation() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let cache = Client::connect(patient([server.address()])).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), None);
    assert!(!cache.replace("k", "x", Expiry::Never).await.unwrap());
    cache.set("k", "one", Expiry::Never).await.unwrap();
    assert!(!cache.add("k", "x", Expiry::Never).await.unwrap());
    let item = cache.get("k").await.unwrap().unwrap();
    assert_eq!((&item.value[..], item.flags), (&b"one"[..], 0));
    assert_eq!(
        cache
            .cas("k", "two", Expiry::Never, item.cas.unwrap())
            .await
            .unwrap(),
        Swap::Stored
    );
    assert_eq!(
        cache
            .cas("k", "three", Expiry::Never, item.cas.unwrap())
            .await
            .unwrap(),
        Swap::Exists
    );
    assert_eq!(
        cache
            .cas("absent", "three", Expiry::Never, 1_u64)
            .await
            .unwrap(),
        Swap::NotFound
    );
    assert!(cache.append("k", "!").await.unwrap());
    assert!(cache.prepend("k", "<").await.unwrap());
    assert!(!cache.append("absent", "!").await.unwrap());
    assert_eq!(cache.get("k").await.unwrap().unwrap().value, "<two!");
    assert!(
        cache
            .touch("k", Expiry::After(Duration::from_secs(60)))
            .await
            .unwrap()
    );
    assert!(
        cache
            .get_and_touch("k", Expiry::Never)
            .await
            .unwrap()
            .is_some()
    );
    assert!(cache.delete("k").await.unwrap());
    assert!(!cache.delete("k").await.unwrap());
    assert_eq!(cache.incr("n", 5).await.unwrap(), None);
    cache.set("n", "10", Expiry::Never).await.unwrap();
    assert_eq!(cache.incr("n", 5).await.unwrap(), Some(15));
    assert_eq!(cache.decr("n", 50).await.unwrap(), Some(0));
    assert!(matches!(cache.get("bad key").await, Err(Error::Key)));
    cache.set("word", "abc", Expiry::Never).await.unwrap();
    assert!(matches!(
        cache.incr("word", 1).await,
        Err(Error::Refused { .. })
    ));
    cache.flush_all().await.unwrap();
    assert_eq!(cache.get("n").await.unwrap(), None);
    assert_eq!(cache.version().await.unwrap().len(), 1);
    assert!(cache.stats("").await.unwrap()[&server.address()].contains_key("curr_items"));
}

#[tokio::test]
async fn multi_get_gathers_from_every_server() {
    let servers: Vec<_> = (0..3).filter_map(|_| Memcached::start()).collect();
    if servers.is_empty() {
        return;
    }
    let cache = Client::connect(patient(servers.iter().map(Memcached::address)))
        .await
        .unwrap();
    let keys: Vec<String> = (0..1000).map(|n| format!("key:{n}")).collect();
    for key in keys.iter().step_by(2) {
        cache.set(key, key, Expiry::Never).await.unwrap();
    }
    let items = cache.get_multi(&keys).await.unwrap();
    assert_eq!(items.len(), 500);
    assert!(items.iter().all(|(key, item)| *key == item.value));
    for (name, stats) in cache.stats("").await.unwrap() {
        assert_ne!(stats["curr_items"], "0", "{name} holds nothing");
    }
}

#[tokio::test]
async fn values_of_one_owner_stay_on_one_server() {
    let servers: Vec<_> = (0..3).filter_map(|_| Memcached::start()).collect();
    if servers.is_empty() {
        return;
    }
    let cache = Client::connect(patient(servers.iter().map(Memcached::address)))
        .await
        .unwrap();
    for n in 0..100 {
        cache
            .set_by("user42", format!("thing{n}"), "x", Expiry::Never)
            .await
            .unwrap();
    }
    let stats = cache.stats("").await.unwrap();
    let mut counts: Vec<_> = stats
        .values()
        .map(|stats| stats["curr_items"].as_str())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, ["0", "0", "100"]);
    let pairs: Vec<_> = (0..100).map(|n| ("user42", format!("thing{n}"))).collect();
    assert_eq!(cache.get_multi_by(&pairs).await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_server_on_a_unix_socket() {
    let Some((_server, path)) = Memcached::start_on_socket() else {
        return;
    };
    for text in [format!("unix:{path}"), path] {
        let cache = Client::connect(patient([text])).await.unwrap();
        cache.set("k", "v", Expiry::Never).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, "v");
        let stats = cache.stats("").await.unwrap();
        assert!(stats.keys().all(|name| name.starts_with("unix:/")));
    }
}

#[tokio::test]
async fn large_pipelines_do_not_deadlock() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let config = patient([server.address()]);
    let cache = Client::connect(config).await.unwrap();
    let value = vec![b'x'; 500_000];
    let keys: Vec<String> = (0..40).map(|n| format!("big{n}")).collect();
    for key in &keys {
        cache.set(key, &value, Expiry::Never).await.unwrap();
    }
    let asked: Vec<&String> = keys.iter().cycle().take(400).collect();
    assert_eq!(cache.get_multi(&asked).await.unwrap().len(), 40);
}

/// Every call can be made in a task of a runtime with many threads.
#[tokio::test]
async fn calls_are_send() {
    fn is_send<T: Send>(_: &T) {}
    let cache = Client::connect(patient(["127.0.0.1:1"])).await.unwrap();
    let (span, request) = (Duration::from_secs(1), MetaRequest::get());
    let options = LeaseOptions::new(span);
    let value = || std::future::ready(Ok::<_, std::io::Error>("v".into()));
    is_send(&cache.get("k"));
    is_send(&cache.get_multi(&["k"]));
    is_send(&cache.get_and_touch("k", Expiry::Never));
    is_send(&cache.set("k", "v", Expiry::Never));
    is_send(&cache.cas("k", "v", Expiry::Never, 1_u64));
    is_send(&cache.incr("k", 1));
    is_send(&cache.touch("k", Expiry::Never));
    is_send(&cache.delete("k"));
    is_send(&cache.lease("k", span, None));
    is_send(&cache.get_or_compute("k", options, value));
    is_send(&cache.invalidate("k", span));
    is_send(&cache.meta("k", &request));
    is_send(&cache.set_json("k", &1, Expiry::Never));
    is_send(&cache.get_json::<u8>("k"));
    is_send(&cache.flush_all());
    is_send(&cache.version());
    is_send(&cache.stats(""));
}
