//! Servers from before the meta commands: everything that can be done is done with the old ones.

use crate::fake::{Act, Old, Scripted};
use crate::server::{Memcached, patient};
use bytes::Bytes;
use ibex_memcached_client::{
    Client, Error, Expiry, LeaseOptions, Leased, MetaRequest, Protocol, Swap,
};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn is_meta(line: &str) -> bool {
    ["mg ", "ms ", "md ", "ma ", "mn"]
        .iter()
        .any(|command| line.starts_with(command))
}

async fn old(server: &Memcached) -> Old {
    Old::start(server.address().parse().unwrap()).await
}

#[tokio::test]
async fn an_old_server_is_asked_nothing_it_does_not_know() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let old = old(&server).await;
    let config = patient([old.address.clone()]).with_namespace("ns:");
    let cache = Client::connect(config).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), None);
    cache.set("k", "one", Expiry::Never).await.unwrap();
    let item = cache.get("k").await.unwrap().unwrap();
    assert_eq!(item.value, "one");
    let swap = cache.cas("k", "two", Expiry::Never, item.cas.unwrap());
    assert_eq!(swap.await.unwrap(), Swap::Stored);
    let swap = cache.cas("k", "three", Expiry::Never, item.cas.unwrap());
    assert_eq!(swap.await.unwrap(), Swap::Exists);
    let hour = Expiry::After(Duration::from_secs(3600));
    let item = cache.get_and_touch("k", hour).await.unwrap().unwrap();
    assert_eq!(item.value, "two");
    assert_eq!(cache.get_and_touch("absent", hour).await.unwrap(), None);
    // More than one line of keys.
    let keys: Vec<String> = (0..150).map(|n| format!("key{n}")).collect();
    for key in keys.iter().step_by(2) {
        cache.set(key, key, Expiry::Never).await.unwrap();
    }
    let items = cache.get_multi(&keys).await.unwrap();
    assert_eq!(items.len(), 75);
    assert!(items.iter().all(|(key, item)| *key == item.value));
    cache
        .invalidate("k", Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(cache.get("k").await.unwrap(), None);
    let raw = cache.meta("k", &MetaRequest::get().flag(b'v')).await;
    assert!(matches!(raw, Err(Error::Unsupported { .. })));
    let lines = old.lines();
    assert!(lines.iter().any(|line| line == "version"));
    assert!(!lines.iter().any(|line| is_meta(line)), "{lines:?}");
}

#[tokio::test]
async fn without_leases_everybody_who_misses_computes_and_the_first_value_stays() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let old = old(&server).await;
    let cache = Client::connect(patient([old.address.clone()]))
        .await
        .unwrap();
    let lease = || cache.lease("k", Duration::from_secs(10), None);
    let (Leased::Fill { ticket: first, .. }, Leased::Fill { ticket: second, .. }) =
        (lease().await.unwrap(), lease().await.unwrap())
    else {
        panic!("both compute");
    };
    let fill = |ticket, value| cache.fill("k", ticket, value, 7, Expiry::Never);
    assert!(fill(first, "first").await.unwrap());
    assert!(!fill(second, "second").await.unwrap());
    cache.give_back("k", second).await.unwrap();
    let Leased::Hit(item) = lease().await.unwrap() else {
        panic!("a value");
    };
    assert_eq!((&item.value[..], item.flags), (&b"first"[..], 7));
    let options = LeaseOptions::new(Duration::from_secs(60));
    let compute = || async { Ok::<_, Infallible>(Bytes::from_static(b"made")) };
    let made = cache.get_or_compute("other", options, compute).await;
    assert_eq!(made.unwrap(), "made");
    assert_eq!(cache.get("other").await.unwrap().unwrap().value, "made");
}

#[tokio::test]
async fn a_peer_that_tells_no_version_is_spoken_to_in_old_commands() {
    let proxy = Scripted::start(|line| match line {
        "version" => Act::Answer("ERROR\r\n"),
        "gets k" => Act::Answer("VALUE k 3 2 9\r\nhi\r\nEND\r\n"),
        _ => Act::Close,
    })
    .await;
    let cache = Client::connect(patient([proxy.address.clone()]))
        .await
        .unwrap();
    for _ in 0..3 {
        let item = cache.get("k").await.unwrap().unwrap();
        assert_eq!((&item.value[..], item.flags), (&b"hi"[..], 3));
    }
    // It is asked once.
    assert_eq!(proxy.lines(), ["version", "gets k", "gets k", "gets k"]);
}

#[tokio::test]
async fn old_commands_can_be_asked_for() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let old = old(&server).await;
    let config = patient([old.address.clone()]).with_protocol(Protocol::Classic);
    let cache = Client::connect(config).await.unwrap();
    cache.set("k", "v", Expiry::Never).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap().unwrap().value, "v");
    assert_eq!(old.lines(), ["set k 0 0 1", "v", "gets k"]);
}

/// A server is replaced by another version while nobody looks, up and down.
#[tokio::test]
async fn a_server_that_was_replaced_is_asked_again() {
    let is_old = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_old);
    let server = Scripted::start(move |line| match (told.load(Ordering::SeqCst), line) {
        (false, "version") => Act::Answer("VERSION 1.6.40\r\n"),
        (false, "mg k v f c") => Act::Last(b"EN\r\n".to_vec()),
        (true, "version") => Act::Answer("VERSION 1.4.15\r\n"),
        (true, "gets k") => Act::Last(b"END\r\n".to_vec()),
        _ => Act::Answer("ERROR\r\n"),
    })
    .await;
    let config = patient([server.address.clone()]).with_backoff(u32::MAX, Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    for round in 0..6 {
        is_old.store(round % 2 == 1, Ordering::SeqCst);
        // The end of the old connection may be seen only when the request is on it: that costs this call.
        if let Err(error) = cache.get("k").await {
            assert!(error.is_server_away(), "{round}: {error}");
        }
    }
    // Every answer that came was to a request of the right kind: an ERROR would have been a refusal, which is no server away.
    let lines = server.lines();
    let asked = |what: &str| lines.iter().filter(|line| *line == what).count();
    assert!(asked("version") >= 2, "{lines:?}");
    assert!(asked("mg k v f c") > 0 && asked("gets k") > 0, "{lines:?}");
}

/// Where two commands were sent together, the refusal of one leaves nothing behind for the next call.
#[tokio::test]
async fn a_refused_half_of_a_request_is_answered_in_full() {
    let server = Scripted::start(|line| match line {
        "version" => Act::Answer("VERSION 1.4.4\r\n"),
        "touch k 60" => Act::Answer("ERROR\r\n"),
        "gets k" => Act::Answer("VALUE k 0 1 7\r\nv\r\nEND\r\n"),
        "gets last" => Act::Answer("VALUE last 0 4 8\r\nlast\r\nEND\r\n"),
        line if line.starts_with("gets key0 ") => Act::Answer("SERVER_ERROR busy\r\n"),
        _ => Act::Answer("END\r\n"),
    })
    .await;
    let config = patient([server.address.clone()]).with_connections_max(1);
    let cache = Client::connect(config).await.unwrap();
    let minute = Expiry::After(Duration::from_secs(60));
    let keys: Vec<String> = (0..150).map(|n| format!("key{n}")).collect();
    for _ in 0..5 {
        let touched = cache.get_and_touch("k", minute).await;
        assert!(matches!(touched, Err(Error::Refused { .. })), "{touched:?}");
        assert_eq!(cache.get("last").await.unwrap().unwrap().value, "last");
        let many = cache.get_multi(&keys).await;
        assert!(matches!(many, Err(Error::Refused { .. })), "{many:?}");
        assert_eq!(cache.get("last").await.unwrap().unwrap().value, "last");
    }
    assert_eq!(server.accepted(), 1);
}
