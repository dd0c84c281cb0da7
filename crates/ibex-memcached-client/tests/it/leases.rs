//! One computation for many callers, and no outdated value stored after an invalidation; against the original and ours.

use crate::server::{Memcached, patient};
use bytes::Bytes;
use futures_util::future::join_all;
use ibex_memcached_client::{Client, Config, Expiry, LeaseOptions, Leased, Stale, WhenGone};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Barrier, Notify};

/// Longer than any test, so that only what the test does ends a lease or makes a caller compute for himself.
const LONG: Duration = Duration::from_secs(600);

fn options() -> LeaseOptions {
    LeaseOptions {
        lease: LONG,
        wait_max: LONG,
        ..LeaseOptions::new(LONG)
    }
}

async fn client(server: &Memcached) -> Client {
    Client::connect(patient([server.address()])).await.unwrap()
}

async fn clients(server: &Memcached, count: usize) -> Vec<Client> {
    join_all((0..count).map(|_| client(server))).await
}

fn ready(value: &'static str) -> impl Fn() -> std::future::Ready<Result<Bytes, Infallible>> + Copy {
    move || std::future::ready(Ok(Bytes::from_static(value.as_bytes())))
}

/// 200 callers in ten clients (as in ten processes) ask for one missing key whose origin is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_make_one_computation() {
    for server in Memcached::each() {
        let computed = Arc::new(AtomicU32::new(0));
        let mut callers = Vec::new();
        for cache in clients(&server, 10).await {
            for _ in 0..20 {
                let (cache, computed) = (cache.clone(), Arc::clone(&computed));
                callers.push(tokio::spawn(async move {
                    let compute = || async {
                        computed.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(800)).await;
                        Ok::<_, Infallible>(Bytes::from_static(b"value"))
                    };
                    let value = cache.get_or_compute("popular", options(), compute);
                    value.await.unwrap()
                }));
            }
        }
        for caller in callers {
            assert_eq!(caller.await.unwrap(), "value");
        }
        assert_eq!(computed.load(Ordering::SeqCst), 1);
    }
}

/// 64 clients ask at once, again and again, for keys that are missing, outdated, or due for a refresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_clients_exactly_one_wins() {
    const ROUNDS: usize = 30;
    for server in Memcached::each() {
        let caches = clients(&server, 64).await;
        for round in 0..ROUNDS {
            let key = format!("key {round}").replace(' ', "-");
            let refresh = match round % 3 {
                0 => None,
                1 => {
                    caches[0].set(&key, "old", Expiry::Never).await.unwrap();
                    caches[0].invalidate(&key, LONG).await.unwrap();
                    None
                }
                _ => {
                    let expiry = Expiry::After(LONG);
                    caches[0].set(&key, "old", expiry).await.unwrap();
                    Some(LONG * 2)
                }
            };
            let start = Arc::new(Barrier::new(caches.len()));
            let readers: Vec<_> = caches
                .iter()
                .map(|cache| {
                    let (cache, start, key) = (cache.clone(), Arc::clone(&start), key.clone());
                    tokio::spawn(async move {
                        start.wait().await;
                        cache.lease(&key, LONG, refresh).await.unwrap()
                    })
                })
                .collect();
            let found = join_all(readers).await.into_iter().map(Result::unwrap);
            let winners = found.filter(|found| matches!(found, Leased::Fill { .. }));
            assert_eq!(winners.count(), 1, "round {round}");
        }
    }
}

/// The origin counts versions. A writer raises the version and invalidates; readers compute all the time, slowly. What the cache then gives as current
/// must never be older than the version of the last invalidation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outdated_value_is_stored_after_an_invalidation() {
    const VERSIONS: u64 = 100;
    for server in Memcached::each() {
        let caches = clients(&server, 6).await;
        let origin = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..24)
            .map(|n| {
                let (cache, origin, over) = (
                    caches[n % 4].clone(),
                    Arc::clone(&origin),
                    Arc::clone(&over),
                );
                tokio::spawn(async move {
                    // Waits run out now and then: who computes without a lease must not store either.
                    let options = LeaseOptions {
                        wait: Duration::from_millis(2),
                        wait_max: Duration::from_millis(if n % 2 == 0 { 5 } else { 60_000 }),
                        stale: if n % 3 == 0 {
                            Stale::Served
                        } else {
                            Stale::Refused
                        },
                        ..options()
                    };
                    while !over.load(Ordering::SeqCst) {
                        let compute = || async {
                            let version = origin.load(Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(3)).await;
                            Ok::<_, Infallible>(Bytes::from(version.to_string()))
                        };
                        cache.get_or_compute("k", options, compute).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let (writer, judge) = (&caches[4], &caches[5]);
        let mut hits = 0;
        for version in 1..=VERSIONS {
            origin.store(version, Ordering::SeqCst);
            if version % 5 == 0 {
                writer.delete("k").await.unwrap();
            } else {
                writer.invalidate("k", LONG).await.unwrap();
            }
            for _ in 0..10 {
                match judge.lease("k", LONG, None).await.unwrap() {
                    Leased::Hit(item) => {
                        let found: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
                        assert!(
                            found >= version,
                            "{found} after the invalidation of {version}"
                        );
                        hits += 1;
                    }
                    // The readers are to fill it, not the judge.
                    Leased::Fill { ticket, .. } => judge.give_back("k", ticket).await.unwrap(),
                    Leased::Busy { .. } => {}
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            writer.delete("k").await.unwrap();
        }
        over.store(true, Ordering::SeqCst);
        writer.delete("k").await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
        assert!(hits > 0, "nothing was ever stored");
    }
}

#[tokio::test]
async fn a_value_computed_before_an_invalidation_is_not_stored() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        let Leased::Fill { ticket, old } = cache.lease("k", LONG, None).await.unwrap() else {
            panic!("first reader wins")
        };
        assert_eq!(old, None);
        assert_eq!(
            cache.lease("k", LONG, None).await.unwrap(),
            Leased::Busy { old: None }
        );
        cache.invalidate("k", LONG).await.unwrap();
        let fill = |ticket, value| cache.fill("k", ticket, value, 7, Expiry::Never);
        assert!(!fill(ticket, "outdated").await.unwrap());
        let Leased::Fill { ticket, .. } = cache.lease("k", LONG, None).await.unwrap() else {
            panic!("next reader wins")
        };
        assert!(fill(ticket, "fresh").await.unwrap());
        for _ in 0..2 {
            let Leased::Hit(item) = cache.lease("k", LONG, None).await.unwrap() else {
                panic!("a hit")
            };
            assert_eq!((&item.value[..], item.flags), (&b"fresh"[..], 7));
        }
        cache.delete("k").await.unwrap();
        assert!(!fill(ticket, "outdated").await.unwrap());
    }
}

#[tokio::test]
async fn outdated_values_are_served_only_where_allowed() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        cache.set("k", "old", Expiry::Never).await.unwrap();
        cache.invalidate("k", LONG).await.unwrap();
        let Leased::Fill { old, ticket } = cache.lease("k", LONG, None).await.unwrap() else {
            panic!("wins")
        };
        assert_eq!(old.unwrap().value, "old");
        let served = cache.get_or_compute("k", options(), ready("new")).await;
        assert_eq!(served.unwrap(), "old");
        let strict = LeaseOptions {
            wait_max: Duration::ZERO,
            ..options().without_stale()
        };
        let computed = cache.get_or_compute("k", strict, ready("new")).await;
        assert_eq!(computed.unwrap(), "new");
        // It did not have the lease, so it did not store.
        assert!(
            cache
                .fill("k", ticket, "newest", 0, Expiry::Never)
                .await
                .unwrap()
        );
        let stored = cache.get_or_compute("k", strict, ready("new")).await;
        assert_eq!(stored.unwrap(), "newest");
    }
}

/// The caller who computes is held up; others of the same process take the outdated value meanwhile.
#[tokio::test]
async fn nobody_waits_for_a_computation_when_an_outdated_value_will_do() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        cache.set("k", "old", Expiry::Never).await.unwrap();
        cache.invalidate("k", LONG).await.unwrap();
        let (begun, go_on) = (Notify::new(), Notify::new());
        let compute = || async {
            begun.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(Bytes::from_static(b"new"))
        };
        let first = cache.get_or_compute("k", options(), compute);
        let others = async {
            begun.notified().await;
            for _ in 0..3 {
                let served = cache
                    .get_or_compute("k", options(), ready("not called"))
                    .await;
                assert_eq!(served.unwrap(), "old");
            }
            go_on.notify_one();
        };
        let (first, ()) = tokio::join!(first, others);
        assert_eq!(first.unwrap(), "new");
        let after = cache
            .get_or_compute("k", options(), ready("not called"))
            .await;
        assert_eq!(after.unwrap(), "new");
    }
}

/// Callers that overlap without end still see what another process stores: they share one answer only while it is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_callers_see_a_new_value() {
    for server in Memcached::each() {
        let (cache, elsewhere) = (client(&server).await, client(&server).await);
        elsewhere.set("k", "one", Expiry::Never).await.unwrap();
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move {
                    let give_up = tokio::time::Instant::now() + Duration::from_secs(60);
                    while cache
                        .get_or_compute("k", options(), ready("not called"))
                        .await
                        .unwrap()
                        != "two"
                    {
                        assert!(tokio::time::Instant::now() < give_up, "the old value stays");
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        elsewhere.set("k", "two", Expiry::Never).await.unwrap();
        for caller in callers {
            caller.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_failed_computation_gives_the_lease_back() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        for has_old in [false, true] {
            if has_old {
                cache.set("k", "old", Expiry::Never).await.unwrap();
                cache.invalidate("k", LONG).await.unwrap();
            }
            let fails = || std::future::ready(Err::<Bytes, &str>("the origin is away"));
            assert!(cache.get_or_compute("k", options(), fails).await.is_err());
            let next = cache
                .get_or_compute("k", options().without_stale(), ready("new"))
                .await;
            assert_eq!(next.unwrap(), "new");
            assert_eq!(cache.get("k").await.unwrap().unwrap().value, "new");
            cache.delete("k").await.unwrap();
        }
    }
}

/// A lease that was lost meanwhile is not given back in somebody else's name.
#[tokio::test]
async fn giving_back_touches_only_ones_own_lease() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        let Leased::Fill { ticket, .. } = cache.lease("k", LONG, None).await.unwrap() else {
            panic!("first reader wins")
        };
        cache
            .set("k", "stored meanwhile", Expiry::Never)
            .await
            .unwrap();
        cache.give_back("k", ticket).await.unwrap();
        assert_eq!(
            cache.get("k").await.unwrap().unwrap().value,
            "stored meanwhile"
        );
    }
}

#[tokio::test]
async fn plain_reads_take_neither_placeholders_nor_outdated_values() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        cache.lease("computed", LONG, None).await.unwrap();
        cache.set("outdated", "old", Expiry::Never).await.unwrap();
        cache.invalidate("outdated", LONG).await.unwrap();
        cache.set("empty", "", Expiry::Never).await.unwrap();
        let found = cache
            .get_multi(&["computed", "outdated", "empty"])
            .await
            .unwrap();
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            [&Bytes::from_static(b"empty")]
        );
        for key in ["computed", "outdated"] {
            assert_eq!(cache.get(key).await.unwrap(), None);
        }
        assert_eq!(cache.get("empty").await.unwrap().unwrap().value, "");
    }
}

#[tokio::test]
async fn a_dropped_caller_does_not_hold_the_others() {
    for server in Memcached::each() {
        let cache = client(&server).await;
        let begun = Notify::new();
        let forever = || async {
            begun.notify_one();
            std::future::pending::<Result<Bytes, Infallible>>().await
        };
        tokio::select! {
            _ = cache.get_or_compute("k", options(), forever) => panic!("it has no end"),
            () = begun.notified() => {}
        }
        let short = LeaseOptions {
            wait_max: Duration::from_millis(1),
            ..options()
        };
        let mine = cache.get_or_compute("k", short, ready("mine")).await;
        assert_eq!(mine.unwrap(), "mine");
    }
}

#[tokio::test]
async fn a_value_whose_key_is_gone_is_stored_only_where_that_is_allowed() {
    for server in Memcached::each() {
        let (cache, other) = (client(&server).await, client(&server).await);
        for (when_gone, stored) in [(WhenGone::Dropped, false), (WhenGone::Stored, true)] {
            let options = LeaseOptions {
                when_gone,
                ..options()
            };
            // The placeholder goes while the value is made, as it does when the lease runs out.
            let slow = || async {
                assert!(other.delete("k").await.unwrap());
                Ok::<_, Infallible>(Bytes::from_static(b"late"))
            };
            let made = cache.get_or_compute("k", options, slow).await;
            assert_eq!(made.unwrap(), "late");
            assert_eq!(other.get("k").await.unwrap().is_some(), stored);
            other.delete("k").await.unwrap();
            // What was stored meanwhile stays in any case.
            let overtaken = || async {
                other.set("k", "younger", Expiry::Never).await.unwrap();
                Ok::<_, Infallible>(Bytes::from_static(b"late"))
            };
            cache.get_or_compute("k", options, overtaken).await.unwrap();
            assert_eq!(other.get("k").await.unwrap().unwrap().value, "younger");
            other.delete("k").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_cache_that_is_away_does_not_fail_the_call() {
    let cache = Client::connect(Config::new(["127.0.0.1:1"])).await.unwrap();
    let computed = cache.get_or_compute("k", options(), ready("mine")).await;
    assert_eq!(computed.unwrap(), "mine");
}
