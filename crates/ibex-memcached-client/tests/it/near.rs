//! The near cache beside real servers: what it saves, and that what it gives is never older than it may be.

use crate::fake::{Act, Scripted};
use crate::server::{Memcached, patient};
use ibex_memcached_client::{Client, Config, Expiry, NearCache, Protocol};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

/// Keeps a copy of what was read before, however long ago within ten minutes.
fn keeping(server: &str, age_max: Duration) -> Config {
    let near = NearCache::new(1 << 20)
        .with_age_max(age_max)
        .with_admission(LONG, 1);
    patient([server]).with_near_cache(near)
}

async fn gets_at(server: &Client) -> u64 {
    let stats = server.stats("").await.unwrap();
    let stats = stats.into_values().next().unwrap();
    stats["cmd_get"].parse().unwrap()
}

#[tokio::test]
async fn a_hot_key_is_read_once() {
    for server in Memcached::each() {
        let cache = Client::connect(keeping(&server.address(), LONG))
            .await
            .unwrap();
        let other = Client::connect(patient([server.address()])).await.unwrap();
        cache.set("k", "v", Expiry::Never).await.unwrap();
        // The first read makes it one that was read before, the second keeps it.
        for _ in 0..2 {
            assert_eq!(cache.get("k").await.unwrap().unwrap().value, "v");
        }
        let before = gets_at(&other).await;
        for _ in 0..100 {
            assert_eq!(cache.get("k").await.unwrap().unwrap().value, "v");
            let items = cache.get_multi(&["k"]).await.unwrap();
            assert_eq!(items[&b"k"[..]].value, "v");
        }
        assert_eq!(gets_at(&other).await, before);
        let metrics = cache.near_metrics().unwrap();
        assert_eq!((metrics.hits, metrics.items), (200, 1));
        // What was written here is seen here at once.
        cache.set("k", "new", Expiry::Never).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, "new");
        cache.get("k").await.unwrap();
        cache.delete("k").await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_old_copy_is_confirmed_or_replaced() {
    for server in Memcached::each() {
        let cache = Client::connect(keeping(&server.address(), Duration::ZERO))
            .await
            .unwrap();
        let other = Client::connect(patient([server.address()])).await.unwrap();
        let value = vec![b'x'; 10_000];
        cache.set("k", &value, Expiry::Never).await.unwrap();
        for _ in 0..10 {
            assert_eq!(cache.get("k").await.unwrap().unwrap().value, value);
        }
        assert_eq!(cache.near_metrics().unwrap().hits, 0);
        other.set("k", "changed", Expiry::Never).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, "changed");
        other.invalidate("k", LONG).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), None, "it is outdated");
        other.set("k", "again", Expiry::Never).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, "again");
        other.delete("k").await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), None);
        assert_eq!(cache.near_metrics().unwrap().items, 0);
    }
}

/// A writer and readers in one process, copies that would be good for ten minutes: what was written is read by everybody who asks after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn own_writes_are_read_at_once() {
    const WRITES: u64 = 400;
    for server in Memcached::each() {
        let cache = Client::connect(keeping(&server.address(), LONG))
            .await
            .unwrap();
        cache.set("k", "0", Expiry::Never).await.unwrap();
        let written = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..6)
            .map(|n| {
                let (cache, written) = (cache.clone(), Arc::clone(&written));
                tokio::spawn(async move {
                    loop {
                        let before = written.load(Ordering::SeqCst);
                        let item = if n % 2 == 0 {
                            cache.get("k").await.unwrap()
                        } else {
                            cache.get_multi(&["k"]).await.unwrap().remove(&b"k"[..])
                        };
                        let text = String::from_utf8(item.unwrap().value.to_vec()).unwrap();
                        let read: u64 = text.parse().unwrap();
                        assert!(read >= before, "{read} was read after {before} was written");
                        if before == WRITES {
                            return;
                        }
                        // Copies answer without waiting, so others get their turn here.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for n in 1..=WRITES {
            cache.set("k", n.to_string(), Expiry::Never).await.unwrap();
            written.store(n, Ordering::SeqCst);
        }
        for reader in readers {
            reader.await.unwrap();
        }
        assert!(
            cache.near_metrics().unwrap().kept > 0,
            "copies were in play"
        );
    }
}

#[tokio::test]
async fn a_confirmation_carries_no_value() {
    let server = Scripted::start(|line| match line {
        "mg k v f c h l t" => Act::Answer("VA 2 f3 c9 h1 l0 t-1\r\nhi\r\n"),
        "mg k v f c h l t C9" => Act::Answer("HD f3 c9 h1 l0 t-1\r\n"),
        _ => Act::Close,
    })
    .await;
    let config = keeping(&server.address, Duration::ZERO).with_protocol(Protocol::Meta);
    let cache = Client::connect(config).await.unwrap();
    for _ in 0..5 {
        let item = cache.get("k").await.unwrap().unwrap();
        assert_eq!((&item.value[..], item.flags), (&b"hi"[..], 3));
    }
    assert_eq!(cache.near_metrics().unwrap().confirmed, 4);
    let confirmations = server
        .lines()
        .into_iter()
        .filter(|line| line.ends_with("C9"));
    assert_eq!(confirmations.count(), 4);
}

#[tokio::test]
async fn only_what_is_hot_is_kept() {
    let server = Scripted::start(|line| match line {
        "mg idle v f c h l t" => Act::Answer("VA 2 f0 c1 h1 l5 t-1\r\nhi\r\n"),
        "mg new v f c h l t" => Act::Answer("VA 2 f0 c1 h0 l0 t-1\r\nhi\r\n"),
        _ => Act::Close,
    })
    .await;
    let near = NearCache::new(1 << 20).with_admission(Duration::from_secs(1), 1);
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_near_cache(near);
    let cache = Client::connect(config).await.unwrap();
    for key in ["idle", "new", "idle", "new"] {
        assert_eq!(cache.get(key).await.unwrap().unwrap().value, "hi");
    }
    assert_eq!(cache.near_metrics().unwrap().items, 0);
}
