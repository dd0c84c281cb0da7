//! Connections: how many, who gets one, and what is counted.

use crate::fake::{Act, Scripted};
use crate::server::{Memcached, patient};
use futures_util::future::join_all;
use ibex_memcached_client::{Client, Error, Expiry, Protocol};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::Field;
use tracing::{Event, Metadata, Subscriber, span};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_never_opens_more_than_its_maximum() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let config = patient([server.address()]).with_connections_max(3);
    let cache = Client::connect(config).await.unwrap();
    let calls = (0..200).map(|n| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let key = format!("k{n}");
            cache.set(&key, "v", Expiry::Never).await.unwrap();
            cache.get(&key).await.unwrap().unwrap()
        })
    });
    for call in join_all(calls).await {
        assert_eq!(call.unwrap().value, "v");
    }
    let metrics = &cache.metrics()[0];
    assert!(metrics.connects <= 3, "{metrics:?}");
    assert_eq!((metrics.operations, metrics.failures), (400, 0));
    assert_eq!((metrics.connections_busy, metrics.callers_waiting), (0, 0));
    assert!(metrics.sent_bytes > 400 * 5 && metrics.received_bytes > 400 * 5);
    assert!(metrics.elapsed >= metrics.waited);
}

#[tokio::test]
async fn the_minimum_is_open_before_the_first_call_and_stays() {
    let server = Scripted::start(|_| Act::Answer("EN\r\n")).await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_connections_min(2)
        .with_idle_for(Duration::ZERO);
    let cache = Client::connect(config).await.unwrap();
    assert_eq!(cache.metrics()[0].connections_idle, 2);
    join_all((0..8).map(|_| cache.get("k"))).await;
    // Those beyond it were closed when they were put back.
    let metrics = &cache.metrics()[0];
    assert_eq!(metrics.connections_idle, 2, "{metrics:?}");
    assert_eq!(server.accepted() as u64, metrics.connects);
}

#[tokio::test]
async fn callers_are_served_in_the_order_they_came() {
    let server = Scripted::start(|_| Act::Answer("EN\r\n")).await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_connections_max(1);
    let cache = Client::connect(config).await.unwrap();
    // The futures of a join are first polled in order.
    let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    for found in join_all(keys.iter().map(|key| cache.get(key))).await {
        assert_eq!(found.unwrap(), None);
    }
    let asked: Vec<String> = keys.iter().map(|key| format!("mg {key} v f c")).collect();
    assert_eq!(server.lines(), asked);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn waiting_in_vain_for_a_connection_is_not_the_servers_fault() {
    let server = Scripted::start(|line| match line {
        "mg slow v f c" => Act::Silence,
        _ => Act::Answer("EN\r\n"),
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_connections_max(1)
        .with_operation_timeout(Duration::from_secs(1))
        .with_backoff(2, Duration::from_secs(600));
    let cache = Client::connect(config).await.unwrap();
    let slow = cache.get("slow");
    let others = join_all((0..10).map(|_| cache.get("k")));
    let (slow, others) = tokio::join!(slow, others);
    assert!(slow.is_err_and(|error| error.is_server_away()));
    // Whether the others came in after it, and how much time that left them, is their luck.
    for other in others {
        assert!(
            matches!(
                other,
                Ok(None) | Err(Error::Connect { .. } | Error::Lost { .. })
            ),
            "{other:?}"
        );
    }
    // At most the slow call was the server's fault: two would have killed it.
    let metrics = &cache.metrics()[0];
    assert_eq!((metrics.deaths, metrics.is_dead), (0, false), "{metrics:?}");
    assert!(metrics.failures <= 1, "{metrics:?}");
}

/// Fields of the events of one thread.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ibex_memcached_client")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = event.metadata().level().to_string();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            fields.push_str(&format!(" {}={value:?}", field.name()));
        });
        self.0.lock().unwrap().push(fields);
    }
}

/// Each exchange is an event below INFO, with the fields that a subscriber makes metrics of; so is each death.
#[tokio::test]
async fn exchanges_are_events() {
    let server = Scripted::start(|line| match line {
        "mg k v f c" => Act::Answer("EN\r\n"),
        _ => Act::Close,
    })
    .await;
    let config = patient([server.address.clone()])
        .with_protocol(Protocol::Meta)
        .with_backoff(1, Duration::from_secs(600));
    let cache = Client::connect(config).await.unwrap();
    let recorder = Recorder::default();
    let _guard = tracing::subscriber::set_default(recorder.clone());
    cache.get("k").await.unwrap();
    assert!(cache.delete("k").await.is_err());
    let events = recorder.0.lock().unwrap().clone();
    let name = format!("server={}", server.address);
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(
        events.iter().all(|event| event.contains(&name)),
        "{events:?}"
    );
    for (event, parts) in events.iter().zip([
        &["TRACE", "operation=\"get\"", "elapsed_us="][..],
        &["DEBUG", "server is dead"],
        &[
            "TRACE",
            "operation=\"delete\"",
            "elapsed_us=",
            "error=outcome of delete",
        ],
    ]) {
        assert!(
            parts.iter().all(|part| event.contains(part)),
            "{event} {parts:?}"
        );
    }
}
