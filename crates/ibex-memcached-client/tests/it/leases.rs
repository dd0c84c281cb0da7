//! One computation for many callers, and no outdated value stored after an invalidation.

use crate::server::Memcached;
use bytes::Bytes;
use ibex_memcached_client::{Client, Config, Expiry, LeaseOptions, Leased, Stale};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn options() -> LeaseOptions {
    LeaseOptions {
        waits_max: 30,
        ..LeaseOptions::new(Duration::from_secs(60))
    }
}

/// 200 callers in ten clients (as in ten processes) ask for one missing key whose origin is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_make_one_computation() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let computed = Arc::new(AtomicU32::new(0));
    let mut callers = Vec::new();
    for _ in 0..10 {
        let config = Config::new([server.address()]).with_operation_timeout(Duration::from_secs(5));
        let cache = Client::connect(config).await.unwrap();
        for _ in 0..20 {
            let (cache, computed) = (cache.clone(), Arc::clone(&computed));
            callers.push(tokio::spawn(async move {
                let compute = || async {
                    computed.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok::<_, Infallible>(Bytes::from_static(b"value"))
                };
                cache
                    .get_or_compute("popular", options(), compute)
                    .await
                    .unwrap()
            }));
        }
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "value");
    }
    assert_eq!(computed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_value_computed_before_an_invalidation_is_not_stored() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let cache = Client::connect(Config::new([server.address()]))
        .await
        .unwrap();
    let lease = Duration::from_secs(30);
    let Leased::Fill { ticket, old } = cache.lease("k", lease, None).await.unwrap() else {
        panic!("first reader wins")
    };
    assert_eq!(old, None);
    assert_eq!(
        cache.lease("k", lease, None).await.unwrap(),
        Leased::Busy { old: None }
    );
    cache
        .invalidate("k", Duration::from_secs(30))
        .await
        .unwrap();
    assert!(
        !cache
            .fill("k", ticket, "outdated", 0, Expiry::Never)
            .await
            .unwrap()
    );
    let Leased::Fill { ticket, .. } = cache.lease("k", lease, None).await.unwrap() else {
        panic!("next reader wins")
    };
    assert!(
        cache
            .fill("k", ticket, "fresh", 7, Expiry::Never)
            .await
            .unwrap()
    );
    let Leased::Hit(item) = cache.lease("k", lease, None).await.unwrap() else {
        panic!("a hit")
    };
    assert_eq!((&item.value[..], item.flags), (&b"fresh"[..], 7));
    let Leased::Hit(_) = cache.lease("k", lease, None).await.unwrap() else {
        panic!("a hit")
    };
    cache.delete("k").await.unwrap();
    assert!(
        !cache
            .fill("k", ticket, "outdated", 0, Expiry::Never)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn outdated_values_are_served_only_where_allowed() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let cache = Client::connect(Config::new([server.address()]))
        .await
        .unwrap();
    cache.set("k", "old", Expiry::Never).await.unwrap();
    cache
        .invalidate("k", Duration::from_secs(30))
        .await
        .unwrap();
    let Leased::Fill { old, .. } = cache
        .lease("k", Duration::from_secs(30), None)
        .await
        .unwrap()
    else {
        panic!("wins")
    };
    assert_eq!(old.unwrap().value, "old");
    let compute = || async { Ok::<_, Infallible>(Bytes::from_static(b"new")) };
    assert_eq!(
        cache.get_or_compute("k", options(), compute).await.unwrap(),
        "old"
    );
    let strict = LeaseOptions {
        waits_max: 2,
        stale: Stale::Refused,
        ..options()
    };
    assert_eq!(
        cache.get_or_compute("k", strict, compute).await.unwrap(),
        "new"
    );
}

#[tokio::test]
async fn a_dropped_caller_does_not_hold_the_others() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let cache = Client::connect(Config::new([server.address()]))
        .await
        .unwrap();
    let forever = || std::future::pending::<Result<Bytes, Infallible>>();
    let first = cache.get_or_compute("k", options(), forever);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), first)
            .await
            .is_err()
    );
    let few = LeaseOptions {
        waits_max: 1,
        ..options()
    };
    let compute = || async { Ok::<_, Infallible>(Bytes::from_static(b"mine")) };
    assert_eq!(
        cache.get_or_compute("k", few, compute).await.unwrap(),
        "mine"
    );
}

#[tokio::test]
async fn a_cache_that_is_away_does_not_fail_the_call() {
    let cache = Client::connect(Config::new(["127.0.0.1:1"])).await.unwrap();
    let compute = || async { Ok::<_, Infallible>(Bytes::from_static(b"mine")) };
    assert_eq!(
        cache.get_or_compute("k", options(), compute).await.unwrap(),
        "mine"
    );
}
